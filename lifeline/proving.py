"""`lifeline-host prove`: a backup is one when it was restored. Real restores into a scratch folder beside, with every
check a restore has, and what only a rehearsal can tell: the age of the newest write, row counts, digests, the time.

What can't be checked is UNKNOWN. Nothing live is touched.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from lifeline import backups, catalogue, points, proc, snapshots, sources
from lifeline.errors import DataBad, LifelineError, Unproven
from lifeline.layout import Config
from lifeline.model import Finding, Verdict
from lifeline.progress import Meter, Say, during, say
from lifeline.sentinel import TABLE
from lifeline.sources import Copy
from lifeline.store import Store, find
from lifeline.verify import classified, connect, rows, verify_database, worst

RECENT = timedelta(hours=24)
CHECK_S = 3600.0
ROOM_FACTOR, ROOM_EXTRA = 2.2, 64 << 20
CHECK_PERCENT = 10


class Vault(Protocol):
    """What proving needs of the vault, besides a Store to restore from."""

    def write(self, key: str, body: bytes) -> None: ...


@dataclass(frozen=True)
class Proof:
    """What is proved from: the vault as a store, restic's repositories, the newest epoch; the off-site vault."""

    store: Store
    repositories: Mapping[snapshots.Place, snapshots.Repository]
    epoch: int
    offsite: Store | None = None


Answer = dict[str, Any]


def prove(
    config: Config,
    vault: Vault,
    proof: Proof,
    *,
    weekly: bool = False,
    kind: str = "by hand",
    draw: random.Random | None = None,
    progress: Say = say,
) -> Answer:
    """Restore the newest point, a random one of the last day, and the newest backup; with `weekly` all that is off-site
    too, and read the whole chain and a part of the repository. The result is in the catalogue, whatever it is, and in
    the answer."""
    begun, at, scratch = time.monotonic(), datetime.now(UTC), config.layout.state / "prove"
    with backups.one_at_a_time(config, "verification"):
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        try:
            entry = _newest_entry(proof.store, config.service.name)
            chosen = [
                _point("newest", "vault", lambda: _newest(config, proof, scratch)),
                _point("random", "vault", lambda: _random(config, proof, scratch, draw or random.Random())),
                _point("entry", "vault", lambda: _at_entry(config, proof, entry, scratch)),
                _point("entry", "snapshot", lambda: _snapshot(config, proof, entry, scratch)),
            ]
            if weekly and (away := proof.offsite):
                chosen += [
                    _point("newest", "offsite", lambda: _newest_offsite(config, proof.store, away, scratch)),
                    _point("entry", "offsite", lambda: _snapshot(config, proof, entry, scratch, "offsite")),
                ]
            found = []
            for make in chosen:
                progress(f"restoring: {make[0]} from {make[1]}")
                found.append(_prove_one(config, make, entry, scratch))
                shutil.rmtree(scratch, ignore_errors=True)
            checks = _checks(config, proof, weekly, progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    newest = found[0]
    report = {
        **{"version": 1, "service": config.service.name, "host": config.name, "at": _stamp(at), "kind": kind},
        "verdict": _worst([one["verdict"] for one in (*found, *checks)]),
        "seconds": round(time.monotonic() - begun, 3),
        "rpo_measured_s": _age(newest, at) if newest["verdict"] == "PASS" else None,
        "rpo_offsite_measured_s": next((_age_at_its_begin(p) for p in found if _is_newest_offsite(p)), None),
        **{"points": found, "checks": checks},
    }
    key = catalogue.verified_key(config.service.name, at)
    vault.write(key, json.dumps(report, indent=1).encode())
    return {"key": key, **report}


def failure(answer: Mapping[str, Any]) -> LifelineError | None:
    """What an operator must know of a verification that isn't PASS."""
    says = catalogue.complaint(answer)
    if not says:
        return None
    if answer["verdict"] == "FAIL":
        hint = "fab backup --full makes a good copy of what is live; fab restore goes back to the last good point"
        return DataBad(f"a backup is not good: {says}", hint=hint)
    return Unproven(f"not everything could be proved: {says}", hint="fab status; then fab verify")


_Make = tuple[str, str, Callable[[], Copy]]


def _point(what: str, source: str, make: Callable[[], Copy]) -> _Make:
    return what, source, make


def _newest(config: Config, proof: Proof, folder: Path) -> Copy:
    _require_room(config)
    epoch = sources.newest_epoch(config, proof.store, proof.epoch)
    return sources.from_replica(config, proof.store, "vault", epoch, {}, sources.in_folder(folder))


def _random(config: Config, proof: Proof, folder: Path, draw: random.Random) -> Copy:
    """Any restorable transaction of the last day, of every database as of about the same time."""
    _require_room(config)
    service, since = config.service, datetime.now(UTC) - RECENT
    epoch = sources.newest_epoch(config, proof.store, proof.epoch)
    first = service.databases[0].name
    listed = points.points(proof.store, service.name, epoch, first, since=since)
    if not listed:
        raise LookupError("no point of the last 24 hours is in this epoch")
    point = draw.choice(listed)
    txids: dict[str, int | None] = {first: point.txid}
    for other in service.databases[1:]:
        theirs = points.points(proof.store, service.name, epoch, other.name)
        earlier = [p for p in theirs if p.at and point.at and p.at <= point.at]
        if not earlier:
            raise LookupError(f"{other.name} has no point by then: nothing of that moment to restore it to")
        txids[other.name] = max(earlier, key=_txid).txid
    return sources.from_replica(
        config, proof.store, "vault", epoch, txids, sources.in_folder(folder), at=_stamp(point.at) if point.at else None
    )


def _newest_offsite(config: Config, vault: Store, offsite: Store, folder: Path) -> Copy:
    """The end of the replica that the mirror says is whole off-site: to be there, and as far as it says."""
    _require_room(config)
    noted = find(vault, catalogue.offsite_key(config.service.name))
    claimed = (catalogue.parse("offsite.json", noted.body) if noted else {}).get("replica")
    if not claimed:
        raise LookupError("the mirror doesn't say that any replica is whole off-site: fab status")
    txids: dict[str, int | None] = {d.name: None for d in config.service.databases}
    made = sources.from_replica(config, offsite, "offsite", int(claimed["epoch"]), txids, sources.in_folder(folder))
    for name, one in claimed["databases"].items():
        if (reached := made.txids.get(name) or 0) < int(one["txid"]):
            raise DataBad(f"{name} ends with transaction {reached} off-site, the mirror says {one['txid']}")
    return made


def _is_newest_offsite(point: Answer) -> bool:
    return (point["what"], point["source"], point["verdict"]) == ("newest", "offsite", "PASS")


def _txid(point: points.Point) -> int:
    return point.txid


def _at_entry(config: Config, proof: Proof, entry: Answer, folder: Path) -> Copy:
    """The replica at the transaction that the newest backup noted: their row counts must agree."""
    _require_room(config)
    txids = {name: noted.get("txid") for name, noted in entry["databases"].items()}
    if not all(txids.values()):
        raise LookupError("the newest backup couldn't note its transaction")
    output_of, at = sources.in_folder(folder), str(entry["at"])
    made = sources.from_replica(config, proof.store, "vault", int(entry["epoch"]), txids, output_of, at=at)
    return replace(made, entry=str(entry["key"]))


def _snapshot(
    config: Config, proof: Proof, entry: Answer, folder: Path, place: Literal["vault", "offsite"] = "vault"
) -> Copy:
    _require_room(config)
    if not (snapshot := (catalogue.copies(entry).get(place) or {}).get("snapshot")):
        if place == "offsite":
            raise LookupError(f"{entry['key']} has no copy off-site: fab backup")
        raise DataBad(f"{entry['key']} has no snapshot in the vault", hint="fab backup --full")
    source: sources.Source = "snapshot" if place == "vault" else "offsite"
    made = sources.from_restic(config, proof.repositories[place], source, str(snapshot), folder, at=str(entry["at"]))
    return replace(made, epoch=int(entry["epoch"]), entry=str(entry["key"]))


def _require_room(config: Config) -> None:
    layout = config.layout
    live = [layout.live(d) for d in config.service.databases]
    size = sum(path.stat().st_size for path in live if path.exists())
    need, free = int(size * ROOM_FACTOR) + ROOM_EXTRA, shutil.disk_usage(layout.state).free
    if free < need:
        raise LookupError(f"a rehearsal needs {need >> 20} MB of free disk on {config.name}, there are {free >> 20} MB")


def _prove_one(config: Config, make: _Make, entry: Answer | LifelineError | None, scratch: Path) -> Answer:
    what, source, restore = make
    begun, began = time.monotonic(), _stamp(datetime.now(UTC))
    said: Answer = {"source": source, "what": what, "entry": None, "epoch": None, "txid": None, "at": None}
    if what == "entry" and isinstance(entry, dict):
        said["entry"] = entry["key"]  # a restore that fails is one of this backup, too
    if what == "entry" and not isinstance(entry, dict):
        why = "there is no backup in the catalogue: fab backup --full" if entry is None else entry.message
        return {**said, "verdict": "FAIL" if isinstance(entry, DataBad) else "UNKNOWN", "says": why, "seconds": 0.0}
    try:
        copy = restore()
    except points.Inside as error:
        # Compacted since: no file ends there any more, so there are no rows to compare. The snapshot's are.
        return {**said, "verdict": "SKIPPED", "says": error.message, "seconds": round(time.monotonic() - begun, 3)}
    except Exception as error:  # whatever damage does to what reads it: the others go on, and the report is written
        found = _told(error)
        seconds = round(time.monotonic() - begun, 3)
        return {**said, "verdict": str(found.verdict), "says": found.says, "seconds": seconds}
    finding, differ, sentinel = _looked_at(config, copy, entry if isinstance(entry, dict) else None, scratch)
    return {
        **{"source": source, "what": what, "entry": copy.entry, "epoch": copy.epoch, "at": copy.at},
        **{"txid": next(iter(copy.txids.values()), None), "verdict": str(finding.verdict), "says": finding.says},
        **{"seconds": round(time.monotonic() - begun, 3), "bytes": copy.bytes, "restore_s": copy.seconds},
        **{"began": began, "sentinel_at": sentinel, "rows_differ": differ},
    }


def _looked_at(
    config: Config, copy: Copy, entry: Answer | None, scratch: Path
) -> tuple[Finding, list[str], str | None]:
    """(what is found of a restored copy, where it differs from the catalogue, its sentinel). Only of a good one are
    rows counted and the sentinel read: damage would end that in the middle."""
    finding = _verify(config, copy)
    if finding.verdict is not Verdict.PASS:
        return finding, [], None
    try:
        differ = _differences(copy, entry, scratch, config) if copy.entry is not None and entry else []
        sentinel = _sentinel(copy)
    except Exception as error:
        return _told(error), [], None
    if differ:
        return Finding.failed(f"differs from the catalogue: {differ[0]}"), differ, sentinel
    return finding, [], sentinel


def _told(error: Exception) -> Finding:
    """What stopped a rehearsal, as a finding: damage is FAIL, and nothing is known after anything else."""
    if isinstance(error, DataBad):
        return Finding.failed(error.message)
    if isinstance(error, LifelineError):
        return Finding.unknown(error.message)
    if isinstance(error, OSError) or type(error) is LookupError:
        return Finding.unknown(str(error))
    return classified(error)


def _verify(config: Config, copy: Copy) -> Finding:
    findings = {}
    for name, path in copy.paths.items():
        invariants = config.service.invariants_of(name)
        with during(f"verifying {name}"):
            findings[name] = verify_database(path, invariants, "full", within=CHECK_S)
    return worst(findings)


def _differences(copy: Copy, entry: Mapping[str, Any], scratch: Path, config: Config) -> list[str]:
    """Where a restored copy isn't what the catalogue says of it; row counts, and of a snapshot every file too."""
    found = []
    for name, path in copy.paths.items():
        noted = (entry.get("databases") or {}).get(name, {}).get("rows")
        counted = backups.count_rows(path)
        if noted is None:
            continue
        for table in sorted({*noted, *counted}):
            if noted.get(table) != counted.get(table):
                found.append(f"{name}.{table} has {counted.get(table)} rows, the catalogue says {noted.get(table)}")
    if not copy.as_replicated:  # restic's: the small files beside it too
        files = scratch / str(config.layout.staging).lstrip("/") / "files"
        for kind in ("configuration", "state"):
            for path_text, note in ((entry.get("files") or {}).get(kind) or {}).items():
                here = files / str(path_text).lstrip("/")
                if not here.exists() or backups.digest(here) != note.get("sha256"):
                    found.append(f"{path_text} is not what it was")
    return found


def _sentinel(copy: Copy) -> str | None:
    """The oldest of the databases' sentinels; None where one has none."""
    found = []
    for path in copy.paths.values():
        with connect(path) as connection:
            if not rows(connection, f"SELECT 1 FROM sqlite_schema WHERE name = '{TABLE}'"):
                return None
            found += [str(row[0]) for row in rows(connection, f"SELECT at FROM {TABLE}")]
    return min(found, default=None)


def _age(newest: Mapping[str, Any], at: datetime) -> float | None:
    """Seconds between the newest sentinel in the restored copy and the restore's beginning: what would be lost now.

    The sentinel is the primary's clock, the restore this host's: less than nothing means that they differ, and then
    nothing is known.
    """
    if not newest.get("sentinel_at"):
        return None
    try:
        age = (at - datetime.fromisoformat(str(newest["sentinel_at"]))).total_seconds()
    except (ValueError, TypeError):
        return None  # it isn't what was written
    return round(max(0.0, age), 3) if age > -2.0 else None


def _age_at_its_begin(point: Mapping[str, Any]) -> float | None:
    """The same, for a restore that others went before."""
    return _age(point, datetime.fromisoformat(str(point["began"])))


def _checks(config: Config, proof: Proof, weekly: bool, progress: Say) -> list[Answer]:
    if not weekly:
        return []
    found = []
    for database in config.service.databases:
        meter = Meter(f"reading the chain of {database.name}", progress)
        walk = partial(_walk, config, proof, database.name, meter)
        found.append(_check(f"chain of {database.name}", walk))
    with during("restic check", progress):
        found.append(_check("restic check", lambda: _restic_check(proof.repositories["vault"])))
    if backups.has_local(config):
        with during("restic check of this host's own backups", progress):
            found.append(_check(f"restic check on {config.name}", lambda: _restic_check(proof.repositories["local"])))
    return found


def _check(name: str, run: Callable[[], str]) -> Answer:
    begun = time.monotonic()
    try:
        verdict, says = "PASS", run()
    except DataBad as error:
        verdict, says = "FAIL", error.message
    except Exception as error:
        verdict, says = str(_told(error).verdict), _told(error).says
    return {"name": name, "verdict": verdict, "says": says, "seconds": round(time.monotonic() - begun, 3)}


def _walk(config: Config, proof: Proof, database: str, meter: Meter) -> str:
    epoch = sources.newest_epoch(config, proof.store, proof.epoch)
    walked = points.walk(proof.store, config.service.name, epoch, database, deep=True, progress=meter)
    if walked.damaged:
        raise DataBad(f"{len(walked.damaged)} damaged: {walked.damaged[0][0]}: {walked.damaged[0][1]}")
    if walked.holes:
        raise DataBad(f"transactions {walked.holes[0][0] + 1} to {walked.holes[0][1] - 1} are in no file")
    return f"{walked.pieces} files, {walked.bytes} bytes, whole up to transaction {walked.newest}"


def _restic_check(repository: snapshots.Repository) -> str:
    argv = snapshots.check_argv(repository, CHECK_PERCENT)
    done = proc.run(argv, timeout=CHECK_S, env=repository.environment)
    if done.ok:
        return f"structure whole, {CHECK_PERCENT} % of the packs read"
    words = ("pack", "blob", "damaged", "broken", "corrupt", "does not match", "missing")
    if any(word in done.stderr.lower() for word in words) and "unable to" not in done.stderr.lower():
        raise DataBad(f"restic check: {done.reason}", hint="restic repair, or fab backup --full into a new repository")
    raise snapshots.failure(repository.place, "check it", done.code, done.stderr)


def _newest_entry(store: Store, service: str) -> Any:
    """The newest backup's entry, None when there is none, a LifelineError when it can't be read."""
    try:
        keys = catalogue.entry_keys(info.key for info in store.list(catalogue.root(service)))
        return catalogue.parse(keys[0], store.get(keys[0]).body) if keys else None
    except LifelineError as error:
        return error


def _worst(verdicts: list[str]) -> str:
    return next((verdict for verdict in ("FAIL", "UNKNOWN") if verdict in verdicts), "PASS")


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
