"""Reads raw configuration into typed values and gathers what is wrong with it.

A value that can't be used is replaced by a harmless one of its type, so that reading goes on and one run reports
every problem.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence


class Reader:
    """One level of configuration. `problems` is shared with the sections below."""

    def __init__(
        self,
        raw: Mapping[str, object],
        namespace: str,
        stack_file: str,
        path: str = "",
        problems: list[str] | None = None,
    ) -> None:
        self._raw = raw
        self._namespace = namespace
        self._stack_file = stack_file
        self._path = path
        self._seen: set[str] = set()
        self.problems: list[str] = [] if problems is None else problems

    def problem(self, key: str, what: str, allowed: str) -> None:
        """Record one: `key` is relative to this level."""
        self.problems.append(f"{self._namespace}:{self._path}{key} {what} (allowed: {allowed})")

    def has(self, key: str) -> bool:
        """Is it set at all?"""
        self._seen.add(key)
        return self._raw.get(key) is not None

    def text(self, key: str, pattern: str, allowed: str, *, default: str | None = None, secret: bool = False) -> str:
        """A string that matches `pattern` whole. A secret's value never is in the message."""
        value = self._take(key, allowed, default)
        if value is None:
            return ""
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if re.fullmatch(pattern, text):
            return text
        self.problem(key, "has an unusable value" if secret else f"is {value!r}", allowed)
        return ""

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """A whole number within [low, high]."""
        allowed = f"a whole number from {low} to {high}"
        value = self._take(key, allowed, default)
        if value is None:
            return low
        number = _whole(value)
        if number is not None and low <= number <= high:
            return number
        self.problem(key, f"is {value!r}", allowed)
        return low

    def boolean(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self._take(key, "true or false", default)
        if value in (True, "true"):
            return True
        if value not in (False, "false"):
            self.problem(key, f"is {value!r}", "true or false")
        return False

    def choice(self, key: str, allowed: Sequence[str], *, default: str | None = None) -> str:
        """One of `allowed`."""
        listed = ", ".join(allowed)
        value = self._take(key, listed, default)
        if value is None:
            return allowed[0]
        if value in allowed:
            return str(value)
        self.problem(key, f"is {value!r}", listed)
        return allowed[0]

    def choices(self, key: str, allowed: Sequence[str], *, default: Sequence[str], joined_by: str) -> tuple[str, ...]:
        """A list, not empty, of entries that are one of `allowed` or several of them joined ("a", "b+c")."""
        listed = f'a list of {", ".join(allowed)}, or of several joined by "{joined_by}"'
        values = self._list(key, listed, default)
        for value in values:
            if not isinstance(value, str) or not set(value.split(joined_by)) <= set(allowed):
                self.problem(key, f"has {value!r}", listed)
        return tuple(str(value) for value in values)

    def cidr(self, key: str, *, private: bool = False) -> str:
        """An IPv4 network; `private`: of the ranges that DigitalOcean takes for a VPC."""
        allowed = "an IPv4 network such as 10.10.1.0/24" + (", private, /16 to /28" if private else "")
        value = self._take(key, allowed, None)
        if value is None:
            return ""
        network = _network(value)
        if network is None or (private and not (network.is_private and 16 <= network.prefixlen <= 28)):
            self.problem(key, f"is {value!r}", allowed)
            return ""
        return str(network)

    def cidrs(self, key: str) -> tuple[str, ...]:
        """A list of IPv4 or IPv6 networks, not empty."""
        allowed = 'a list of networks such as ["203.0.113.7/32"]'
        values = self._list(key, allowed, None)
        for value in values:
            if _any_network(value) is None:
                self.problem(key, f"has {value!r}", allowed)
        return tuple(str(value) for value in values)

    def texts(self, key: str, pattern: str, allowed: str) -> tuple[str, ...]:
        """A list, not empty, of strings that match `pattern` whole."""
        listed = f"a list, each {allowed}"
        values = self._list(key, listed, None)
        for value in values:
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                self.problem(key, f"has {value!r}", listed)
        return tuple(str(value) for value in values)

    def addresses(self, key: str, *, default: Sequence[str]) -> tuple[str, ...]:
        """A list of IPv4 addresses, not empty."""
        allowed = 'a list of IPv4 addresses such as ["1.1.1.1", "9.9.9.9"]'
        values = self._list(key, allowed, default)
        for value in values:
            network = _network(value)
            if network is None or network.prefixlen != 32:
                self.problem(key, f"has {value!r}", allowed)
        return tuple(str(value) for value in values)

    def section(self, key: str, *, optional: bool = False) -> Reader:
        """The level below `key`; empty (and a problem, unless `optional`) when it is missing or no mapping."""
        value = self._take(key, "a mapping", {} if optional else None)
        if value is not None and not isinstance(value, Mapping):
            self.problem(key, f"is {value!r}", "a mapping")
            value = None
        if value is None:  # one problem is enough: what is read below goes to a list that nobody shows
            return Reader({}, self._namespace, self._stack_file, f"{self._path}{key}.", [])
        inner = {str(name): item for name, item in value.items()}
        return Reader(inner, self._namespace, self._stack_file, f"{self._path}{key}.", self.problems)

    def finish(self) -> None:
        """Keys that nobody read are typing mistakes, not wishes to be ignored."""
        for key in sorted(set(self._raw) - self._seen):
            self.problem(key, "is not a key of this configuration", ", ".join(sorted(self._seen)))

    def _take(self, key: str, allowed: str, default: object) -> object | None:
        self._seen.add(key)
        value = self._raw.get(key)
        if value is None:
            value = default
        if value is None:
            self.problem(key, "is missing", allowed)
        return value

    def _list(self, key: str, allowed: str, default: Sequence[str] | None) -> list[object]:
        value = self._take(key, allowed, default)
        if value is None:
            return []
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            self.problem(key, f"is {value!r}", allowed)
            return []
        return list(value)


def structured(value: object) -> object:
    """Pulumi hands structured values over as JSON text: objects and lists are decoded, all else is left alone."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d+", value) else None


def _any_network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        return None


def _network(value: object) -> ipaddress.IPv4Network | None:
    network = _any_network(value)
    return network if isinstance(network, ipaddress.IPv4Network) else None
