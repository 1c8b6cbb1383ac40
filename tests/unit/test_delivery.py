"""The ways out, against a stand-in of PagerDuty's contract, a webhook, a mail server; their queues; the herald."""

from __future__ import annotations

import hashlib
import hmac
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab import pager
from lab.pager import Pager
from lifeline import delivery, herald, incidents, outbox
from lifeline.contacts import Contacts, Email, Heartbeat, PagerDuty, Webhook
from lifeline.errors import Unavailable
from lifeline.herald import Herald
from lifeline.incidents import Event
from lifeline.layout import Config, write_file
from lifeline.outbox import Queue, Sent
from tests.unit.hostkit import config

KEY, SENIOR, TOKEN = "a" * 32, "b" * 32, "u+readonlytoken"


@pytest.fixture
def page() -> Iterator[Pager]:
    with pager.serve(Pager(frozenset({KEY, SENIOR}), TOKEN)) as served:
        yield served


def where(page: Pager) -> PagerDuty:
    return PagerDuty({"on-call": KEY, "senior": SENIOR}, TOKEN, f"{page.url}/v2/enqueue", page.url)


def message(action: str = "trigger", **changes: Any) -> dict[str, Any]:
    return {
        **{"version": 1, "action": action, "dedup": "lifeline/prod/20260115T031400Z-abc123", "kind": "incident"},
        **{"level": "on-call", "at": "2026-01-15T03:14:00.000Z", "source": "primary-newyork", "stack": "prod"},
        **{"service": "genesis", "summary": "genesis (prod): the primary is silent", "severity": "critical"},
        **{"happened": ["03:14:00 the primary is silent"], "done": ["ask: it waits"], "needed": ["fab failover --yes"]},
        **changes,
    }


# -- PagerDuty


def test_trigger_acknowledge_resolve_are_one_alert(page: Pager) -> None:
    for action in ("trigger", "trigger", "acknowledge", "trigger"):
        assert delivery.to_pagerduty(where(page), "on-call", message(action)) == Sent(True)
    (alert,) = page.alerts
    assert (alert.status, alert.calls, len(alert.log)) == ("acknowledged", 1, 4)
    delivery.to_pagerduty(where(page), "on-call", message("resolve"))
    assert page.alerts[0].status == "resolved"
    delivery.to_pagerduty(where(page), "on-call", message())
    assert [one.status for one in page.alerts] == ["resolved", "triggered"]  # after a resolve it is another


def test_the_event_says_what_happened_was_done_and_is_needed(page: Pager) -> None:
    delivery.to_pagerduty(where(page), "on-call", message())
    (event,) = page.events
    details = event["payload"]["custom_details"]
    assert set(details) == {"happened", "done", "needed"} and details["needed"] == ["fab failover --yes"]
    assert (event["payload"]["source"], event["payload"]["severity"]) == ("primary-newyork", "critical")


def test_each_level_has_an_integration_of_its_own(page: Pager) -> None:
    delivery.to_pagerduty(where(page), "on-call", message())
    delivery.to_pagerduty(where(page), "senior", message())
    assert {(one.routing_key, one.dedup_key) for one in page.alerts} == {
        (KEY, message()["dedup"]),
        (SENIOR, message()["dedup"]),
    }
    assert not delivery.to_pagerduty(where(page), "cto", message()).delivered


@pytest.mark.parametrize(("status", "again"), [(429, True), (500, True), (503, True), (404, True), (400, False)])
def test_what_may_be_tried_again_is_what_the_reference_says(page: Pager, status: int, again: bool) -> None:
    page.faults = [status]
    sent = delivery.to_pagerduty(where(page), "on-call", message())
    assert not sent.delivered and (sent.again is not None) == again and f"HTTP {status}" in sent.says
    assert delivery.to_pagerduty(where(page), "on-call", message()).delivered


def test_a_busy_provider_says_for_how_long(page: Pager) -> None:
    page.faults, page.retry_after = [429, 429], "17"
    assert delivery.to_pagerduty(where(page), "on-call", message()).again == 17.0
    page.retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert delivery.to_pagerduty(where(page), "on-call", message()).again == 0.0


def test_texts_too_long_are_cut_and_what_it_refuses_it_explains(page: Pager) -> None:
    assert delivery.to_pagerduty(where(page), "on-call", message(summary="x" * 5000, dedup="y" * 300)).delivered
    sent = delivery.to_pagerduty(where(page), "on-call", message(severity="loud"))
    assert sent.again is None and "severity" in sent.says
    short = PagerDuty({"on-call": "short"}, None, f"{page.url}/v2/enqueue")
    assert "routing_key" in delivery.to_pagerduty(short, "on-call", message()).says


def test_a_provider_that_isnt_there_is_tried_again_and_never_named_with_its_secrets() -> None:
    gone = Webhook("http://127.0.0.1:9/services/T000/SECRET", "hush-hush")
    sent = delivery.to_webhook(gone, message())
    assert not sent.delivered and sent.again is not None and "SECRET" not in sent.says
    assert "SECRET" not in repr(gone) and "hush" not in repr(gone) and KEY not in repr(PagerDuty({"on-call": KEY}))


def test_an_acknowledgement_at_the_pager_is_heard(page: Pager) -> None:
    dedup = str(message()["dedup"])
    delivery.to_pagerduty(where(page), "on-call", message())
    assert delivery.acknowledged_at_pagerduty(where(page), dedup) == ""
    page.acknowledge("Ada Lovelace")
    assert delivery.acknowledged_at_pagerduty(where(page), dedup) == "pagerduty:Ada Lovelace"
    assert delivery.acknowledged_at_pagerduty(where(page), "another") == ""
    for token in (None, "wrong"):
        blind = PagerDuty({"on-call": KEY}, token, api_url=page.url)
        assert delivery.acknowledged_at_pagerduty(blind, dedup) == ""


# -- webhook, mail, heartbeat


@contextmanager
def hook(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    heard: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])) if self.command == "POST" else b""
            heard.append((self.path, dict(self.headers), body))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        server.server_close()


def test_a_webhook_gets_it_all_signed() -> None:
    with hook() as (url, heard):
        assert delivery.to_webhook(Webhook(f"{url}/x?y=1", "hush-hush"), message()).delivered
    ((path, headers, body),) = heard
    assert path == "/x?y=1" and json.loads(body) == message()
    wanted = hmac.new(b"hush-hush", body, hashlib.sha256).hexdigest()
    assert headers["X-Lifeline-Signature"] == f"sha256={wanted}"


def test_a_redirect_is_not_followed() -> None:
    with hook(302) as (url, heard):
        sent = delivery.to_webhook(Webhook(url), message())
    assert not sent.delivered and sent.again is not None and len(heard) == 1


def test_the_heartbeat_is_a_host_s_own() -> None:
    with hook() as (url, heard):
        assert delivery.beat(f"{url}/ping/{{host}}", "backup-singapore") == ""
    assert heard[0][0] == "/ping/backup-singapore"
    with hook(500) as (url, _):
        assert delivery.beat(url, "x") != ""
    assert delivery.beat("http://127.0.0.1:9/", "x").startswith("no answer")


class Mail(socketserver.ThreadingTCPServer):
    """A mail server for one test: takes what comes, or refuses with ``code``."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, code: int = 250) -> None:
        self.code, self.mails = code, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), MailHandler)


class MailHandler(socketserver.StreamRequestHandler):
    server: Mail

    def handle(self) -> None:
        self.say("220 test")
        to: list[str] = []
        while line := self.rfile.readline().decode().strip():
            verb = line.upper()
            if verb.startswith("RCPT"):
                to.append(line.partition("<")[2].rstrip(">"))
                self.say(f"{self.server.code} there")
            elif verb == "DATA":
                self.say("354 go on")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append((to, text.decode()))
                self.say("250 taken")
            else:
                self.say("221 bye" if verb == "QUIT" else "250 fine")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def mail(code: int = 250) -> Iterator[tuple[Email, list[tuple[list[str], str]]]]:
    server = Mail(code)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
    port = int(server.server_address[1])
    to = {"on-call": ("one@test", "two@test"), "cto": ("boss@test",)}
    try:
        yield Email("127.0.0.1", port, "none", "lifeline@test", to), server.mails
    finally:
        server.shutdown()
        server.server_close()


def test_mail_goes_to_the_level_and_reads_at_night() -> None:
    with mail() as (way, mails):
        assert delivery.by_email(way, message()).delivered
        assert delivery.by_email(way, message("resolve", level="cto")).delivered
        assert delivery.by_email(way, message(level="senior")).delivered  # nobody of that level reads mail
    (to, text), (boss, over) = mails
    assert to == ["one@test", "two@test"] and boss == ["boss@test"]
    for words in (
        "Subject: genesis (prod): the primary is silent",
        "What is needed:",
        "fab failover --yes",
        "L2 on-call",
    ):
        assert words in text
    assert "Subject: OVER: genesis" in over
    threads = {line for one in (text, over) for line in one.splitlines() if line.startswith("References")}
    assert len(threads) == 1


def test_mail_that_isnt_taken_is_tried_again_and_no_line_of_an_alert_becomes_a_header() -> None:
    with mail(550) as (way, _):
        assert delivery.by_email(way, message()).again is not None
    assert delivery.by_email(Email("127.0.0.1", 9, "none", "a@b", {"on-call": ("x@y",)}), message()).again is not None
    with mail() as (way, mails):
        delivery.by_email(way, message(summary="a\r\nBcc: evil@test\r\n\r\nb"))
    head = mails[0][1].partition("\r\n\r\n")[0]
    assert "Subject: a Bcc: evil@test b" in head and not [line for line in head.splitlines() if line.startswith("Bcc")]


# -- the queue


class Way:
    """A provider in hand: answers as told, and notes what it took."""

    def __init__(self, *answers: Sent) -> None:
        self.answers, self.took, self.asked = list(answers), [], 0  # type: ignore[var-annotated]

    def __call__(self, message: outbox.Message) -> Sent:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else Sent(True)
        if answer.delivered:
            self.took.append(message["n"])
        return answer


DOWN, REFUSED = Sent(False, "down", 0.0), Sent(False, "no such key")


def drained(queue: Queue) -> list[float]:
    """All its attempts until there is nothing left; the pauses between them."""
    pauses = []
    while (wait := queue.once()) is not None:
        pauses.append(wait)
    return pauses


def test_what_isnt_delivered_is_tried_again_in_its_order_with_growing_pauses(tmp_path: Path) -> None:
    way = Way(*[DOWN] * 4)
    queue = Queue(tmp_path / "q", way)
    for number in range(3):
        assert queue.put({"n": number})
    assert drained(queue) == [2.0, 4.0, 8.0, 16.0, 0.0, 0.0, 0.0]
    assert way.took == [0, 1, 2]


def test_pauses_are_bounded_and_a_provider_may_ask_for_more() -> None:
    assert outbox.pause(1, None) == 2.0 and outbox.pause(1, 17.0) == 17.0
    assert outbox.pause(1000, 0.0) == outbox.pause(1, 1e9) == outbox.LONGEST_PAUSE_S


def test_a_message_outlives_the_process_and_one_that_is_torn_stops_nothing(tmp_path: Path) -> None:
    Queue(tmp_path / "q", Way()).put({"n": 1})
    Queue(tmp_path / "q", Way()).put({"n": 2})
    first = min((tmp_path / "q").iterdir())
    first.write_text("{torn")
    way = Way()
    drained(Queue(tmp_path / "q", way))
    assert way.took == [2]


def test_what_is_refused_is_set_aside_and_told_until_something_is_taken(tmp_path: Path) -> None:
    way = Way(REFUSED)
    queue = Queue(tmp_path / "q", way)
    queue.put({"n": 1})
    drained(queue)
    assert queue.status()["refused"] == "no such key" and way.took == []
    queue.put({"n": 2})
    drained(queue)
    assert queue.status() == {"waiting": 0, "oldest_s": None, "problem": None, "refused": None}


def test_a_queue_doesnt_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST", 3)
    queue = Queue(tmp_path / "q", Way())
    assert [queue.put({"n": number}) for number in range(4)] == [True, True, True, False]


# -- the herald


class Vault:
    """A host's vault; ``down``: it doesn't answer, ``hold``: it hangs."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.down = False
        self.hold = threading.Event()
        self.hold.set()

    def _asked(self) -> None:
        self.hold.wait()
        if self.down:
            raise Unavailable("the vault doesn't answer")

    def keys(self, prefix: str, after: str = "") -> list[str]:
        self._asked()
        return sorted(key for key in self.objects if key.startswith(prefix) and key > after)

    def read(self, key: str) -> bytes | None:
        self._asked()
        return self.objects.get(key)

    def write(self, key: str, body: bytes) -> None:
        self._asked()
        self.objects[key] = body


def alerting(root: Path, contacts: Contacts) -> Config:
    from dataclasses import replace

    whole = config(root)
    return replace(whole, inventory=replace(whole.inventory, contacts=contacts))


def raise_alerts(host: Config, *names: str) -> None:
    found = [
        {"name": name, "says": f"{name} says", "next": "fab status", "since": "2026-01-15T03:13:00Z"} for name in names
    ]
    write_file(host.layout.state / "alerts.json", json.dumps({"alerts": found}))
    (host.layout.state / "alerts.json").touch()


def settled(condition: Callable[[], object], within: float = 10.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_from_an_alert_to_a_person_and_back(tmp_path: Path, page: Pager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real threads, the stand-in of the pager, and a clock that the test moves."""
    for name in ("LOOK_S", "SHARED_S", "PAGER_S"):
        monkeypatch.setattr(herald, name, 0.02)
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.02)
    clock = [datetime(2026, 1, 15, 3, 14, tzinfo=UTC)]
    host, vault = alerting(tmp_path, Contacts(where(page))), Vault()
    raise_alerts(host, "replica-stale")
    page.faults = [500, 429]
    one = Herald(host, vault, lambda: ("hold", "fine"), lambda: True, now=lambda: clock[0])
    one.start()
    try:
        assert settled(lambda: len(vault.objects) == 3)  # opened, alert, decision; nobody is called yet
        assert page.events == []
        clock[0] += timedelta(seconds=301)
        assert settled(lambda: [alert.status for alert in page.alerts] == ["triggered"])
        page.acknowledge("Ada")
        assert settled(lambda: any("acknowledged" in key for key in vault.objects))
        clock[0] += timedelta(hours=1)
        raise_alerts(host)
        assert settled(lambda: any("-over-" in key for key in vault.objects))
        assert [alert.routing_key for alert in page.alerts] == [KEY]  # the senior was never called
        clock[0] += timedelta(minutes=11)
        raise_alerts(host)
        assert settled(lambda: [alert.status for alert in page.alerts] == ["resolved"])
    finally:
        one.stop()
    (incident,) = incidents.by_incident(Event.parse(body) for body in vault.objects.values())
    assert not incident.open and incident.acknowledged and incident.acknowledged.who == "pagerduty:Ada"


def test_providers_and_a_vault_that_hang_delay_nothing(
    tmp_path: Path, page: Pager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(herald, "LOOK_S", 0.02)
    with hook() as (url, heard):
        contacts = Contacts(where(page), Webhook(url))
        host, vault = alerting(tmp_path, contacts), Vault()
        page.hold.clear()
        vault.hold.clear()
        raise_alerts(host, "failover-wanted")
        one = Herald(host, vault, lambda: ("ask", "a person's word"), lambda: True)
        begun = time.monotonic()
        one.look()
        assert time.monotonic() - begun < 2.0
        one.start()
        try:
            assert settled(lambda: heard)  # the webhook has it, whatever the others do
            assert vault.objects == {} and page.events == []
            page.hold.set()
            vault.hold.set()
            assert settled(lambda: vault.objects and page.events)
        finally:
            one.stop()


def test_a_restarted_herald_goes_on_and_calls_nobody_twice(tmp_path: Path, page: Pager) -> None:
    host, vault = alerting(tmp_path, Contacts(where(page))), Vault()
    raise_alerts(host, "failover-wanted")
    for _ in range(3):
        one = Herald(host, vault, lambda: ("ask", "x"), lambda: True)
        one.look()
        assert one.status()["state"] == "open"
    for queue in one.queues.values():
        drained(queue)
    assert len(page.events) == 1
    assert len({incidents.id_of(key, "genesis") for key in vault.objects}) == 1


def test_a_keeper_that_doesnt_look_is_an_alert_and_the_heart_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hook() as (url, heard):
        host = alerting(tmp_path, Contacts(heartbeat=Heartbeat(url)))
        healthy = [True]
        one = Herald(host, Vault(), lambda: ("hold", ""), lambda: healthy[0])
        assert one.alerts() == []  # both have just begun
        monkeypatch.setattr(herald, "ALERTS_STALE_S", 0.0)
        assert [alert.name for alert in one.alerts()] == ["keeper-silent"]
        raise_alerts(host)
        one.beat()
        assert heard == []
        monkeypatch.setattr(herald, "ALERTS_STALE_S", 60.0)
        one.beat()
        assert len(heard) == 1 and one.alerts() == []
        healthy[0] = False
        one.beat()
        assert len(heard) == 1


def test_a_way_that_leads_nowhere_is_itself_an_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herald, "UNDELIVERED_S", -1.0)
    host = alerting(tmp_path, Contacts(webhook=Webhook("http://127.0.0.1:9/SECRET")))
    raise_alerts(host, "late-verify")
    one = Herald(host, Vault(), lambda: ("hold", ""), lambda: True)
    one.look()
    one.queues["webhook"].once()
    (alert,) = [alert for alert in one.alerts() if alert.name == "undelivered-webhook"]
    assert "no answer" in alert.says and "SECRET" not in alert.says
