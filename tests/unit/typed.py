"""Commands as documents have them, read by fab's own parser: a verb or an option that is gone is found."""

from __future__ import annotations

import functools
import shlex
from typing import Any

from invoke.exceptions import ParseError
from invoke.parser import Parser

import fabfile


def parsed(command: str) -> tuple[str, dict[str, Any]]:
    """(verb, its options) of ``fab VERB …``, without a comment behind it; ValueError says why fab wouldn't take it."""
    try:
        words = shlex.split(command, comments=True)
        if not words or words[0] != "fab":
            raise ValueError(f"{command!r} is no fab command")
        (found,) = _parser().parse_argv(words[1:])
    except (ParseError, ValueError) as error:
        raise ValueError(f"{command}: {error}") from None
    return str(found.name), {name: given.value for name, given in found.args.items() if given.got_value}


@functools.cache
def _parser() -> Parser:
    return Parser(contexts=fabfile.namespace.to_contexts())
