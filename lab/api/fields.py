"""Reading request bodies: typed, with DigitalOcean's 422 when a field is not what it must be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lab.api.errors import unprocessable


def string(body: dict[str, Any], key: str, *, required: bool = False, default: str = "", longest: int = 0) -> str:
    """A string field; null counts as absent."""
    value = body.get(key)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise unprocessable(f"{key} must be a string")
    if required and not value.strip():
        raise unprocessable(f"{_label(key)} can't be blank")
    if longest and len(value) > longest:
        raise unprocessable(f"{_label(key)} is too long (maximum is {longest} characters)")
    return value


def boolean(body: dict[str, Any], key: str, *, default: bool = False) -> bool:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise unprocessable(f"{key} must be a boolean")
    return value


def integer(body: dict[str, Any], key: str, *, default: int | None = None) -> int | None:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise unprocessable(f"{key} must be an integer")
    return value


def strings(body: dict[str, Any], key: str) -> list[str]:
    """A list of strings; null and absent are empty."""
    value = body.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise unprocessable(f"{key} must be an array of strings")
    return list(value)


def integers(body: dict[str, Any], key: str) -> list[int]:
    value = body.get(key) or []
    if not isinstance(value, list):
        raise unprocessable(f"{key} must be an array of integers")
    try:
        return [int(item) for item in value]  # doctl and some SDKs send ids as strings
    except (TypeError, ValueError):
        raise unprocessable(f"{key} must be an array of integers") from None


def objects(body: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = body.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise unprocessable(f"{key} must be an array of objects")
    return list(value)


def choice(body: dict[str, Any], key: str, allowed: Collection[str], *, default: str | None = None) -> str:
    value = body.get(key)
    if value is None:
        value = default
    if value not in allowed:
        raise unprocessable(f"{key} is invalid: must be one of {', '.join(sorted(allowed))}")
    return str(value)


def _label(key: str) -> str:
    return key.replace("_", " ").capitalize()
