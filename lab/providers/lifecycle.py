"""What every resource type has in common: checking, comparing, and merging what was asked for with what exists.

Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lab.providers.kind import Kind, Live, Values
from lab.providers.values import UNKNOWN, same, unknown_within

DEFAULTS_MARK = "__defaults"  # the real, bridged providers leave this in states that they wrote


@dataclass(frozen=True)
class Change:
    """One input property that differs. `how`: add, update or delete."""

    name: str
    how: str
    replaces: bool


def check(kind: Kind, old: Values, new: Values, resource: str, seed: bytes) -> tuple[Values, list[tuple[str, str]]]:
    """The inputs to work with, and (property, reason) for each that is unusable."""
    inputs = {name: value for name, value in new.items() if name != DEFAULTS_MARK}
    if kind.autonamed and "name" not in inputs:
        inputs["name"] = old.get("name") or f"{resource}-{hashlib.sha256(seed).hexdigest()[:7]}"
    failures = [
        (prop.name, f"is required by {kind.token}") for prop in kind.props if prop.required and prop.name not in inputs
    ]
    known = {prop.name for prop in kind.props}
    failures += [
        (name, f"is not supported by the lab's stand-in for {kind.token}") for name in sorted(set(inputs) - known)
    ]
    return inputs, failures


def diff(kind: Kind, old: Values, new: Values, ignored: set[str]) -> list[Change]:
    """What differs between two sets of inputs.

    An unknown value counts as a change: a preview can't promise otherwise.
    """
    changes = []
    for prop in kind.props:
        if prop.name in ignored:
            continue
        before, after = old.get(prop.name), new.get(prop.name)
        if not unknown_within(after) and same(before, after):
            continue
        how = "add" if before is None else "delete" if after is None else "update"
        changes.append(Change(prop.name, how, prop.replaces))
    return changes


def planned(kind: Kind, inputs: Values, state: Values) -> Values:
    """Outputs of a preview: inputs as given, computed ones as they are or unknown."""
    return {**{name: state.get(name, UNKNOWN) for name in kind.computed}, **inputs}


def inputs_now(kind: Kind, recorded: Values, live: Live) -> Values:
    """The recorded inputs, corrected by what exists; all that exists when nothing was recorded (an import).

    A value that means the same as the recorded one keeps the recorded spelling, so that a refresh without drift
    changes nothing.
    """
    if not recorded:
        return {name: value for name, value in live.inputs.items() if not same(value, None)}
    current = dict(recorded)
    for prop in kind.props:
        if not prop.reads or prop.name not in live.inputs or prop.name not in recorded:
            continue
        value = live.inputs[prop.name]
        if not same(value, recorded[prop.name]):
            current[prop.name] = value
    return current


def outputs_now(inputs: Values, live: Live, state: Values) -> Values:
    """State to keep: inputs, what the cloud decides, and what it told once only (secrets)."""
    computed = {name: state.get(name) if value is None else value for name, value in live.computed.items()}
    return {**computed, **inputs}
