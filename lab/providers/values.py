"""Property values on the wire (protobuf Struct) and in Python.

Secrets and outputs don't come here: the stand-ins tell the engine that they don't take them, and the engine then
marks as secret what the program or the state marks. What remains special is the unknown value, which a preview sends
for what only an `up` will know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format, struct_pb2
from pulumi.runtime.rpc import UNKNOWN as UNKNOWN_ON_WIRE


class Unknown:
    """The one value that isn't known yet."""

    def __repr__(self) -> str:
        return "<unknown>"


UNKNOWN: Final = Unknown()


def decode(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Struct → dict; whole numbers are ints again, nulls are left out as if they were not set."""
    return {key: _decode(value) for key, value in json_format.MessageToDict(struct).items() if value is not None}


def encode(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """dict → Struct; None is left out."""
    struct = struct_pb2.Struct()
    struct.update({key: _encode(value) for key, value in values.items() if value is not None})
    return struct


def unknown_within(value: object) -> bool:
    """Is the value, or anything in it, unknown?"""
    if isinstance(value, Mapping):
        return any(unknown_within(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(unknown_within(item) for item in value)
    return value is UNKNOWN


def same(one: Any, other: Any) -> bool:
    """Equal as configuration: nothing, an empty list and an empty mapping are the same wish; lists of plain values
    are sets.
    """
    return bool(_canonical(one) == _canonical(other))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = ((key, _canonical(value[key])) for key in sorted(value))
        return {key: item for key, item in items if item is not None} or None
    if isinstance(value, list | tuple):
        return sorted((_canonical(item) for item in value), key=repr) or None
    if isinstance(value, bool | str):
        return value if value != "" else None
    return float(value) if isinstance(value, int) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return UNKNOWN if value == UNKNOWN_ON_WIRE else value


def _encode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return UNKNOWN_ON_WIRE if value is UNKNOWN else value
