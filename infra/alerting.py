"""Whom the hosts call: the stack's `alerting`, typed, and as the inventory has it. Pure, like config.py.

Keys, tokens, passwords and URLs are secrets: set them with `pulumi config set --secret --path`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infra.reader import Reader
from lifeline.contacts import AFTER_S, API_URL, EVENTS_URL, LEVELS, TLS

_KEYS = {"on-call": "onCall", "senior": "senior", "cto": "cto"}  # levels, as the stack file writes them
_URL = (r"https?://\S+", "a URL")
_ADDRESS = (r"[^@\s,]+@[^@\s,]+", "an e-mail address")


@dataclass(frozen=True)
class EmailConfig:
    """A mail server, and addresses by level."""

    server: str
    tls: str
    sender: str
    user: str
    password: str
    to: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class AlertingConfig:
    """See lifeline.contacts. What isn't set is empty."""

    pagerduty: Mapping[str, str]
    api_token: str
    events_url: str
    api_url: str
    webhook_url: str
    webhook_secret: str
    email: EmailConfig | None
    heartbeat_url: str
    heartbeat_every_s: int
    after_s: Mapping[str, int]


def read(section: Reader) -> AlertingConfig:
    """What the stack file says; every problem goes to the reader."""
    pager, hook = section.section("pagerduty", optional=True), section.section("webhook", optional=True)
    beat = section.section("heartbeat", optional=True)
    key = (r"[A-Za-z0-9]{32}", "an integration key of Events API v2, 32 characters")
    found = AlertingConfig(
        pagerduty={level: value for level in LEVELS if (value := _secret(pager, f"{_KEYS[level]}Key", *key))},
        api_token=_secret(pager, "apiToken", r"\S+", "a read-only token of the REST API"),
        events_url=pager.text("eventsUrl", *_URL, default=EVENTS_URL),
        api_url=pager.text("apiUrl", *_URL, default=API_URL),
        webhook_url=_secret(hook, "url", *_URL),
        webhook_secret=_secret(hook, "secret", r"\S{8,}", "at least 8 characters"),
        email=_email(section.section("email")) if section.has("email") else None,
        heartbeat_url=_secret(beat, "url", *_URL),
        heartbeat_every_s=beat.integer("everyS", 5, 86400, default=60),
        after_s={
            level: section.integer(f"{_KEYS[level]}AfterS", 0, 86400, default=int(AFTER_S[level])) for level in LEVELS
        },
    )
    for inner in (pager, hook, beat):
        inner.finish()
    if found.pagerduty and "on-call" not in found.pagerduty:
        pager.problem("onCallKey", "is missing", "the key of those who are called first")
    if [found.after_s[level] for level in LEVELS] != sorted(found.after_s.values()):
        section.problem("seniorAfterS", "is out of order", "onCallAfterS, seniorAfterS, ctoAfterS, each later")
    return found


def _email(section: Reader) -> EmailConfig:
    server = (r"[A-Za-z0-9.-]+:[1-9]\d{1,4}", "a mail server as HOST:PORT, such as smtp.example.com:587")
    found = EmailConfig(
        server=section.text("server", *server),
        tls=section.choice("tls", TLS, default="starttls"),
        sender=section.text("from", *_ADDRESS),
        user=section.text("user", r".*", "the mail server's user", default=""),
        password=_secret(section, "password", r".+", "the mail server's password"),
        to={level: section.texts(_KEYS[level], *_ADDRESS) for level in LEVELS if section.has(_KEYS[level])},
    )
    section.finish()
    if "on-call" not in found.to:
        section.problem("onCall", "is missing", "a list of e-mail addresses: who is called first")
    return found


def _secret(section: Reader, key: str, pattern: str, allowed: str) -> str:
    return section.text(key, pattern, allowed, secret=True) if section.has(key) else ""


def inventory(config: AlertingConfig, secret: Callable[[str], Any]) -> dict[str, Any]:
    """As docs/design.md has it; `secret` marks what must not be shown."""
    email = config.email
    return {
        "pagerduty": {
            "keys": {level: secret(key) for level, key in config.pagerduty.items()},
            "api_token": secret(config.api_token) if config.api_token else None,
            **{"events_url": config.events_url, "api_url": config.api_url},
        }
        if config.pagerduty
        else None,
        "webhook": {
            "url": secret(config.webhook_url),
            "secret": secret(config.webhook_secret) if config.webhook_secret else None,
        }
        if config.webhook_url
        else None,
        "email": _email_inventory(email, secret) if email else None,
        "heartbeat": {"url": secret(config.heartbeat_url), "every_s": config.heartbeat_every_s}
        if config.heartbeat_url
        else None,
        "after_s": dict(config.after_s),
    }


def _email_inventory(email: EmailConfig, secret: Callable[[str], Any]) -> dict[str, Any]:
    host, _, port = email.server.partition(":")
    return {
        **{"host": host, "port": int(port), "tls": email.tls, "sender": email.sender},
        "to": {level: list(addresses) for level, addresses in email.to.items()},
        **{"user": email.user or None, "password": secret(email.password) if email.password else None},
    }
