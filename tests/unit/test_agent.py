"""The agent: renews, fences itself in time, starts nothing unconfirmed, and answers at its doors."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lifeline import agent_http, roles
from lifeline.agent import Agent
from lifeline.barrier import UnixConnection
from lifeline.deadman import due
from lifeline.errors import Refused, Unavailable
from lifeline.layout import alone, read_role, write_role
from lifeline.roles import ask_agent
from tests.unit.hostkit import FakeLeases, FakeSupervisor, FakeVault, config, lease

NEVER = Unavailable("no route to the lease store")


class World:
    """An agent with a clock that only the test moves."""

    def __init__(self, root: Path, role: str = "primary", epoch: int = 1) -> None:
        self.config = config(root)
        self.layout = self.config.layout
        write_role(self.layout, role, epoch)  # type: ignore[arg-type]
        self.supervisor = FakeSupervisor()
        self.leases = FakeLeases(lease(epoch=epoch))
        self.vault = FakeVault()
        self.clock = 1000.0
        self.agent = self.boot()

    def boot(self) -> Agent:
        return Agent(self.config, lambda: self.supervisor, self.leases, self.vault, lambda: self.clock)  # type: ignore[arg-type, return-value]

    @property
    def role(self) -> str:
        return read_role(self.layout).role

    @property
    def serving(self) -> bool:
        return self.supervisor.running["genesis"] and self.supervisor.running["litestream"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_booting_primary_starts_nothing_before_the_lease_is_confirmed(world: World) -> None:
    world.agent.guard_once()
    assert not any(world.supervisor.running.values())
    world.agent.renew_once()
    world.agent.guard_once()
    assert world.serving


def test_a_zombie_that_learns_of_another_holder_is_nothing_from_then_on(world: World) -> None:
    world.leases.lease = lease("backup-singapore", 2)
    world.agent.renew_once()
    world.agent.guard_once()
    assert world.role == "none" and not world.serving
    rebooted = world.boot()
    rebooted.renew_once()
    rebooted.guard_once()
    assert not any(world.supervisor.running.values())


def test_a_zombie_that_can_ask_nobody_serves_nothing_however_long(world: World) -> None:
    world.leases.error = NEVER
    for _ in range(20):
        world.agent.renew_once()
        world.agent.guard_once()
        world.clock += 60
    assert not any(world.supervisor.running.values())


def serve(world: World) -> None:
    world.agent.renew_once()
    world.agent.guard_once()
    assert world.serving


def test_a_primary_that_cannot_renew_stops_itself_a_margin_before_the_lease_ends(world: World) -> None:
    serve(world)
    world.leases.error = NEVER
    world.clock += 24.9
    world.agent.renew_once()
    world.agent.guard_once()
    assert world.serving and world.agent.refusal() is None
    world.clock += 0.2
    assert world.agent.refusal() is not None  # the barrier refuses at once, before the guard has acted
    world.agent.guard_once()
    assert not world.serving and world.role == "none"


def test_a_renewal_counts_from_when_it_was_begun_not_from_its_answer(world: World) -> None:
    slow = world.leases.renew

    def renew(holder: str, epoch: int) -> object:
        world.clock += 10
        return slow(holder, epoch)

    world.leases.renew = renew  # type: ignore[method-assign, assignment]
    serve(world)
    world.clock = 1000.0 + 25.1
    assert world.agent.judgement().kind == "fence"


def killed(world: World) -> bool:
    """Did the agent have the kernel kill all that supervisor runs?"""
    return (world.layout.supervisor_group / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize("supervisor", ["stubborn", "dead"])
def test_the_fence_kills_what_does_not_stop_and_what_supervisor_can_not_stop(world: World, supervisor: str) -> None:
    serve(world)
    world.supervisor.stubborn = {"genesis"} if supervisor == "stubborn" else set()
    world.supervisor.dead = supervisor == "dead"
    assert not killed(world)
    world.leases.lease = lease("backup-singapore", 2)
    world.agent.renew_once()
    world.agent.guard_once()
    assert killed(world) and world.role == "none"


def test_a_disk_that_can_not_be_written_does_not_hold_up_the_fence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(world)

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("lifeline.agent.write_role", fails)
    world.clock += 30
    world.agent.guard_once()
    assert not world.serving and world.agent.refusal() is not None


def test_a_role_that_is_lost_stops_what_it_allowed(world: World) -> None:
    serve(world)
    (world.layout.state / "role.json").unlink()
    world.agent.guard_once()
    assert not world.serving


def test_a_successor_ends_the_fence_in_which_its_predecessor_died(world: World) -> None:
    serve(world)
    write_role(world.layout, "none", 1)  # the first thing a fence does
    world.boot().guard_once()
    assert not world.serving


@pytest.mark.parametrize("jump_s", [-3e8, -7200.0, 7200.0, 3e8])
def test_a_jump_of_the_date_is_no_time_that_passes(
    world: World, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Neither does it lengthen a lease nor end one: right, deadline and silence are counted on CLOCK_BOOTTIME."""
    serve(world)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    world.agent.autopilot._utc = lambda: datetime.now(UTC) + timedelta(seconds=jump_s)
    world.agent.guard_once()
    assert world.serving and not due(world.layout.run, world.clock + 29.9)
    world.leases.error = NEVER
    world.clock += 24.9
    world.agent.renew_once()
    world.agent.guard_once()
    assert world.serving
    world.clock += 0.2
    world.agent.guard_once()
    assert not world.serving and due(world.layout.run, world.clock + 5)


# -- the deadman


def test_the_deadman_knows_of_a_renewal_before_anything_may_serve_on_it(world: World) -> None:
    world.agent.renew_once()
    assert not due(world.layout.run, 1000.0 + 29.9)  # a margin later than the agent acts
    assert due(world.layout.run, 1000.0 + 30)


def test_a_renewal_of_which_the_deadman_can_not_be_told_is_none(world: World) -> None:
    serve(world)
    shutil.rmtree(world.layout.run)
    world.clock += 10
    world.agent.renew_once()
    assert "can't be noted" in str(world.agent.status()["reason"]) or world.agent.judgement().kind == "serve"
    world.clock += 15
    assert world.agent.judgement().kind == "fence" and "can't be noted" in world.agent.judgement().reason


def test_a_fence_leaves_the_deadman_armed_for_what_escaped_it(world: World) -> None:
    serve(world)
    world.clock += 30
    world.agent.guard_once()
    assert not world.serving and due(world.layout.run, world.clock)


def test_an_orderly_stop_disarms_it(world: World) -> None:
    serve(world)
    roles.stop_service(world.config, world.supervisor, flush=False)  # type: ignore[arg-type]
    assert not due(world.layout.run, 1e9)


# -- what systemd and supervisor do


def test_a_new_supervisor_gets_its_programs_back(world: World) -> None:
    serve(world)
    world.supervisor.running = dict.fromkeys(world.supervisor.running, False)
    world.agent.guard_once()
    assert not world.serving  # the same supervisor: what it stopped, it stopped
    world.layout.supervisor_socket.rename(world.layout.supervisor_socket.with_name("old"))
    world.agent.guard_once()
    world.layout.supervisor_socket.touch()
    world.agent.guard_once()
    assert world.serving


def test_programs_that_could_not_be_started_are_tried_again(world: World) -> None:
    world.agent.renew_once()
    world.supervisor.dead = True
    world.agent.guard_once()
    world.supervisor.dead = False
    world.agent.guard_once()
    assert not world.serving  # not four times a second
    world.clock += 1
    world.agent.guard_once()
    assert world.serving


@contextmanager
def at_work(world: World) -> Iterator[None]:
    """A verb changes this host."""
    with alone(world.layout.host_lock, Refused("busy")):
        yield


def test_what_a_verb_is_about_to_start_is_left_to_it(world: World) -> None:
    """`start-primary` waits for the lease, then prepares the new epoch's place, then starts Litestream."""
    with at_work(world):
        world.agent.renew_once()
        for _ in range(3):
            world.agent.guard_once()
        assert world.agent.judgement().kind == "serve" and not any(world.supervisor.running.values())
    world.agent.guard_once()  # it ended, or died before it had started anything
    assert world.serving


def test_a_verb_that_changes_the_role_meanwhile_is_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def after_another(*_: object) -> Iterator[None]:
        write_role(world.layout, "none", 1)
        yield

    world.agent.renew_once()
    monkeypatch.setattr("lifeline.agent.alone", after_another)
    world.agent.guard_once()
    assert not any(world.supervisor.running.values())


def test_a_verb_at_work_holds_up_no_fence(world: World) -> None:
    serve(world)
    world.clock += 30
    with at_work(world):
        world.agent.guard_once()
        assert not world.serving and world.role == "none"


def test_a_hung_thread_is_no_progress(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("lifeline.agent.time.monotonic", lambda: now[0])
    hung, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        hung.set()
        let_go.wait(30)
        world.agent.stop()

    thread = threading.Thread(target=world.agent._forever, args=(hang, 5.0))
    thread.start()
    assert hung.wait(5)
    now[0] += 64
    assert world.agent.progressing()
    now[0] += 2
    try:
        assert not world.agent.progressing()
    finally:
        let_go.set()
        thread.join(5)


def test_the_agent_pings_systemd_while_it_works(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.agent.PING_S", 0.0)
    monkeypatch.setattr("lifeline.agent.GUARD_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        thread = threading.Thread(target=world.agent.run, daemon=True)
        thread.start()
        assert systemd.recv(100) == b"WATCHDOG=1"
        world.agent.stop()
        thread.join(5)


def test_a_lease_store_that_hangs_does_not_hold_up_the_fence(tmp_path: Path) -> None:
    """The real threads and the real clock: the renewal never comes back, and the service is stopped in time all the
    same."""
    world = World(tmp_path)
    world.leases.lease = lease(ttl=6.0)  # less the margin of 5: one second
    agent = Agent(world.config, lambda: world.supervisor, world.leases, world.vault)  # type: ignore[arg-type, return-value]
    answer, hung, let_go = world.leases.renew, threading.Event(), threading.Event()

    def renew(holder: str, epoch: int) -> object:
        if world.leases.renewals:
            hung.set()
            let_go.wait(30)
            raise NEVER
        return answer(holder, epoch)

    world.leases.renew = renew  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: world.serving)
        agent.poke()
        assert hung.wait(5)
        wait_until(lambda: world.role == "none" and not world.serving)
        assert agent.refusal() is not None and not let_go.is_set()
    finally:
        agent.stop()
        let_go.set()
        thread.join(5)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_service_stopped_by_hand_stays_stopped(world: World) -> None:
    world.supervisor.by_hand = {"genesis"}
    world.agent.renew_once()
    world.agent.guard_once()
    assert not world.supervisor.running["genesis"] and world.supervisor.running["litestream"]


def test_a_restarted_agent_keeps_its_predecessors_deadline(world: World) -> None:
    serve(world)
    world.leases.error = NEVER
    world.clock += 10
    successor = world.boot()
    successor.renew_once()
    successor.guard_once()
    assert world.serving and successor.refusal() is not None  # goes on, but acknowledges nothing unheard
    world.clock += 15.1
    successor.guard_once()
    assert not world.serving


def test_an_answer_about_a_former_role_is_not_taken_for_the_new_one(world: World) -> None:
    def renew(holder: str, epoch: int) -> object:
        write_role(world.layout, "primary", 2)
        world.agent.poke()
        return lease(epoch=1)

    world.leases.renew = renew  # type: ignore[method-assign, assignment]
    world.agent.renew_once()
    assert world.agent.judgement().kind == "wait"


def test_a_standby_starts_its_follower_and_renews_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, "standby", 3)
    world.agent.renew_once()
    world.agent.guard_once()
    assert world.supervisor.running["follower"] and not world.serving and world.leases.renewals == 0


def test_a_follower_that_stalls_is_restarted_once_and_gets_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeline.watching.SETTLE_S", 0.0)
    world = World(tmp_path, "standby", 3)
    world.agent.guard_once()
    copy = world.layout.following(world.config.service.databases[0], 3)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"copy")
    copy.with_name(copy.name + "-txid").write_text(f"{5:016x}\n")
    world.vault.replicate(3, 9)
    for _ in range(5):
        world.agent.watch_once()
        world.clock += 5
    assert world.supervisor.calls.count("stop follower") == 1
    assert world.agent.watched["trades"].restarts == 1
    for _ in range(3):
        world.agent.watch_once()
        world.clock += 5
    assert world.supervisor.calls.count("stop follower") == 1


def test_lag_is_unknown_not_zero_when_the_vault_is_down(tmp_path: Path) -> None:
    world = World(tmp_path, "standby", 3)
    world.vault.down = True
    world.agent.watch_once()
    assert world.agent.status()["databases"]["trades"]["lag_s"] is None
    assert "lifeline_lag_seconds" not in agent_http.metrics(world.agent)


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def test_the_public_door_answers_with_status_codes(world: World) -> None:
    with agent_http.serve(world.agent, port=0) as port:
        assert get(port, "/primary")[0] == 503
        serve(world)
        assert get(port, "/primary")[0] == 200
        assert get(port, "/standby")[0] == 503
        assert json.loads(get(port, "/health")[1])["role"] == "primary"
        assert b"lifeline_serving 1" in get(port, "/metrics")[1]
        assert get(port, "/elsewhere")[0] == 404


def barrier(path: Path, body: bytes) -> tuple[int, dict[str, object]]:
    connection = UnixConnection(path, 5)
    connection.request("POST", "/barrier", body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_the_local_door_refuses_the_barrier_with_a_reason(world: World) -> None:
    with agent_http.serve(world.agent, port=0):
        status, answer = barrier(world.layout.agent_socket, b'{"database": "trades"}')
        assert status == 503 and "not confirmed" in str(answer["error"])
        serve(world)
        status, answer = barrier(world.layout.agent_socket, b'{"timeout_s": 0.2}')
        assert status == 503 and "Litestream does not answer" in str(answer["error"])
        assert barrier(world.layout.agent_socket, b"[]")[0] == 400
        assert barrier(world.layout.agent_socket, b"not json")[0] == 400


def test_a_poke_makes_the_agent_look_at_once(world: World) -> None:
    serve(world)
    with agent_http.serve(world.agent, port=0):
        assert ask_agent(world.layout.agent_socket, "GET", "/lease") == {"confirmed": True, "epoch": 1, "reason": ""}
        write_role(world.layout, "none", 1)
        ask_agent(world.layout.agent_socket, "POST", "/poke")
        answer = ask_agent(world.layout.agent_socket, "GET", "/lease")
    assert answer is not None and answer["confirmed"] is False


def test_the_socket_is_for_owner_and_group_only(world: World) -> None:
    with agent_http.serve(world.agent, port=0):
        assert world.layout.agent_socket.stat().st_mode & 0o007 == 0
