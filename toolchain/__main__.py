"""``python3 -m toolchain PART``: make one part, or ``status`` to see what is there. The Makefile's door to here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from lifeline.errors import LifelineError
from toolchain import apt, image, pulumi, venv, wheels


def status() -> None:
    """What is there and what isn't, without making anything."""
    missing = apt.missing()
    parts = {
        "venv": str(venv.VENV) if (venv.VENV / "bin/python").exists() else "absent: make setup",
        "packages": f"missing {' '.join(missing)}: make setup-lab" if missing else "all there",
        "pulumi": str(pulumi.on_path() or (pulumi.path() if pulumi.path().is_dir() else "absent: make toolchain")),
        "image": str(image.path()) if image.path().is_dir() else "absent: make lab-image",
        "wheels": str(wheels.path()) if wheels.path().is_dir() else "absent: make setup-lab",
    }
    for name, found in parts.items():
        print(f"{name:9} {found}")


def say_path(ensure: Callable[[], object]) -> Callable[[], None]:
    return lambda: print(ensure())


PARTS: dict[str, Callable[[], None]] = {
    "venv": say_path(venv.ensure),
    "packages": apt.ensure,
    "pulumi": say_path(pulumi.ensure),
    "image": say_path(image.ensure),
    "wheels": say_path(wheels.ensure),
    "status": status,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="toolchain", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS), nargs="+")
    try:
        for part in parser.parse_args(argv).part:
            PARTS[part]()
    except LifelineError as error:
        print(f"toolchain: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("toolchain: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
