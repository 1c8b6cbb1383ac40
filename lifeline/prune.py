"""`lifeline-host prune`: lets go of what retention.py says may go: snapshots in the vault and on the host, epochs that
were superseded long ago, the finest points of days gone by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeline import backups, catalogue, continuation, ltx, points, replica, retention, snapshots
from lifeline.errors import LifelineError
from lifeline.layout import Config
from lifeline.progress import during
from lifeline.store import Store, find

Answer = dict[str, Any]


def prune(config: Config, store: Store, epoch: int, *, dry_run: bool = False, now: datetime | None = None) -> Answer:
    """Do it, or with `dry_run` only say it. Each part that can't be looked at is told, and nothing of it goes."""
    now, policy = now or datetime.now(UTC), config.inventory.backups
    verified = _verifications(store, config.service.name)
    answer: Answer = {"dry_run": dry_run, "snapshots": {}, "epochs": [], "fine_points": 0, "errors": []}
    with backups.one_at_a_time(config, "backup"):  # restic's prune and backup would wait for each other anyway
        for place, days in (("vault", policy.vault_days), ("local", policy.local_days)):
            try:
                repository = backups.repositories(config)[place]  # type: ignore[index]
                proved = _proved_snapshots(store, verified, place)
                answer["snapshots"][place] = _forget(repository, proved, timedelta(days=days), now, dry_run)
            except LifelineError as error:
                answer["errors"].append(f"{place}: {error.message}")
    answer["catalogue"] = _catalogue(config, store, answer["snapshots"].get("vault") or [], now, dry_run)
    found = _epochs(config, store, epoch, verified)
    answer["epochs"] = retention.expired_epochs(found, timedelta(days=policy.points_days), now)
    if not dry_run:
        for number in answer["epochs"]:
            _remove_epoch(config, store, number)
    older = now - timedelta(hours=policy.fine_points_hours)
    for one in found:
        if one.number in answer["epochs"]:
            continue
        for database in config.service.databases:
            for key in list(points.expired_fine(store, config.service.name, one.number, database.name, older)):
                answer["fine_points"] += 1
                if not dry_run:
                    store.delete(key)
    return answer


def _catalogue(config: Config, store: Store, forgotten: Sequence[str], now: datetime, dry_run: bool) -> list[str]:
    """Entries whose snapshot in the vault was let go of, and verifications as old, but the newest."""
    service, keep = config.service.name, timedelta(days=config.inventory.backups.vault_days)
    keys = [info.key for info in store.list(catalogue.root(service))]
    gone = [key for key in catalogue.verified_keys(keys)[1:] if catalogue.time_of(key) < now - keep]
    for key in catalogue.entry_keys(keys):
        snapshot = _snapshot_of(store, key)  # older versions of restic noted the beginning of its id
        if catalogue.time_of(key) < now - keep and snapshot and any(one.startswith(snapshot) for one in forgotten):
            gone.append(key)
    if not dry_run:
        for key in gone:
            store.delete(key)
    return gone


def _snapshot_of(store: Store, key: str) -> str | None:
    try:
        entry = catalogue.parse(key, store.get(key).body)
    except LifelineError:
        return None
    return ((entry.get("copies") or {"vault": entry}).get("vault") or {}).get("snapshot")


def _verifications(store: Store, service: str) -> list[Mapping[str, Any]]:
    """Every verification that can be read, the newest first."""
    found: list[Mapping[str, Any]] = []
    for key in catalogue.verified_keys(info.key for info in store.list(catalogue.root(service))):
        try:
            found.append(catalogue.parse(key, store.get(key).body))
        except LifelineError:
            continue
    return found


def _good_points(verified: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [point for one in verified for point in one.get("points") or () if point.get("verdict") == "PASS"]


def _proved_snapshots(store: Store, verified: Sequence[Mapping[str, Any]], place: str) -> frozenset[str]:
    """Snapshots of that place that belong to an entry whose snapshot was restored and good. The same staging makes both
    copies of an entry; only the vault's was restored."""
    keys = {str(p["entry"]) for p in _good_points(verified) if p.get("source") == "snapshot" and p.get("entry")}
    ids = set()
    for key in keys:
        if (found := find(store, key)) is None:
            continue
        entry = catalogue.parse(key, found.body)
        copies = entry.get("copies") or {"vault": {"snapshot": entry.get("snapshot")}}
        if snapshot := (copies.get(place) or {}).get("snapshot"):
            ids.add(str(snapshot))
    return frozenset(ids)


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


def _epochs(config: Config, store: Store, newest: int, verified: Sequence[Mapping[str, Any]]) -> list[retention.Epoch]:
    proved = {point.get("epoch") for point in _good_points(verified) if point.get("source") == "vault"}
    found = []
    for number in points.epochs(store, config.service.name, newest):
        prefix = replica.epoch_prefix(config.service.name, number)
        last = max(info.modified for info in store.list(prefix))
        owner = find(store, f"{prefix}owner.json")
        base = continuation.of_owner(owner.body if owner else None)
        found.append(retention.Epoch(number, last, number in proved, base.epoch if base else None))
    return found


def _remove_epoch(config: Config, store: Store, number: int) -> None:
    """Snapshots first, then by transaction whatever the level: what an interrupted removal leaves has no beginning, or
    still its whole end; it is never taken for a shorter whole."""
    for key in removal_order(info.key for info in store.list(replica.epoch_prefix(config.service.name, number))):
        store.delete(key)


def removal_order(keys: Iterable[str]) -> list[str]:
    """An epoch's keys in the order in which they go."""

    def place(key: str) -> tuple[int, int, str]:
        found = ltx.parse_key(key)
        if found is None:
            return 2, 0, key
        return (0 if found[0] == points.SNAPSHOTS else 1), found[1], key

    return sorted(keys, key=place)
