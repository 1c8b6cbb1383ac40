"""Sealed bytes: readable with the passphrase, and in no other way."""

import json

import pytest

from lifeline.errors import BadConfig, DataBad
from lifeline.sealing import seal, unseal

PASSPHRASE = "correct horse"
SEALED = seal(b"inventory", PASSPHRASE)


def test_what_was_sealed_is_unsealed():
    assert unseal(SEALED, PASSPHRASE) == b"inventory"


def test_the_text_shows_nothing_of_what_is_in_it_and_differs_each_time():
    assert b"inventory" not in SEALED
    assert seal(b"inventory", PASSPHRASE) != SEALED


def test_another_passphrase_is_told_so_with_the_next_step():
    with pytest.raises(BadConfig, match="another passphrase") as caught:
        unseal(SEALED, "wrong")
    assert "LIFELINE_PASSPHRASE_FILE" in caught.value.hint


def test_a_changed_text_is_not_unsealed():
    flipped = bytearray(SEALED)
    flipped[-20] ^= 1
    with pytest.raises(BadConfig):
        unseal(bytes(flipped), PASSPHRASE)


def test_an_empty_passphrase_seals_nothing():
    with pytest.raises(BadConfig, match="empty"):
        seal(b"x", "")


def expensive() -> bytes:
    head, _, token = SEALED.partition(b"\n")
    return json.dumps({**json.loads(head), "n": 1 << 30}).encode() + b"\n" + token


@pytest.mark.parametrize("text", [b"", b"{}", b"plain text", b'{"format": "other"}\nx', b"[1]\nx", expensive()])
def test_what_was_never_sealed_is_bad_data_not_a_crash(text: bytes):
    with pytest.raises(DataBad):
        unseal(text, PASSPHRASE)
