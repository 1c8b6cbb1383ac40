"""Sealing bytes with a passphrase, so that they may lie where the disaster can't take them: scrypt, then Fernet.

A sealed text says how it was made (one JSON line), so parameters can grow without breaking what was sealed before.
"""

from __future__ import annotations

import base64
import json
import os

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from lifeline.errors import BadConfig, DataBad

_FORMAT = "lifeline-sealed-1"
# About 0.1 s and 32 MiB: dear for whoever guesses, cheap for whoever knows.
_COST, _BLOCK, _PARALLEL = 1 << 15, 8, 1
# What we are willing to spend on a text of unknown origin.
_MAX_COST = 1 << 20
_HINT = "check LIFELINE_PASSPHRASE_FILE"


def seal(plain: bytes, passphrase: str) -> bytes:
    """Encrypt and authenticate; a new salt each time, so equal texts seal differently."""
    salt = os.urandom(16)
    head = {"format": _FORMAT, "n": _COST, "r": _BLOCK, "p": _PARALLEL, "salt": base64.b64encode(salt).decode()}
    token = _box(passphrase, salt, _COST, _BLOCK, _PARALLEL).encrypt(plain)
    return json.dumps(head).encode() + b"\n" + token + b"\n"


def unseal(sealed: bytes, passphrase: str) -> bytes:
    """The plain bytes. BadConfig: another passphrase sealed it, or it was changed. DataBad: it isn't sealed at all."""
    head_line, _, token = sealed.partition(b"\n")
    try:
        head = json.loads(head_line)
        if head["format"] != _FORMAT:
            raise ValueError(f"format {head['format']!r}")
        salt = base64.b64decode(head["salt"], validate=True)
        cost, block, parallel = int(head["n"]), int(head["r"]), int(head["p"])
        if cost > _MAX_COST or block > 16 or parallel > 4:
            raise ValueError("its parameters ask for too much memory")
        box = _box(passphrase, salt, cost, block, parallel)
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
        raise DataBad(f"this is not a sealed text that can be read here ({error})") from None
    try:
        return box.decrypt(token.strip())
    except InvalidToken:
        raise BadConfig("can't be unsealed: another passphrase sealed it, or it was changed", hint=_HINT) from None


def _box(passphrase: str, salt: bytes, cost: int, block: int, parallel: int) -> Fernet:
    if not passphrase:
        raise BadConfig("the passphrase is empty", hint=_HINT)
    derived = Scrypt(salt=salt, length=32, n=cost, r=block, p=parallel).derive(passphrase.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
