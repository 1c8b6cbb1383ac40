"""The directions of docs/design.md, enforced: who may import whom, by reading every module's imports.

A rule is a pure function from a module to complaints; the last tests show each rule complaining.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ROOMS = ("lifeline", "runbooks", "lab", "infra", "services", "toolchain")

# Which rooms a room may import besides itself. `infra` and `toolchain` are narrower still: see below.
DIRECTIONS: dict[str, set[str]] = {
    "fabfile": {"runbooks", "lifeline", "lab"},
    "runbooks": {"lifeline", "toolchain"},  # provisioning ships the wheelhouse that the toolchain fetched
    "lifeline": set(),
    "lab": {"runbooks", "lifeline", "toolchain"},
    "infra": {"lifeline"},
    "services": set(),  # a service knows the contract (environment, agent socket), not the library
    "toolchain": {"lifeline"},
}
# What `infra` may know of Lifeline: the values that the two agree on. `toolchain` runs before anything is installed.
PARTS_OF_LIFELINE = {"infra": {"lifeline.model", "lifeline.contacts"}, "toolchain": {"lifeline.errors"}}

# Libraries with one door each: (library, modules or packages that may import it).
DOORS: dict[str, tuple[str, ...]] = {
    "pulumi": ("infra", "lab.providers"),
    "pulumi_digitalocean": ("infra",),
    "pulumi_aws": ("infra",),
    "fabric": ("lifeline.hosts", "fabfile"),  # the fabfile takes its @task from there, and nothing else
    "invoke": ("lifeline.hosts", "fabfile"),
    "paramiko": ("lifeline.hosts",),
    "boto3": ("lifeline.vault", "lifeline.accounts", "lab"),
    "botocore": ("lifeline.vault", "lifeline.accounts", "lab"),
    "fastapi": ("lab",),
    "moto": ("lab",),
    # An opener reads every certificate of the system: what a host asks of itself goes through lifeline.loopback.
    "urllib.request": ("lifeline.delivery", "lab", "services", "toolchain"),
}
# The library and the runbooks start programs through two doors: `hosts` on the operator's side, `proc` on a host.
SUBPROCESS_DOORS = ("lifeline.hosts", "lifeline.proc")

PURE = (
    "lifeline.model",
    "lifeline.decide",
    "lifeline.admission",
    "lifeline.lookout",
    "lifeline.ledger",
    "lifeline.schedule",
    "lifeline.alerts",
    "lifeline.contacts",
    "lifeline.duties",
    "lifeline.escalation",
    "lifeline.incidents",
    "lifeline.moments",
    "lifeline.objectives",
    "lifeline.postmortem",
    "lifeline.triggers",
    "lifeline.trouble",
    "lifeline.damage",
)
IMPURE_MODULES = frozenset(
    {
        *("os", "io", "pathlib", "shutil", "tempfile", "socket", "ssl", "select", "selectors", "subprocess", "signal"),
        *("threading", "multiprocessing", "asyncio", "concurrent", "time", "random", "secrets", "sqlite3", "urllib"),
        *("http", "ftplib", "smtplib", "logging", "httpx", "requests", "apsw", "boto3", "botocore", "fabric"),
    }
)
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
CLOCK_METHODS = frozenset({"now", "utcnow", "today"})  # of datetime and date: the time is a field, not a question
PURE_NEIGHBOURS = frozenset({*PURE, "lifeline.errors", "lifeline.schema"})


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, and what it says."""

    name: str
    tree: ast.Module
    package: bool = False

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    def imports(self) -> Iterator[str]:
        """Every name imported anywhere in it, dotted and absolute; ``from a import b`` gives ``a.b``."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        up = node.level - 1 if self.package else node.level
        return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def within(name: str, parents: tuple[str, ...]) -> bool:
    """Whether a dotted name is a parent or inside one: ``pulumi.runtime`` is in ``pulumi``, ``pulumi_aws`` isn't."""
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def directions(module: Module) -> Iterator[str]:
    allowed = DIRECTIONS[module.room] | {module.room}
    for name in module.imports():
        room = name.partition(".")[0]
        if room in DIRECTIONS and room not in allowed:
            yield f"{module.name} imports {name}: {module.room} may import only {sorted(allowed)}"
        parts = PARTS_OF_LIFELINE.get(module.room)
        if room == "lifeline" and parts and not within(name, tuple(parts)):
            yield f"{module.name} imports {name}: of lifeline, {module.room} may import only {sorted(parts)}"


def doors(module: Module) -> Iterator[str]:
    for name in module.imports():
        for library, keepers in DOORS.items():
            if within(name, (library,)) and not within(module.name, keepers):
                yield f"{module.name} imports {name}: only {', '.join(keepers)} may"
        behind_doors = module.room in ("lifeline", "runbooks", "fabfile") and module.name not in SUBPROCESS_DOORS
        if behind_doors and within(name, ("subprocess",)):
            yield f"{module.name} imports {name}: only {', '.join(SUBPROCESS_DOORS)} may start programs"


def purity(module: Module) -> Iterator[str]:
    if module.name not in PURE:
        return
    for name in module.imports():
        if name.partition(".")[0] in IMPURE_MODULES:
            yield f"{module.name} imports {name}: it must do no I/O and read no clock"
        if within(name, ("lifeline",)) and not within(name, tuple(PURE_NEIGHBOURS)):
            yield f"{module.name} imports {name}: of lifeline, pure modules may import only pure ones"
    for call in (node for node in module.nodes if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in IMPURE_CALLS:
            yield f"{module.name}:{call.lineno} calls {call.func.id}()"
        if isinstance(call.func, ast.Attribute) and call.func.attr in CLOCK_METHODS:
            yield f"{module.name}:{call.lineno} asks the clock: the time is an argument"


def bare_toolchain(module: Module) -> Iterator[str]:
    """The toolchain runs with the system's Python before there is a venv: the standard library has to do."""
    if module.room != "toolchain":
        return
    for name in module.imports():
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("lifeline", "toolchain"):
            yield f"{module.name} imports {name}: the toolchain runs before anything is installed"


def know_no_service(module: Module) -> Iterator[str]:
    """Nothing in the library or the runbooks knows the reference service."""
    if module.room not in ("lifeline", "runbooks", "infra"):
        return
    for node in module.nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            word = node.id if isinstance(node, ast.Name) else node.attr
            if "genesis" in word.lower():
                yield f"{module.name}:{node.lineno} names the service: {word}"


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (directions, doors, purity, bare_toolchain, know_no_service)


@cache
def read(file: Path) -> Module:
    relative = file.relative_to(PROJECT).with_suffix("")
    package = relative.name == "__init__"
    parts = relative.parts[:-1] if package else relative.parts
    return Module(".".join(parts), ast.parse(file.read_text(), str(file)), package)


def sources() -> list[Path]:
    files = [file for room in ROOMS for file in sorted((PROJECT / room).rglob("*.py"))]
    return [*files, *(file for file in [PROJECT / "fabfile.py"] if file.exists())]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_directions(rule: Callable[[Module], Iterator[str]]) -> None:
    complaints = [complaint for file in sources() for complaint in rule(read(file))]
    assert not complaints, "\n".join(complaints)


def test_the_walk_sees_the_house() -> None:
    """A walk that found nothing would pass every rule."""
    seen = {read(file).name for file in sources()}
    assert {"lifeline.model", "lifeline.errors", "infra.config", "lab.config", "toolchain.pulumi"} <= seen


def test_pure_modules_exist() -> None:
    missing = [name for name in PURE if not (PROJECT / (name.replace(".", "/") + ".py")).exists()]
    assert not missing, f"pure modules of the design that aren't there: {missing}"


VIOLATIONS = [
    (directions, "lifeline.x", "import runbooks.failover"),
    (directions, "lifeline.x", "def f():\n    from lab import config"),
    (directions, "runbooks.x", "from lab.config import REGIONS"),
    (directions, "infra.x", "from lifeline import vault"),
    (directions, "infra.x", "from lifeline.inventory import load"),
    (directions, "toolchain.x", "from lifeline.model import Host"),
    (directions, "lifeline.sub.x", "from ...runbooks import failover"),
    (doors, "lifeline.x", "import pulumi"),
    (doors, "lab.x", "from pulumi.runtime import rpc"),
    (doors, "lifeline.x", "from fabric import Connection"),
    (doors, "runbooks.x", "import boto3"),
    (doors, "lifeline.lease", "from botocore.exceptions import ClientError"),
    (doors, "lifeline.x", "import urllib.request"),
    (doors, "runbooks.x", "import subprocess"),
    (purity, "lifeline.decide", "from pathlib import Path"),
    (purity, "lifeline.decide", "from lifeline import hosts"),
    (purity, "lifeline.ledger", "rows = open('ledger.jsonl')"),
    (purity, "lifeline.model", "from datetime import datetime\nnow = datetime.now()"),
    (bare_toolchain, "toolchain.x", "import httpx"),
    (know_no_service, "lifeline.x", "genesis_tiers = 3"),
]


@pytest.mark.parametrize(("rule", "name", "source"), VIOLATIONS)
def test_each_rule_can_fail(rule: Callable[[Module], Iterator[str]], name: str, source: str) -> None:
    assert list(rule(Module(name, ast.parse(source))))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lab.providers.x", "import pulumi.runtime"),
        ("infra.x", "from lifeline.model import Host\nimport pulumi_aws as aws"),
        ("lab.x", "from toolchain import pulumi"),  # the toolchain's module of that name is not the library
        ("lifeline.hosts", "import fabric, subprocess"),
        ("lifeline.decide", "from lifeline.model import Host\nfrom datetime import timedelta"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    module = Module(name, ast.parse(source))
    assert not [complaint for rule in RULES for complaint in rule(module)]
