"""``python3 -m toolchain PART``: make one part, or ``status`` to see what is there. The Makefile's door to here."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lifeline.errors import LifelineError
from toolchain import apt, image, pulumi, venv, wheels
from toolchain.progress import say


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


def announce(parts: Sequence[str]) -> None:
    """What is about to take long, before it does: nobody should wonder whether to wait."""
    expected = {
        "packages": apt.EXPECTED_S if apt.missing() else 0,
        "pulumi": pulumi.expected_s(),
        "image": 0 if image.path().is_dir() else image.EXPECTED_S,
    }
    ahead = {part: expected[part] for part in parts if expected.get(part)}
    if len(ahead) > 1:
        steps = ", ".join(f"{part} {seconds} s" for part, seconds in ahead.items())
        say(f"to be made first, once: {steps}; about {math.ceil(sum(ahead.values()) / 60)} min in all")


PARTS: dict[str, Callable[[], Path | None]] = {
    "venv": venv.ensure,
    "packages": apt.ensure,
    "pulumi": pulumi.ensure,
    "image": image.ensure,
    "wheels": wheels.ensure,
    "status": status,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="toolchain", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS), nargs="+")
    parts = parser.parse_args(argv).part
    try:
        announce(parts)
        for part in parts:
            path = PARTS[part]()
            if path and len(parts) == 1:  # someone asked where it is; of a whole setup nobody wants to read that
                print(path)
    except LifelineError as error:
        print(f"toolchain: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("toolchain: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
