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
    """Times in seconds. ``barrier_socket`` None: durability is async, nothing waits for the vault."""

    host: str
    role: str
    epoch: int
    listen: tuple[str, int]
    database: Path
    state: Path
    logs: Path
    exchange: str
    symbols: frozenset[str]
    exchange_timeout_s: float
    barrier_socket: Path | None
    barrier_timeout_s: float

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
        exchange = setting("GENESIS_EXCHANGE", "")
        if urlsplit(exchange).scheme != "http" or not urlsplit(exchange).hostname:
            raise BadSetting(f'GENESIS_EXCHANGE: "{exchange}"; http://HOST:PORT')
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
            exchange=exchange.rstrip("/"),
            symbols=frozenset(symbol.strip() for symbol in symbols.split(",") if symbol.strip()),
            exchange_timeout_s=float(setting("GENESIS_EXCHANGE_TIMEOUT_S", str(defaults["exchange_timeout_s"]))),
            barrier_socket=Path(socket) if durability == "vault" else None,
            barrier_timeout_s=float(setting("GENESIS_BARRIER_TIMEOUT_S", str(defaults["barrier_timeout_s"]))),
        )


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadSetting(f'{name}: "{text}" is not a whole number') from None
