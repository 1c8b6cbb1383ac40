"""The engine's configuration: genesis.toml as shipped, overridden by the environment (Lifeline's, and service.env)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SHIPPED = Path(__file__).resolve().parent.parent / "genesis.toml"


class BadSetting(Exception):
    """A setting is missing or makes no sense; the message names it."""


@dataclass(frozen=True)
class Config:
    """Times in seconds. ``barrier_socket`` None: durability is async, nothing waits for the vault.

    ``exchanges``: the connections to the exchange by name, in order of preference; one book behind all of them.
    """

    host: str
    role: str
    epoch: int
    listen: tuple[str, int]
    database: Path
    state: Path
    logs: Path
    exchanges: Mapping[str, str]
    symbols: frozenset[str]
    exchange_timeout_s: float
    barrier_socket: Path | None
    barrier_timeout_s: float
    queue_limit: int
    memory_limit: int | None
    admin_faults: bool

    @classmethod
    def load(cls, env: Mapping[str, str], shipped: Path = SHIPPED) -> Config:
        """From the environment over the shipped file; BadSetting names what is wrong."""
        defaults = tomllib.loads(shipped.read_text(encoding="utf-8"))

        def setting(name: str, default: str) -> str:
            return env.get(name) or default

        durability = setting("GENESIS_DURABILITY", "vault")
        if durability not in ("vault", "async"):
            raise BadSetting(f'GENESIS_DURABILITY: "{durability}"; vault or async')
        socket = setting("LIFELINE_AGENT_SOCKET", "/run/lifeline/agent.sock")
        exchanges = {"main": _url("GENESIS_EXCHANGE", setting("GENESIS_EXCHANGE", ""))}
        if backup := env.get("GENESIS_EXCHANGE_BACKUP"):
            exchanges["backup"] = _url("GENESIS_EXCHANGE_BACKUP", backup)
        memory = setting("GENESIS_MEMORY_LIMIT_MB", str(defaults["memory_limit_mb"]))
        home = Path(setting("GENESIS_HOME", "/var/lib/genesis"))
        symbols = setting("GENESIS_SYMBOLS", ",".join(defaults["symbols"]))
        return cls(
            host=setting("LIFELINE_HOST", "localhost"),
            role=setting("LIFELINE_ROLE", "none"),
            epoch=_whole("LIFELINE_EPOCH", setting("LIFELINE_EPOCH", "0")),
            listen=(setting("GENESIS_ADDRESS", "0.0.0.0"), _whole("GENESIS_PORT", setting("GENESIS_PORT", "8080"))),
            database=home / "genesis.db",
            state=home / "state",
            logs=Path(setting("GENESIS_LOGS", "/var/log/genesis")),
            exchanges=exchanges,
            symbols=frozenset(symbol.strip() for symbol in symbols.split(",") if symbol.strip()),
            exchange_timeout_s=float(setting("GENESIS_EXCHANGE_TIMEOUT_S", str(defaults["exchange_timeout_s"]))),
            barrier_socket=Path(socket) if durability == "vault" else None,
            barrier_timeout_s=float(setting("GENESIS_BARRIER_TIMEOUT_S", str(defaults["barrier_timeout_s"]))),
            queue_limit=_whole("GENESIS_QUEUE_LIMIT", setting("GENESIS_QUEUE_LIMIT", str(defaults["queue_limit"]))),
            memory_limit=_whole("GENESIS_MEMORY_LIMIT_MB", memory) * (1 << 20) or None,
            admin_faults=env.get("GENESIS_ADMIN_FAULTS") == "1",
        )


def _url(name: str, text: str) -> str:
    if urlsplit(text).scheme != "http" or not urlsplit(text).hostname:
        raise BadSetting(f'{name}: "{text}"; http://HOST:PORT')
    return text.rstrip("/")


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise BadSetting(f'{name}: "{text}" is not a whole number')
    return int(text)
