"""Reading a tree of plain values (JSON, TOML) into typed ones, with errors that name the path.  No I/O.

``At`` is a cursor: a value, and the path it was found at.  Every error says where, what was found and what is allowed:
``service.toml: databases[0].path: "relative.db" is not allowed; an absolute path``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from lifeline.errors import BadConfig

_MISSING: Any = object()


class At:
    """A value and where it was found.  ``source`` names the document ("inventory", "service.toml")."""

    def __init__(self, value: Any, source: str, path: str = "", hint: str = "") -> None:
        self.value = value
        self.source = source
        self.path = path
        self.hint = hint

    def fail(self, problem: str) -> NoReturn:
        """Raise BadConfig for this place."""
        where = f"{self.source}: {self.path}" if self.path else self.source
        raise BadConfig(f"{where}: {problem}", hint=self.hint)

    def _child(self, key: str, value: Any) -> At:
        return At(value, self.source, f"{self.path}.{key}" if self.path else key, self.hint)

    def has(self, key: str) -> bool:
        """Is the key there, and not null?"""
        return self._table().get(key) is not None

    def at(self, key: str, default: Any = _MISSING) -> At:
        """The value under ``key``; missing or null without a default is an error."""
        value = self._table().get(key)
        if value is None:
            if default is _MISSING:
                self._child(key, None).fail("is missing")
            value = default
        return self._child(key, value)

    def each(self, key: str, default: Any = _MISSING) -> Iterator[At]:
        """The items of the list under ``key``."""
        child = self.at(key, default)
        if isinstance(child.value, str | Mapping) or not isinstance(child.value, Sequence):
            child.fail("must be a list")
        for index, item in enumerate(child.value):
            yield At(item, self.source, f"{child.path}[{index}]", self.hint)

    def names(self) -> list[str]:
        """The keys of the table."""
        return [str(key) for key in self._table()]

    def only(self, allowed: Collection[str]) -> None:
        """No keys but these: a misspelt key must not be silently ignored."""
        for key in self._table():
            if key not in allowed:
                self._child(str(key), None).fail(f"is not known; allowed here: {', '.join(sorted(allowed))}")

    def _table(self) -> Mapping[str, Any]:
        if not isinstance(self.value, Mapping):
            self.fail("must be a table of keys and values")
        return self.value

    def text(self, key: str, default: Any = _MISSING) -> str:
        """A non-empty string."""
        child = self.at(key, default)
        if not isinstance(child.value, str) or (child.value == "" and default is _MISSING):
            child.fail("must be a non-empty string")
        return child.value

    def optional_text(self, key: str) -> str | None:
        """A non-empty string, or None when missing or null."""
        return self.text(key) if self.has(key) else None

    def choice(self, key: str, allowed: Sequence[str], default: Any = _MISSING) -> str:
        """One of the words allowed."""
        value = self.text(key, default)
        if value not in allowed:
            self._child(key, value).fail(f'"{value}" is not allowed; one of: {", ".join(allowed)}')
        return value

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """true or false."""
        child = self.at(key, default)
        if not isinstance(child.value, bool):
            child.fail("must be true or false")
        return child.value

    def integer(self, key: str, default: Any = _MISSING, *, least: int | None = None, most: int | None = None) -> int:
        """A whole number within bounds."""
        child = self.at(key, default)
        if isinstance(child.value, bool) or not isinstance(child.value, int):
            child.fail("must be a whole number")
        _bounds(child, least, most)
        return int(child.value)

    def number(self, key: str, default: Any = _MISSING, *, least: float | None = None) -> float:
        """A number (seconds, mostly), at least ``least``."""
        child = self.at(key, default)
        if isinstance(child.value, bool) or not isinstance(child.value, int | float):
            child.fail("must be a number")
        _bounds(child, least, None)
        return float(child.value)

    def texts(self, key: str, default: Any = _MISSING) -> tuple[str, ...]:
        """A list of non-empty strings."""
        found = []
        for item in self.each(key, default):
            if not isinstance(item.value, str) or not item.value:
                item.fail("must be a non-empty string")
            found.append(item.value)
        return tuple(found)


def _bounds(child: At, least: float | None, most: float | None) -> None:
    if least is not None and child.value < least:
        child.fail(f"{child.value} is not allowed; at least {least}")
    if most is not None and child.value > most:
        child.fail(f"{child.value} is not allowed; at most {most}")
