"""The primary's host stays: its service, its memory, its disk, its data go wrong, or the exchange it trades on."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from lab import harm
from lab.find import within
from lab.outsiders import poll
from lab.scenarios import Scenario, Situation, criteria
from lab.scenarios.criteria import Criterion, Facts, criterion
from lab.series import eyes
from lifeline.errors import LifelineError, StepFailed
from lifeline.model import Verdict
from lifeline.verify import verify_database

ENDS_S, MOOD_S = 60.0, 4.0
SMALL_MB, FULL = 64, 0.85


def _by_itself(facts: Facts) -> list[Criterion]:
    return criteria.recovered(facts, typed=False)


# -- the service


def _kill(situation: Situation) -> dict[str, Any]:
    harm.kill_service(situation.primary.name)
    return {"fault": "SIGKILL to the service", "host": situation.primary.name}


def _engine(situation: Situation) -> dict[str, str]:
    """Its figures by their names with labels; empty when it doesn't answer."""
    with contextlib.suppress(httpx.HTTPError), httpx.Client(trust_env=False, timeout=2.0) as client:
        answer = client.get(f"http://{situation.primary.address}:{_port(situation)}/metrics")
        return dict(re.findall(r"(?m)^([a-z_]+(?:\{.*\})?) (\S+)$", answer.text))
    return {}


def _port(situation: Situation) -> int:
    assert situation.stage.service
    return situation.stage.service.port


def _began(situation: Situation) -> float:
    return float(_engine(situation).get("genesis_started_timestamp_seconds", 0.0))


def _note_beginning(situation: Situation) -> None:
    situation.kept["began"] = _began(situation)


def _begun_anew(situation: Situation) -> bool:
    """Another process than before answers, or none does."""
    return bool(_began(situation) != situation.kept["began"])


def _leak(situation: Situation) -> dict[str, Any]:
    """From the first leaked byte until the engine has ended."""
    harm.leak(situation.primary.address)
    if not poll(lambda: _begun_anew(situation), ENDS_S):
        raise StepFailed(f"the engine leaks and did not stop within {ENDS_S:.0f} s")
    return {"fault": "memory leak, 100 MB a second", "host": situation.primary.name}


def _stopped_in_order(situation: Situation) -> list[Criterion]:
    """By its own audit log: it stopped because of its memory, and had answered everybody before."""
    log = eyes.disk(situation.primary).root / "var/log/genesis/audit.jsonl"
    stops = [one for one in _lines(log) if one["event"] == "stopped" and "memory" in str(one.get("reason"))]
    says = str(stops[-1].get("reason")) if stops else "the audit log tells of no stop for want of memory"
    drained = bool(stops) and stops[-1].get("drained") is True
    return [criterion("it stopped in order, at 85 % of its memory, its orders answered", drained, says)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


# -- the exchange


def _degrade(situation: Situation) -> dict[str, Any]:
    """One connection fails, then both; then all is well again."""
    moods = {"main connection down": ("down",), "both down": ("down", "down"), "well": ()}
    for mood, words in moods.items():
        harm.exchange(*words)
        if mood == "well":
            break
        seen = poll(lambda mood=mood: _noticed(situation, mood), ENDS_S)  # type: ignore[misc]
        situation.kept[mood] = seen
        poll(lambda: False, MOOD_S)  # how long it lasts: the fault itself
    return {"fault": "the exchange's connections fail, one, then both", "moods": list(moods)}


def _noticed(situation: Situation, mood: str) -> bool:
    figures = _engine(situation)
    if mood == "both down":
        return float(figures.get("genesis_orders_queued", 0)) > 0
    return figures.get('genesis_exchange_state{exchange="main",state="open"}') == "1"


def _exchange_is_well(situation: Situation) -> bool:
    figures = _engine(situation)
    closed = [figures.get(f'genesis_exchange_state{{exchange="{name}",state="closed"}}') for name in ("main", "backup")]
    return closed == ["1", "1"] and figures.get("genesis_orders_queued") == "0"


def _queued_and_switched(situation: Situation) -> list[Criterion]:
    figures = _engine(situation)
    backup = figures.get('genesis_exchange_calls_total{exchange="backup",result="answered"}', "0")
    queued = figures.get("genesis_orders_queued_total", "0")
    promised = [event.fields["id"] for event in _events(situation, "queued")]
    done = {event.fields["id"] for event in _events(situation, "acknowledged")}
    forgotten = [event.fields["id"] for event in _events(situation, "forgotten")]
    kept = bool(promised) and set(promised) <= done and not forgotten
    return [
        criterion("the circuit opened, and the backup connection took over", float(backup) > 0, f"{backup} calls"),
        criterion("with both away orders were queued", float(queued) > 0, f"{queued} orders"),
        criterion("every queued order was done", kept, f"{len(promised)} promised, {len(forgotten)} forgotten"),
        criterion("the books were compared", figures.get("genesis_exchange_differences") == "0", "no differences"),
    ]


def _events(situation: Situation, kind: str) -> list[Any]:
    assert situation.stage.client
    return [event for event in situation.stage.client.read() if event.kind == kind]


# -- the disk


def _logs(situation: Situation) -> Path:
    return within(situation.primary.name, "/var/log/genesis")


def _small_disk(situation: Situation) -> None:
    harm.small_disk(situation.primary.name, "/var/log/genesis", str(SMALL_MB))


def _fill(situation: Situation) -> dict[str, Any]:
    """Logs of last month, and of today, until nine tenths of the disk are used."""
    now, folder = datetime.now(UTC), _logs(situation)
    status = folder.stat()
    ages = {"old": [timedelta(days=days) for days in (30, 20, 9)], "new": [timedelta(hours=2)]}
    free = shutil.disk_usage(folder).free
    line = json.dumps({"event": "filled", "noise": "x" * 80}).encode() + b"\n"
    for age, when in ages.items():
        for one in when:
            path = folder / f"audit.jsonl-{now - one:%Y%m%dT%H%M%SZ}"
            path.write_bytes(line * int(free * 0.9 / 4 / len(line)))
            shutil.chown(path, status.st_uid, status.st_gid)
            situation.kept.setdefault(age, []).append(path.name)
    situation.kept["full"] = _used(situation)
    return {"fault": "the log disk fills up", "used": round(situation.kept["full"], 3)}


def _used(situation: Situation) -> float:
    usage = shutil.disk_usage(_logs(situation))
    return usage.used / usage.total


def _has_room_again(situation: Situation) -> bool:
    """The keeper has been through: old logs are gone, and there is room."""
    here = {path.name.removesuffix(".gz") for path in _logs(situation).iterdir()}
    return not here & set(situation.kept["old"]) and _used(situation) < FULL


def _nothing_gone_that_is_not_kept(situation: Situation) -> list[Criterion]:
    """What is gone from the disk is in the vault; what is young is on the disk still, packed."""
    stage, inventory = situation.stage, situation.stage.inventory
    assert inventory
    store = eyes.vault(inventory, stage.env)
    prefix = f"logs/{inventory.service}/{situation.primary.name}/"
    here = {path.name for path in _logs(situation).iterdir()}
    old, new = situation.kept["old"], situation.kept["new"]
    try:
        there = {info.key.removeprefix(prefix) for info in store.list(prefix) if info.size}
    except LifelineError as error:
        return [criterion("what was deleted is in the vault", None, error.message)]
    gone = [name for name in old if name not in here and f"{name}.gz" not in here]
    missing = [name for name in gone if f"{name}.gz" not in there]
    return [
        criterion("logs of more than 7 days are deleted here", len(gone) == len(old), f"{len(gone)} of {len(old)}"),
        criterion("what was deleted is in the vault", not missing, f"{len(missing)} of {len(gone)} missing there"),
        criterion("younger logs stay, packed", all(f"{name}.gz" in here for name in new), f"{len(new)} of them"),
        criterion("the disk has room again", _used(situation) < FULL, f"{_used(situation):.0%} used"),
    ]


# -- the data


def _path(situation: Situation) -> str:
    assert situation.stage.service
    return str(situation.stage.service.databases[0].path)


def _spoil(situation: Situation) -> dict[str, Any]:
    harm.spoil_database(situation.primary.name, _path(situation))
    return {"fault": "bytes of many pages changed on the disk", "file": _path(situation)}


def _truncate(situation: Situation) -> dict[str, Any]:
    harm.truncate_database(situation.primary.name, _path(situation))
    return {"fault": "the second half of the database file is gone after a crash", "file": _path(situation)}


def _is_damaged(situation: Situation) -> bool | None:
    """Seen in a copy of the file alone: what its log holds is not damaged."""
    copy = situation.stage.folder / "damaged.db"
    shutil.copyfile(within(situation.primary.name, _path(situation)), copy)
    verdict = verify_database(copy, (), "full").verdict
    copy.unlink()
    return None if verdict is Verdict.UNKNOWN else verdict is Verdict.FAIL


SCENARIOS = (
    Scenario(
        name="service-restart",
        title="The service is killed",
        story="SIGKILL under load. Nobody types anything: supervisor begins it anew.",
        ready=_note_beginning,
        fault=_kill,
        seen=_begun_anew,
        judge=_by_itself,
        component="service restart",
    ),
    Scenario(
        name="memory-leak",
        title="The service leaks memory",
        story="It leaks 100 MB a second. At 85 % it stops in order, and supervisor begins it anew.",
        ready=_note_beginning,
        fault=_leak,
        seen=_begun_anew,
        judge=_by_itself,
        looks=_stopped_in_order,
        component="service restart",
    ),
    Scenario(
        name="exchange-degradation",
        title="The exchange degrades",
        story="The main connection fails, then the backup too; then both are well again. Nobody types anything.",
        fault=_degrade,
        seen=lambda situation: bool(situation.kept.get("main connection down") and situation.kept.get("both down")),
        settled=_exchange_is_well,
        judge=_by_itself,
        looks=_queued_and_switched,
        component="service restart",
        mend=lambda situation: harm.exchange(),
    ),
    Scenario(
        name="disk-critical",
        title="The disk is nearly full of logs",
        story="Logs fill nine tenths of their disk. The keeper packs them, ships them, and lets go of old ones.",
        ready=_small_disk,
        fault=_fill,
        seen=lambda situation: situation.kept["full"] > FULL,
        settled=_has_room_again,
        judge=_by_itself,
        looks=_nothing_gone_that_is_not_kept,
        component="service restart",
        mend=lambda situation: harm.small_disk_gone(situation.primary.name, "/var/log/genesis"),
    ),
    Scenario(
        name="data-corruption",
        title="The database rots under the running service",
        story="Bytes change on the disk. An operator restores the newest point that passes every check, and validates.",
        fault=_spoil,
        seen=_is_damaged,
        types=(("fab", "restore", "--before-corruption", "--yes"), ("fab", "validate")),
        judge=criteria.recovered,
        component="database recovery",
    ),
    Scenario(
        name="database-recovery",
        title="The database file loses its second half in a crash",
        story="The engine can't begin again. An operator sees what .recover would bring, and restores from the vault.",
        fault=_truncate,
        seen=_is_damaged,
        types=(
            ("fab", "restore", "--salvage", "--to", "{primary}:/var/tmp/salvaged"),
            ("fab", "restore", "--yes"),
            ("fab", "validate"),
        ),
        judge=criteria.recovered,
        component="database recovery",
    ),
)
