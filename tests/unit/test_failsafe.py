"""The standby's word: given only while it can't read the store itself, signed, withdrawn before anyone takes over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifeline import agent_http, failsafe
from lifeline.agent import Agent
from lifeline.errors import Unavailable
from lifeline.layout import Config, write_role
from lifeline.roles import ask_agent, withdraw
from tests.unit.hostkit import FakeLeases, FakeSupervisor, FakeVault, config, lease

AWAY = Unavailable("the lease store is away")
KEY = b"00ff"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def agent(root: Path, name: str, role: str, clock: Clock) -> tuple[Agent, FakeLeases, Config]:
    made = config(root, name)
    write_role(made.layout, role, 1)  # type: ignore[arg-type]
    made.layout.peer_key.write_text(KEY.decode() + "\n")
    leases, supervisor = FakeLeases(lease()), FakeSupervisor()
    found = Agent(made, lambda: supervisor, leases, FakeVault(), clock)  # type: ignore[arg-type, return-value]
    return found, leases, made


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Agent, FakeLeases, Agent, FakeLeases, Clock]:
    """A primary and a standby that hear each other, without a network."""
    clock = Clock()
    primary, its_leases, _ = agent(tmp_path / "a", "primary-newyork", "primary", clock)
    standby, others, _ = agent(tmp_path / "b", "backup-singapore", "standby", clock)

    def ask(address: str, key: bytes, held: object, port: int = 0) -> float | None:
        question = {"holder": "primary-newyork", "epoch": 1, "ttl_s": 30.0, "nonce": "n"}
        body = json.dumps(question).encode()
        status, reply, _ = standby.peer_answer(body, failsafe.sign(key, body))
        return float(json.loads(reply)["promised_s"]) if status == 200 else None

    monkeypatch.setattr(failsafe, "ask", ask)
    primary.renew_once()
    standby.autopilot.look()
    return primary, its_leases, standby, others, clock


Pair = tuple[Agent, FakeLeases, Agent, FakeLeases, Clock]


def test_with_the_store_away_for_both_the_primary_goes_on(pair: Pair) -> None:
    primary, its_leases, standby, others, clock = pair
    its_leases.error = others.error = AWAY
    for _ in range(20):
        clock.now += 10
        standby.autopilot.look()
        primary.renew_once()
        assert primary.refusal() is None and primary.status()["failsafe"]
        assert standby.promises.left_s() == 30
    others.error = None
    clock.now += 1
    standby.autopilot.look()
    # The store is back: what was silent while nobody could look isn't counted against the primary.
    assert standby.status()["pilot"]["lease"] == "kept"


def test_a_standby_that_reads_the_store_promises_nothing(pair: Pair) -> None:
    primary, its_leases, standby, _, clock = pair
    its_leases.error = AWAY
    for _ in range(3):
        clock.now += 10
        standby.autopilot.look()
        primary.renew_once()
    assert primary.judgement().kind == "fence" and standby.promises.left_s() == 0


def test_the_right_of_the_primary_ends_before_the_word_of_the_standby(pair: Pair) -> None:
    primary, its_leases, standby, others, clock = pair
    its_leases.error = others.error = AWAY
    clock.now += 10
    standby.autopilot.look()
    primary.renew_once()
    clock.now += 25.1
    assert primary.judgement().kind == "fence" and standby.promises.left_s() == pytest.approx(4.9)


def test_a_promise_holds_back_a_take_over_and_is_kept_over_a_restart(pair: Pair) -> None:
    _, its_leases, standby, others, clock = pair
    its_leases.error = others.error = AWAY
    standby.autopilot.look()
    assert standby.promise({"holder": "primary-newyork", "epoch": 1, "ttl_s": 30.0}) == 30
    again = failsafe.Promises(standby.layout.run / "promise.json", clock)
    assert again.left_s() == 30


def test_withdrawn_means_no_more_to_that_epoch(pair: Pair) -> None:
    _, its_leases, standby, others, clock = pair
    its_leases.error = others.error = AWAY
    standby.autopilot.look()
    question = {"holder": "primary-newyork", "epoch": 1, "ttl_s": 30.0}
    assert standby.promise(question) == 30
    clock.now += 10
    assert standby.promises.withdraw(1) == 20
    assert standby.promise(question) is None


def test_another_holder_or_epoch_is_promised_nothing(pair: Pair) -> None:
    _, _, standby, others, _ = pair
    others.error = AWAY
    standby.autopilot.look()
    assert standby.promise({"holder": "primary-newyork", "epoch": 2, "ttl_s": 30.0}) is None
    assert standby.promise({"holder": "backup-singapore", "epoch": 1, "ttl_s": 30.0}) is None


def test_over_real_sockets_what_isnt_signed_changes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    standby, others, made = agent(tmp_path, "backup-singapore", "standby", clock)
    standby.autopilot.look()
    others.error = AWAY
    standby.autopilot.look()
    with agent_http.serve(standby, port=0) as port:
        assert failsafe.ask("127.0.0.1", b"another key", lease(), port) is None
        assert failsafe.ask("127.0.0.1", b"", lease(), port) is None
        assert standby.promises.left_s() == 0
        assert failsafe.ask("127.0.0.1", KEY, lease(), port) == 30
        assert standby.promises.left_s() == 30
        clock.now += 5
        assert withdraw(made, 1) == {"promised_s": 25.0}
        assert failsafe.ask("127.0.0.1", KEY, lease(), port) is None
        assert ask_agent(made.layout.agent_socket, "POST", "/withdraw") is not None
