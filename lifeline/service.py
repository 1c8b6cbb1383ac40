"""service.toml → Service: all that the library knows of the service it protects.  The schema is docs/service.md."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from lifeline.errors import BadConfig
from lifeline.reading import read_text
from lifeline.schema import At
from lifeline.triggers import Series, Trigger, selector

Durability = Literal["async", "vault"]
Expectation = Literal["no-rows", "rows"]
Rotation = Literal["rename", "truncate"]
WINDOW_MOST_S = 86_400
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
HOOKS = ("quiesce", "resume", "reconcile", "compare")
# Supervisor's program names share one namespace with the library's own programs.
_RESERVED = ("lifeline-agent", "lifeline-host", "lifeline-keeper", "litestream", "follower")


@dataclass(frozen=True)
class Database:
    """One SQLite database in WAL mode.  ``path`` is absolute, on the host.

    ``sentinel``: may Lifeline keep a table of its own in it?  Without it the measured RPO is not known.
    """

    name: str
    path: PurePosixPath
    sentinel: bool = True


@dataclass(frozen=True)
class Invariant:
    """SQL that must hold in every good copy: by default, a query that finds the violations and so returns no rows."""

    name: str
    database: str
    sql: str
    expect: Expectation


@dataclass(frozen=True)
class Hooks:
    """Commands (argv, like ``command``) the runbooks call on the host; empty: the service has none.

    quiesce: stop accepting work, finish what is begun; resume: the opposite; reconcile: agree with the world outside
    after a promotion (orders sent whose answer is unknown, say); compare: look, and print as JSON where it differs.
    """

    quiesce: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    reconcile: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """How an outsider proves that a write round-trips: a token written and read back over HTTP.

    ``{token}`` in the paths and the body stands for a fresh token.  The read-back must answer 200 with the token in it.
    """

    write_method: str
    write_path: str
    write_body: str
    read_path: str


@dataclass(frozen=True)
class Service:
    """A service as its service.toml describes it.  Times in seconds; paths absolute, on the host.

    ``command`` and hooks are argv; a relative program is looked up in the service's own folder of the bundle.
    ``metrics``: the path of the URL with its figures, which ``triggers`` judge; None: it has none.
    """

    name: str
    user: str
    command: tuple[str, ...]
    port: int
    health: str
    durability: Durability
    databases: tuple[Database, ...]
    start_within_s: float
    stop_within_s: float
    configuration: tuple[PurePosixPath, ...] = ()
    state: tuple[PurePosixPath, ...] = ()
    logs: tuple[PurePosixPath, ...] = ()
    log_rotation: Rotation = "rename"
    invariants: tuple[Invariant, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    probe: Probe | None = None
    metrics: str | None = None
    triggers: tuple[Trigger, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Service:
        """Read and validate a service.toml; BadConfig names the key and what is allowed."""
        return cls.parse(read_text(path, hint="docs/service.md describes service.toml"), str(path))

    @classmethod
    def parse(cls, text: str, source: str = "service.toml") -> Service:
        """The same from text; ``source`` names it in errors."""
        hint = "docs/service.md describes service.toml"
        try:
            at = At(tomllib.loads(text), source, hint=hint)
        except tomllib.TOMLDecodeError as error:
            raise BadConfig(f"{source}: {error}", hint=hint) from error
        return _service(at)

    def database(self, name: str) -> Database:
        """The database of that name; KeyError when there is none."""
        for database in self.databases:
            if database.name == name:
                return database
        raise KeyError(name)

    def invariants_of(self, database: str) -> list[Invariant]:
        """Those that are asked of the database of that name."""
        return [invariant for invariant in self.invariants if invariant.database == database]


def _service(at: At) -> Service:
    at.only(
        {
            *("name", "user", "command", "port", "health", "durability", "start_within_s", "stop_within_s"),
            *("databases", "paths", "invariants", "hooks", "probe", "metrics", "triggers"),
        }
    )
    name = _name(at, "name")
    if name in _RESERVED:
        at.at("name").fail(f'"{name}" is taken by Lifeline itself')
    databases = tuple(_database(item) for item in at.each("databases"))
    if not databases:
        at.at("databases").fail("must hold at least one database: there is nothing to protect")
    _distinct(at.at("databases"), [database.name for database in databases])
    _distinct(at.at("databases"), [str(database.path) for database in databases])
    invariants = tuple(_invariant(item, databases) for item in at.each("invariants", []))
    if invariants:
        _distinct(at.at("invariants"), [invariant.name for invariant in invariants])
    paths, hooks = at.at("paths", {}), at.at("hooks", {})
    paths.only({"configuration", "state", "logs", "log_rotation"})
    hooks.only(set(HOOKS))
    return Service(
        name=name,
        user=_name(at, "user"),
        command=_argv(at, "command"),
        port=at.integer("port", least=1024, most=65535),
        health=_url_path(at, "health"),
        durability=cast(Durability, at.choice("durability", ("async", "vault"))),
        databases=databases,
        start_within_s=at.number("start_within_s", 30.0, least=1),
        stop_within_s=at.number("stop_within_s", 10.0, least=1),
        configuration=_paths(paths, "configuration"),
        state=_paths(paths, "state"),
        logs=_paths(paths, "logs"),
        log_rotation=cast(Rotation, paths.choice("log_rotation", ("rename", "truncate"), "rename")),
        invariants=invariants,
        hooks=Hooks(*(hooks.texts(key, []) for key in HOOKS)),
        probe=_probe(at.at("probe")) if at.has("probe") else None,
        metrics=_metrics(at.at("metrics")) if at.has("metrics") else None,
        triggers=_triggers(at),
    )


def _name(at: At, key: str) -> str:
    value = at.text(key)
    if not _NAME.fullmatch(value):
        at.at(key).fail(f'"{value}" is not allowed; lower-case letters, digits and "-", at most 31, a letter first')
    return value


def _argv(at: At, key: str) -> tuple[str, ...]:
    argv = at.texts(key)
    if not argv:
        at.at(key).fail('must name a program: ["bin/serve", "--port", "8080"]')
    return argv


def _absolute(at: At) -> PurePosixPath:
    path = PurePosixPath(at.value) if isinstance(at.value, str) else PurePosixPath()
    if not path.is_absolute() or ".." in path.parts:
        at.fail(f"{at.value!r} is not allowed; an absolute path on the host")
    return path


def _paths(at: At, key: str) -> tuple[PurePosixPath, ...]:
    return tuple(_absolute(item) for item in at.each(key, []))


def _url_path(at: At, key: str) -> str:
    value = at.text(key)
    if not value.startswith("/"):
        at.at(key).fail(f'"{value}" is not allowed; the path of a URL, beginning with "/"')
    return value


def _database(at: At) -> Database:
    at.only({"name", "path", "sentinel"})
    return Database(_name(at, "name"), _absolute(at.at("path")), at.flag("sentinel", True))


def _invariant(at: At, databases: tuple[Database, ...]) -> Invariant:
    at.only({"name", "database", "sql", "expect"})
    return Invariant(
        name=at.text("name"),
        database=at.choice("database", tuple(database.name for database in databases), databases[0].name),
        sql=at.text("sql"),
        expect=cast(Expectation, at.choice("expect", ("no-rows", "rows"), "no-rows")),
    )


def _probe(at: At) -> Probe:
    at.only({"write_method", "write_path", "write_body", "read_path"})
    probe = Probe(
        write_method=at.choice("write_method", ("POST", "PUT"), "POST"),
        write_path=_url_path(at, "write_path"),
        write_body=at.text("write_body", ""),
        read_path=_url_path(at, "read_path"),
    )
    if "{token}" not in probe.write_path + probe.write_body:
        at.fail("{token} must be in write_path or write_body: a probe that writes nothing of its own proves nothing")
    if "{token}" not in probe.read_path:
        at.at("read_path").fail('must hold "{token}"')
    return probe


def _metrics(at: At) -> str:
    at.only({"path"})
    return _url_path(at, "path")


def _triggers(at: At) -> tuple[Trigger, ...]:
    triggers = tuple(_trigger(item) for item in at.each("triggers", []))
    if triggers:
        _distinct(at.at("triggers"), [trigger.name for trigger in triggers])
        if not at.has("metrics"):
            at.at("triggers").fail("need [metrics] with its path: where else would their figures come from?")
    return triggers


def _trigger(at: At) -> Trigger:
    at.only({"name", "metric", "increase", "above", "within_s"})
    if at.has("increase") is at.has("above"):
        at.fail("needs exactly one threshold: increase (of a counter) or above (of a gauge)")
    trigger = Trigger(
        name=at.text("name"),
        metric=_selector(at),
        within_s=at.number("within_s", least=1),
        increase=at.number("increase") if at.has("increase") else None,
        above=at.number("above") if at.has("above") else None,
    )
    if trigger.within_s > WINDOW_MOST_S:
        at.at("within_s").fail(f"{trigger.within_s:g} is not allowed; at most a day ({WINDOW_MOST_S})")
    if trigger.increase is not None and trigger.increase <= 0:
        at.at("increase").fail(f"{trigger.increase:g} is not allowed; above 0, or it would always fire")
    return trigger


def _selector(at: At) -> Series:
    try:
        return selector(at.text("metric"))
    except ValueError as error:
        at.at("metric").fail(str(error))


def _distinct(at: At, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            at.fail(f'"{value}" appears twice')
