"""A text file that configures: whatever is wrong with it is said of the file."""

from __future__ import annotations

from pathlib import Path

from lifeline.errors import BadConfig


def read_text(path: Path, *, hint: str) -> str:
    """Its text; BadConfig when it can't be read, or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}", hint=hint) from None
    except UnicodeError:
        raise BadConfig(f"{path} is no text (UTF-8): is it the right file?", hint=hint) from None


def one_word(secret: str) -> bool:
    """May it go into a request's head? A space, an ellipsis or the end of a line came with it by copying."""
    return secret.isascii() and secret.isprintable() and not set(secret) & set(" \t")
