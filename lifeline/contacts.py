"""Whom a host calls, by which way, and after how long: the stack's ``alerting``. Pure values; the keys are secrets.

The ladder is the procedures': level 1 is what happens by itself; from then on people are called, each level after its
time, until somebody acknowledges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from lifeline.schema import At

LEVELS: tuple[str, ...] = ("on-call", "senior", "cto")
TITLES: Mapping[str, str] = {"on-call": "L2 on-call engineer", "senior": "L3 senior engineer", "cto": "L4 CTO"}
AFTER_S: Mapping[str, float] = {"on-call": 300.0, "senior": 900.0, "cto": 1800.0}
EVENTS_URL = "https://events.pagerduty.com/v2/enqueue"
API_URL = "https://api.pagerduty.com"
Tls = Literal["starttls", "tls", "none"]
TLS: tuple[Tls, ...] = ("starttls", "tls", "none")


@dataclass(frozen=True)
class PagerDuty:
    """Integration keys of Events API v2 by level: one integration each, so that each level's own people are called.
    ``api_token``: read-only, of the REST API; with it an acknowledgement in PagerDuty is heard here."""

    keys: Mapping[str, str] = field(repr=False)
    api_token: str | None = field(default=None, repr=False)
    events_url: str = EVENTS_URL
    api_url: str = API_URL

    @classmethod
    def read(cls, at: At) -> PagerDuty:
        return cls(
            {level: at.at("keys").text(level) for level in LEVELS if at.at("keys").has(level)},
            at.optional_text("api_token"),
            at.text("events_url", EVENTS_URL),
            at.text("api_url", API_URL),
        )


@dataclass(frozen=True)
class Webhook:
    """A URL that is told of everything. ``secret``: with which what is sent is signed."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, at: At) -> Webhook:
        return cls(at.text("url"), at.optional_text("secret"))


@dataclass(frozen=True)
class Email:
    """A mail server, and the addresses by level."""

    host: str
    port: int
    tls: Tls
    sender: str
    to: Mapping[str, tuple[str, ...]]
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, at: At) -> Email:
        addresses = at.at("to")
        return cls(
            host=at.text("host"),
            port=at.integer("port", least=1, most=65535),
            tls=cast(Tls, at.choice("tls", TLS, "starttls")),
            sender=at.text("sender"),
            to={level: addresses.texts(level) for level in LEVELS if addresses.has(level)},
            user=at.optional_text("user"),
            password=at.optional_text("password"),
        )


@dataclass(frozen=True)
class Heartbeat:
    """A monitor outside that alerts when it isn't asked for: the URL, in which ``{host}`` is the host's name."""

    url: str = field(repr=False)
    every_s: float = 60.0

    @classmethod
    def read(cls, at: At) -> Heartbeat:
        return cls(at.text("url"), at.number("every_s", cls.every_s, least=1))


@dataclass(frozen=True)
class Contacts:
    """All of it; what isn't there isn't used."""

    pagerduty: PagerDuty | None = None
    webhook: Webhook | None = None
    email: Email | None = None
    heartbeat: Heartbeat | None = None
    after_s: Mapping[str, float] = field(default_factory=lambda: dict(AFTER_S))

    @classmethod
    def read(cls, at: At) -> Contacts:
        """Whatever the inventory leaves out has its default."""
        after = at.at("after_s", {})
        return cls(
            PagerDuty.read(at.at("pagerduty")) if at.has("pagerduty") else None,
            Webhook.read(at.at("webhook")) if at.has("webhook") else None,
            Email.read(at.at("email")) if at.has("email") else None,
            Heartbeat.read(at.at("heartbeat")) if at.has("heartbeat") else None,
            {level: after.number(level, AFTER_S[level], least=0) for level in LEVELS},
        )

    def to_json(self) -> dict[str, Any]:
        """The document again; holds secrets."""
        return asdict(self)

    def secrets(self) -> Iterator[str]:
        """Every secret string, for redaction."""
        pager, webhook, email, heartbeat = self.pagerduty, self.webhook, self.email, self.heartbeat
        found = [*pager.keys.values(), pager.api_token] if pager else []
        found += [webhook.url, webhook.secret] if webhook else []
        found += [email.password] if email else []
        yield from (secret for secret in [*found, heartbeat.url if heartbeat else None] if secret)

    @property
    def channels(self) -> tuple[str, ...]:
        """The ways there are, each with a queue of its own."""
        found = [f"pagerduty-{level}" for level in LEVELS if self.pagerduty and level in self.pagerduty.keys]
        found += ["webhook"] if self.webhook else []
        return tuple([*found, *(["email"] if self.email and self.email.to else [])])
