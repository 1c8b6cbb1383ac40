"""The boto3 door's own manners: what it says when a store is down, hangs, refuses or isn't configured."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lifeline.errors import BadConfig, Unavailable
from lifeline.model import Key, StoreRef
from lifeline.store import Conflict, Denied, Missing, Store
from lifeline.vault import key_from_environment, open_store

KEY = Key("AKIAEXAMPLE", "the-secret-key")


def store(endpoint: str, **limits: float) -> Store:
    ref = StoreRef("vault", "ams3", endpoint, path_style=True)
    return open_store(ref, KEY, direct=True, attempts=1, **limits)


@contextmanager
def answering(reply: bytes | None) -> Iterator[str]:
    """A server that says the same to everybody; None: it accepts and stays silent."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            if reply is not None:
                with contextlib.suppress(OSError):  # the test is over, and has closed it
                    connection.recv(65536)
                    connection.sendall(reply)
                    connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for connection in held:
            connection.close()


def error(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def test_nobody_listening_is_unavailable_and_names_the_bucket_and_the_next_step():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Unavailable, match=f"bucket vault at {endpoint} doesn't answer: can't read k") as caught:
        store(endpoint).get("k")
    assert "fab status" in caught.value.hint


def test_a_store_that_hangs_is_given_up_in_time():
    with answering(None) as endpoint:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="doesn't answer"):
            store(endpoint, connect_s=0.5, read_s=0.5).put_if_absent("k", b"")
        assert time.monotonic() - begun < 10  # its default is 20 s


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("403 Forbidden", "AccessDenied", Denied),
        ("403 Forbidden", "InvalidAccessKeyId", Denied),
        ("404 Not Found", "NoSuchKey", Missing),
        ("404 Not Found", "NoSuchBucket", Unavailable),
        ("412 Precondition Failed", "PreconditionFailed", Conflict),
        ("409 Conflict", "ConditionalRequestConflict", Conflict),
        ("500 Internal Server Error", "InternalError", Unavailable),
        ("503 Service Unavailable", "SlowDown", Unavailable),
    ],
)
def test_an_answer_becomes_an_error_of_ours(status: str, code: str, expected: type[Exception]):
    with answering(error(status, code)) as endpoint, pytest.raises(expected) as caught:
        store(endpoint).put_if_absent("k", b"")
    assert type(caught.value) is expected
    assert "bucket vault" in str(caught.value)
    assert ("pulumi up --refresh" in str(caught.value)) is (code == "NoSuchBucket")  # without, it finds nothing to do


def test_a_deleted_key_can_be_told_from_a_missing_grant():
    for code, unknown in (("InvalidAccessKeyId", True), ("AccessDenied", False)):
        with answering(error("403 Forbidden", code)) as endpoint, pytest.raises(Denied) as caught:
            store(endpoint).put("k", b"")
        assert caught.value.key_unknown is unknown


def test_if_match_on_a_missing_object_is_a_conflict_as_aws_says_it():
    with answering(error("404 Not Found", "NoSuchKey")) as endpoint, pytest.raises(Conflict):
        store(endpoint).put_if_match("k", b"", '"etag"')


def test_a_conditional_write_is_tried_once():
    asked = 0
    with answering(error("500 Internal Server Error", "InternalError")) as endpoint:
        ref = StoreRef("vault", "ams3", endpoint, path_style=True)
        patient = open_store(ref, KEY, direct=True, attempts=3)

        def count(**_: object) -> None:
            nonlocal asked
            asked += 1

        patient._once.meta.events.register("before-send.s3", count)
        with pytest.raises(Unavailable):
            patient.put_if_absent("k", b"")
    assert asked == 1


def test_secrets_are_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with answering(error("403 Forbidden", "SignatureDoesNotMatch")) as endpoint, pytest.raises(Denied) as caught:
        store(endpoint).put("k", b"")
    assert KEY.secret_key not in str(caught.value) + repr(caught.value) + caplog.text
    assert "Authorization" not in caplog.text


def test_the_proxy_of_the_environment_is_used_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    with answering(error("418 Proxy", "TheProxy")) as proxy, answering(error("403 Forbidden", "Direct")) as endpoint:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        ref = StoreRef("vault", "ams3", endpoint, path_style=True)
        with pytest.raises(Unavailable, match="TheProxy"):
            open_store(ref, KEY, attempts=1).put("k", b"")
        with pytest.raises(Denied, match="Direct"):
            open_store(ref, KEY, attempts=1, direct=True).put("k", b"")


def test_the_operators_key_comes_from_the_environment_and_a_missing_one_is_named():
    environment = {"SPACES_ACCESS_KEY_ID": "a", "SPACES_SECRET_ACCESS_KEY": "s"}
    assert key_from_environment("SPACES", environment) == Key("a", "s")
    with pytest.raises(BadConfig, match="AWS_ACCESS_KEY_ID is not set"):
        key_from_environment("AWS", environment)
    for wrong in ("a…", "a b", "a\n"):
        with pytest.raises(BadConfig, match="SPACES_SECRET_ACCESS_KEY isn't one word"):
            key_from_environment("SPACES", {**environment, "SPACES_SECRET_ACCESS_KEY": wrong})


@pytest.mark.parametrize(("region", "endpoint"), [("ams3", "ams3.digitaloceanspaces.com"), ("us east 2", None)])
def test_a_place_that_is_none_is_said_before_anything_is_asked(region: str, endpoint: str | None):
    with pytest.raises(BadConfig, match="bucket vault"):
        open_store(StoreRef("vault", region, endpoint, path_style=False), KEY)
