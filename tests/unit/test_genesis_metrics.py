"""The engine's figures: what counts as a failed trade, and memory before it runs out."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import apsw
import pytest

from lifeline.service import Service
from lifeline.triggers import Watch, parse, selector
from services.genesis.engine import memory
from services.genesis.engine.memory import Reading
from services.genesis.engine.model import Conflict, Execution, NoAnswer, NotAcknowledged
from tests.unit.genesiskit import REPO, Rig, ask

FAILED = "genesis_trades_failed_total"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.desk.reconcile()
    return rig


def failed(rig: Rig) -> dict[str, int]:
    values = rig.desk.counters.values()
    return {dict(labels)["reason"]: count for (name, labels), count in values.items() if name == FAILED and count}


def break_database(rig: Rig) -> None:
    rig.store._writer.execute("PRAGMA query_only = 1")


def refuse(rig: Rig) -> None:
    rig.exchange.executions["c1"] = Execution(False, reason="margin")


def raising(error: Exception) -> Any:
    def do(rig: Rig) -> None:
        rig.exchange.before = lambda: (_ for _ in ()).throw(error)

    return do


@pytest.mark.parametrize(
    ("harm", "counted"),
    [
        (lambda rig: rig.vault.fail_on.add(0), {"barrier": 1}),
        (lambda rig: rig.vault.fail_on.add(2), {"barrier": 1}),
        (break_database, {"database": 1}),
        (raising(RuntimeError("a defect")), {"defect": 1}),
        (raising(NoAnswer("away")), {}),  # here as anywhere: the order is queued
        (raising(NotAcknowledged("401")), {}),
        (refuse, {}),
        (lambda rig: rig.desk.gate.close("quiesced"), {}),
    ],
    ids=["no vault", "no vault after", "database", "defect", "exchange away", "exchange angry", "reject", "gate"],
)
def test_a_trade_fails_when_this_host_is_to_blame(rig: Rig, harm: Any, counted: dict[str, int]) -> None:
    harm(rig)
    for _ in range(3):  # a client insists; that is one trade
        try:
            rig.desk.place(ask())
        except (NotAcknowledged, apsw.Error, RuntimeError):
            rig.vault.fail_on.discard(2)
    assert failed(rig) == counted


def test_senseless_orders_are_no_failed_trades(rig: Rig) -> None:
    rig.desk.place(ask(qty=5))
    with pytest.raises(Conflict):
        rig.desk.place(ask(qty=6))
    assert rig.api().answer("POST", "/orders", b"{}")[0] == 400
    assert rig.desk.place(ask("big", qty=500)).state == "rejected"
    assert failed(rig) == {}


def test_the_shipped_triggers_fire_on_the_shipped_figures(rig: Rig) -> None:
    """The contract between the two, from GET /metrics to the judgement."""
    service, api = Service.load(REPO / "services/genesis/service.toml"), rig.api()
    assert service.metrics is not None
    (trigger,) = service.triggers
    assert (trigger.increase, trigger.within_s) == (3, 600)

    def scrape() -> Any:
        status, text = api.answer("GET", str(service.metrics), b"")
        assert status == 200
        return parse(text)

    watch = Watch(trigger).seen(0, scrape())
    rig.vault.fail_on = {0}
    for number in range(3):
        assert watch.judge(10 * number).fired is False
        with pytest.raises(NotAcknowledged):
            rig.desk.place(ask(f"c{number}"))
        watch = watch.seen(10 * (number + 1), scrape())
    assert watch.judge(30).fired is True


def test_every_figure_is_there_from_the_start_and_the_database_may_be_gone(rig: Rig) -> None:
    rig.desk.place(ask())
    found = parse(rig.api().answer("GET", "/metrics", b"")[1])
    assert found[selector("genesis_trades_total")] == 1 and found[selector("genesis_accepting")] == 1
    for reason in ("barrier", "database", "defect"):
        assert found[selector(f'{FAILED}{{reason="{reason}"}}')] == 0
    assert found[selector("genesis_memory_limit_bytes")] == 512 << 20
    assert 1 << 20 < found[selector("genesis_memory_bytes")] < 1 << 30
    rig.store.close()
    found = parse(rig.api().answer("GET", "/metrics", b"")[1])
    assert selector("genesis_orders_queued") not in found and found[selector("genesis_trades_total")] == 1


# -- memory


def proc(folder: Path, resident_mb: int, group: str = "0::/a/b\n", **limits: str) -> tuple[Path, Path]:
    """/proc/self and /sys/fs/cgroup as they might be; limits by group, "_" for "/"."""
    (folder / "proc").mkdir()
    pages = resident_mb * (1 << 20) // resource.getpagesize()
    (folder / "proc/statm").write_text(f"{pages * 4} {pages} 1 1 0 1 0\n")
    (folder / "proc/cgroup").write_text(group)
    for name, limit in limits.items():
        path = folder / "cgroup" / name.replace("_", "/")
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.max").write_text(limit)
    return folder / "proc", folder / "cgroup"


MB = 1 << 20


@pytest.mark.parametrize(
    ("configured", "limits", "limit", "whose"),
    [
        (200 * MB, {}, 200, "the configured limit"),
        (200 * MB, {"a_b": f"{150 * MB}\n"}, 150, "the control group's MemoryMax"),
        (200 * MB, {"a_b": "max\n", "a": f"{120 * MB}\n"}, 120, "the control group's MemoryMax"),
        (100 * MB, {"a_b": f"{150 * MB}\n"}, 100, "the configured limit"),
        (None, {"a": "max"}, None, "the machine's memory"),
        (None, {"c": f"{1 * MB}"}, None, "the machine's memory"),  # not ours
    ],
)
def test_the_nearest_limit_counts(
    tmp_path: Path, configured: int | None, limits: dict[str, str], limit: int | None, whose: str
) -> None:
    reading = memory.read(configured, *proc(tmp_path, 90, **limits))
    assert reading.used == 90 * MB and reading.whose == whose
    assert limit is None or reading.limit == limit * MB


def test_without_control_groups_there_is_still_a_limit(tmp_path: Path) -> None:
    here, groups = proc(tmp_path, 90)
    (here / "cgroup").unlink()
    assert memory.read(None, here, groups).whose == "the machine's memory"


def test_a_reading_in_words() -> None:
    assert str(Reading(435 * MB, 512 * MB, "the configured limit")) == "85% of the configured limit (435 of 512 MB)"


# -- faults on demand


def test_faults_are_there_only_where_they_are_allowed(rig: Rig) -> None:
    leak = json.dumps({"leak_mb_per_s": 0}).encode()
    assert rig.api().answer("POST", "/admin/faults", leak)[0] == 404
    assert rig.api(GENESIS_ADMIN_FAULTS="yes").answer("POST", "/admin/faults", leak)[0] == 404
    api = rig.api(GENESIS_ADMIN_FAULTS="1")
    assert api.answer("POST", "/admin/faults", leak) == (200, {"leak_mb_per_s": 0.0, "leaked_bytes": 0})
    for nonsense in (
        b"{}",
        b"[]",
        b'{"leak_mb_per_s": -1}',
        b'{"leak_mb_per_s": true}',
        b'{"leak_mb_per_s": 1, "x": 1}',
    ):
        assert api.answer("POST", "/admin/faults", nonsense)[0] == 400
