"""What the servicer asks of a resource type: properties as data, and four verbs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = dict[str, Any]


class ProviderError(Exception):
    """The cloud refused, or can't be reached; the message goes to the operator."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Prop:
    """An input property. `name` as Pulumi writes it; `api` as the cloud does ("" : the cloud knows nothing of it)."""

    name: str
    api: str = ""
    required: bool = False
    replaces: bool = False
    reads: bool = True  # False: the cloud never says what it is, so drift is invisible
    to_api: Callable[[Any], Any] = _same
    from_api: Callable[[Any], Any] = _same


@dataclass(frozen=True)
class Live:
    """What exists: input properties as the cloud shows them, and what only the cloud decides."""

    inputs: Mapping[str, Any]
    computed: Mapping[str, Any]


@dataclass(frozen=True)
class Created:
    """A new resource's id, and what the cloud tells this one time only (secrets)."""

    id: str
    once: Mapping[str, Any] = field(default_factory=dict)


class Kind(ABC):
    """A resource type. Methods raise `ProviderError`; they run in many threads at once."""

    token: str
    props: tuple[Prop, ...]
    computed: tuple[str, ...]  # outputs that a preview can't know
    autonamed: bool = False  # an omitted `name` is made up, with a random suffix

    @abstractmethod
    def create(self, inputs: Values) -> Created:
        """Make it; returns as soon as there is an id."""

    def settle(self, identity: str, inputs: Values) -> None:  # noqa: B027  (most types are ready at once)
        """Wait until it is usable, and finish what needs an id.

        A failure here leaves the resource in the state, marked.
        """

    def imported(self, identity: str) -> tuple[str, Values]:
        """(id, what `read` needs beside it) of what somebody wants to import under this name."""
        return identity, {}

    @abstractmethod
    def read(self, identity: str, state: Values) -> Live | None:
        """What exists now; None when it doesn't. `state`: the last known outputs, {} on import."""

    @abstractmethod
    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        """Bring it from `old` inputs to `new` ones."""

    @abstractmethod
    def delete(self, identity: str, state: Values) -> None:
        """Remove it. Gone already is fine: unlike the real providers, some of which fail then."""

    def prop(self, name: str) -> Prop | None:
        """The input property of that name."""
        return next((prop for prop in self.props if prop.name == name), None)
