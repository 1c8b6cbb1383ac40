"""`lifeline-host prune`: lets go of what retention.py says may go: snapshots in the vault and on the host, epochs that
were superseded long ago, the finest points of days gone by. On a standby of its own snapshots alone: the vault is the
primary's to prune, and what a former primary kept on its disk is nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from lifeline import backups, catalogue, continuation, ltx, points, replica, retention, snapshots
from lifeline.errors import LifelineError
from lifeline.layout import Config
from lifeline.progress import during
from lifeline.store import Store

Answer = dict[str, Any]


def prune(config: Config, store: Store, epoch: int, *, dry_run: bool = False, now: datetime | None = None) -> Answer:
    """Do it, or with `dry_run` only say it. Each part that can't be looked at is told, and nothing of it goes."""
    now, policy, service = now or datetime.now(UTC), config.inventory.backups, config.service.name
    verified = verifications(store, service)
    days: dict[snapshots.Place, int] = {"vault": policy.vault_days, "local": policy.local_days}
    answer = _snapshots(config, store, verified, days, now, dry_run)
    answer["catalogue"] = _catalogue(config, store, answer["snapshots"].get("vault") or [], now, dry_run)
    keep = timedelta(days=policy.points_days)
    found = epochs_of(store, service, epoch, proved_epochs(verified, "vault"), keep, now)
    answer["epochs"] = retention.expired_epochs(found, keep, now)
    if not dry_run:
        for number in answer["epochs"]:
            remove_epoch(store, service, number)
    older = now - timedelta(hours=policy.fine_points_hours)
    for one in found:
        if one.number in answer["epochs"]:
            continue
        for database in config.service.databases:
            fine = points.expired_fine(store, service, one.number, database.name, older)
            answer["fine_points"] += sum(1 for _ in fine) if dry_run else store.delete_all(list(fine))
    return answer


def prune_local(config: Config, store: Store, *, dry_run: bool = False, now: datetime | None = None) -> Answer:
    """The part of it that a standby does; nothing where it was never primary. What the vault's catalogue says was
    proved is kept here too."""
    there: dict[snapshots.Place, int] = (
        {"local": config.inventory.backups.local_days} if backups.has_local(config) else {}
    )
    verified = verifications(store, config.service.name)
    return _snapshots(config, store, verified, there, now or datetime.now(UTC), dry_run)


def _snapshots(
    config: Config,
    store: Store,
    verified: Sequence[Mapping[str, Any]],
    days: Mapping[snapshots.Place, int],
    now: datetime,
    dry_run: bool,
) -> Answer:
    answer: Answer = {"dry_run": dry_run, "snapshots": {}, "epochs": [], "fine_points": 0, "errors": []}
    with backups.one_at_a_time(config, "backup"):  # restic's prune and backup would wait for each other anyway
        for place, kept in days.items():
            try:
                repository = backups.repository(config, place)
                proved = proved_snapshots(store, verified, place, "snapshot")
                answer["snapshots"][place] = _forget(repository, proved, timedelta(days=kept), now, dry_run)
                if answer["snapshots"][place] and not dry_run:  # before their entries go: it may be cut off here
                    backups.note_holding(config, repository, store.put)
            except LifelineError as error:
                answer["errors"].append(f"{place}: {error.message}")
    return answer


def _catalogue(config: Config, store: Store, forgotten: Sequence[str], now: datetime, dry_run: bool) -> list[str]:
    """Entries whose snapshot in the vault was let go of, and verifications as old, but the newest."""
    service, keep = config.service.name, timedelta(days=config.inventory.backups.vault_days)
    keys = [info.key for info in store.list(catalogue.root(service))]
    gone = [key for key in catalogue.verified_keys(keys)[1:] if catalogue.time_of(key) < now - keep]
    for key in catalogue.entry_keys(keys):
        snapshot = snapshot_of(store, key, "vault")  # older versions of restic noted the beginning of its id
        if catalogue.time_of(key) < now - keep and snapshot and any(one.startswith(snapshot) for one in forgotten):
            gone.append(key)
    if not dry_run:
        for key in gone:
            store.delete(key)
    return gone


def snapshot_of(store: Store, key: str, place: str) -> str | None:
    """The id of an entry's snapshot in a place; None where it has none, or can't be read."""
    try:
        entry = catalogue.parse(key, store.get(key).body)
    except LifelineError:
        return None
    found = (catalogue.copies(entry).get(place) or {}).get("snapshot")
    return str(found) if found else None


def verifications(store: Store, service: str) -> list[Mapping[str, Any]]:
    """Every verification that can be read, the newest first."""
    found: list[Mapping[str, Any]] = []
    for key in catalogue.verified_keys(info.key for info in store.list(catalogue.root(service))):
        try:
            found.append(catalogue.parse_verification(key, store.get(key).body))
        except LifelineError:
            continue
    return found


def _good_points(verified: Sequence[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    points_ = [point for one in verified for point in one.get("points") or ()]
    return [point for point in points_ if point.get("verdict") == "PASS" and point.get("source") == source]


def proved_snapshots(store: Store, verified: Sequence[Mapping[str, Any]], place: str, source: str) -> frozenset[str]:
    """Snapshots of that place that belong to an entry whose snapshot was restored from `source`, and good. The same
    staging makes all copies of an entry: the host's own is as good as the vault's, which was restored."""
    keys = {str(point["entry"]) for point in _good_points(verified, source) if point.get("entry")}
    return frozenset(found for key in keys if (found := snapshot_of(store, key, place)))


def proved_epochs(verified: Sequence[Mapping[str, Any]], source: str) -> frozenset[int]:
    """Epochs whose replica in `source` was restored, and good; not those of restic's copies."""
    return frozenset(int(p["epoch"]) for p in _good_points(verified, source) if p.get("epoch") and p.get("txid"))


def _forget(
    repository: snapshots.Repository, proved: frozenset[str], keep: timedelta, now: datetime, dry_run: bool
) -> list[str]:
    backups.open_repository(repository, create=False)
    listed = snapshots.parse_list(backups.restic(repository, snapshots.list_argv(repository), "list snapshots"))
    # Older versions of restic name what they saved by the beginning of its id.
    known = frozenset(one.id for one in listed if one.id.startswith(tuple(proved)))
    gone = [snapshot.id for snapshot in retention.expired_snapshots(listed, known, keep, now)]
    if gone and not dry_run:
        with during(f"letting go of {len(gone)} snapshots ({repository.place})"):
            backups.restic(repository, snapshots.forget_argv(repository, gone), "forget snapshots")
    return gone


def epochs_of(
    store: Store, service: str, newest: int, proved: frozenset[int], keep: timedelta, now: datetime
) -> list[retention.Epoch]:
    """The epochs that a store holds, as retention judges them."""
    return [
        _epoch(store, service, number, number in proved, now - keep) for number in points.epochs(store, service, newest)
    ]


def _epoch(store: Store, service: str, number: int, proved: bool, before: datetime) -> retention.Epoch:
    prefix = replica.epoch_prefix(service, number)
    last, databases, rooted = datetime.min.replace(tzinfo=UTC), set(), set()
    for info in store.list(prefix):
        last = max(last, info.modified)
        if found := ltx.parse_key(info.key):
            name = info.key.removeprefix(prefix).split("/", 1)[0]
            databases.add(name)
            if found[0] == points.SNAPSHOTS and info.modified < before:
                rooted.add(name)
    base = continuation.of(store, service, number)
    # With an old snapshot of its own, whatever is still of interest in it begins there.
    return retention.Epoch(number, last, proved, base.epoch if base and databases != rooted else None)


def remove_epoch(store: Store, service: str, number: int) -> int:
    """All of an epoch, in the order of `removal`. How many objects that were."""
    keys = [info.key for info in store.list(replica.epoch_prefix(service, number))]
    return sum(store.delete_all(group) for group in removal(keys))


def removal(keys: Iterable[str]) -> list[list[str]]:
    """An epoch's keys in groups, to be removed one after the other, each in any order: the snapshots; the first two
    files of each level, which are all that a restore without a snapshot can begin with; the others; and what says whose
    it was. So what an interrupted removal leaves has no beginning, or still its whole end: it is never taken for a
    shorter whole."""
    snapshots_, heads, others, notes = [], [], [], []
    for _, files in groupby(sorted(keys), key=lambda key: key.rpartition("/")[0]):
        names = list(files)  # in the order of their transactions
        if (found := ltx.parse_key(names[0])) is None:
            notes += names
        elif found[0] == points.SNAPSHOTS:
            snapshots_ += names
        else:
            heads += names[:2]
            others += names[2:]
    return [group for group in (snapshots_, heads, others, notes) if group]
