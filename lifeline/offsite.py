"""The off-site vault: one pass of the mirror, from the vault to AWS S3 under Object Lock. Spaces can't copy across
regions, so what is new is streamed through the host.

Same keys, so that what restores from the vault restores from there. Nothing is ever removed here: a vault that was
emptied must not empty its copy. (restic's copies come there by themselves: backups.py.)

A pass knows from the last one what is there, and asks the off-site vault nothing: its requests cost money, and a
listing grows with what is listed. Once a day, and when an epoch begins, it looks at everything: what is missing is
copied again, an old epoch gets its last seconds, and what the off-site vault holds is judged.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeline import catalogue, continuation, excess, points, replica, snapshots
from lifeline.errors import DataBad, LifelineError
from lifeline.layout import Config, read_json, write_file
from lifeline.points import Piece
from lifeline.progress import Meter
from lifeline.store import Info, Missing, Store, find

# Finer files are for the first day, and the vault; a chain of these ends half a minute ago, and locks less.
FROM_LEVEL = 2
COARSE = (points.SNAPSHOTS, *(level for level in points.LEVELS if level >= FROM_LEVEL))
IN_MEMORY = 8 << 20
LOOK = timedelta(hours=24)
RECENT = timedelta(days=2)  # small documents are looked at again for so long: one may come late, or be written again
NOTES = ("inventory/", "bundle/current.json")  # keys that are written again
CLOCKS = timedelta(minutes=5)  # how far the vault's clock and a host's may differ
Answer = dict[str, Any]


@dataclass
class Tally:
    """What a pass has moved."""

    objects: int = 0
    bytes: int = 0
    meter: Meter = field(default_factory=lambda: Meter("copied off-site"))

    def add(self, size: int) -> None:
        self.objects, self.bytes = self.objects + 1, self.bytes + size
        self.meter(self.bytes, 0)


@dataclass(frozen=True)
class Known:
    """What this host knows of the off-site vault `where`, of `epoch`. `looked`: when it last looked at everything;
    `last`: the last file of each level; `etags`: of recent documents, the vault's; `report`: what was said last."""

    where: str
    epoch: int
    looked: datetime
    last: Mapping[str, str] = field(default_factory=dict)
    etags: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What was there when somebody last looked at everything, in whatever epoch: what the vault held by then had been
    copied; so had what this host's passes brought since, up to `last`. `restic`: of its repository, see `_restic`."""

    looked: datetime
    last: Mapping[str, str] = field(default_factory=dict)
    restic: Mapping[str, str] = field(default_factory=dict)

    def had(self, info: Info, folder: str = "") -> bool:
        """Was this object of the vault's there too?"""
        return info.modified < self.looked - CLOCKS or info.key <= self.last.get(folder, "")


def mirror(
    config: Config,
    vault: Store,
    offsite: Store,
    epoch: int,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Answer:
    """Copy what the off-site vault lacks; returns (and notes in the vault) what it holds.

    Interrupted anywhere, what is there restores, and the next pass goes on. Raises Unavailable.
    """
    begun, at, before = time.monotonic(), now(), (Counter(vault.asked), Counter(offsite.asked))
    known = _read(config, offsite)
    if known and known.epoch == epoch and timedelta(0) <= at - known.looked < LOOK:
        one = _Pass(config, vault, offsite, epoch, at, known)
        one.news()
    else:
        one = _Pass(config, vault, offsite, epoch, at, Known(offsite.where, epoch, at))
        one.everything(_seen(config, vault, offsite, known))
    report = {
        **{"version": 1, "at": _stamp(now()), "seconds": round(time.monotonic() - begun, 3)},
        **{"objects": one.tally.objects, "bytes": one.tally.bytes, "where": offsite.where},
        "requests": {"vault": dict(vault.asked - before[0]), "offsite": dict(offsite.asked - before[1])},
        **one.report,
    }
    body = json.dumps(report, indent=1).encode()
    vault.put(catalogue.offsite_key(config.service.name), body, content_type="application/json")
    if one.looked:
        offsite.put(catalogue.offsite_key(config.service.name), body, content_type="application/json")
    _write(config, replace(one.known, last=one.last, etags=one.etags, report=one.report))
    return report


class _Pass:
    """One pass. `last`, `etags` and `report` are what it leaves for the next."""

    def __init__(self, config: Config, vault: Store, offsite: Store, epoch: int, now: datetime, known: Known) -> None:
        self.config, self.vault, self.offsite, self.epoch, self.now = config, vault, offsite, epoch, now
        self.service, self.known = config.service.name, known
        self.databases = [database.name for database in config.service.databases]
        self.tally, self.looked, self.missed = Tally(), False, list[str]()
        self.seen: Seen | None = None
        self.last, self.etags, self.report = dict(known.last), dict(known.etags), dict(known.report)

    def news(self) -> None:
        """What came to the vault since the last pass."""
        copied = {name: self._new_files(name) for name in self.databases}
        entries = self._documents(anew=False)
        if entries:
            self._list_snapshots()
        self.report["replica"] = self._position(copied)

    def everything(self, seen: Seen | None) -> None:
        """All that is in the vault and not off-site, from the listings of both."""
        self.seen = seen
        for number in points.epochs(self.vault, self.service, self.epoch):
            self._documents_below(f"{replica.epoch_prefix(self.service, number)}owner.json", anew=True)
            for name in self.databases:
                for folder in _folders(self.service, number, name):
                    for info in lacking(self.vault.list(folder), self.offsite.list(folder)):
                        if self._copy(info) and seen and seen.had(info, folder):
                            self.missed.append(info.key)
                if number < self.epoch:
                    self._last_seconds(number, name)
        for name in self.databases:
            for folder in _folders(self.service, self.epoch, name):
                self.last[folder] = max((info.key for info in self.offsite.list(folder)), default="")
        self._documents(anew=True)
        self._list_snapshots()
        self.report["restic"] = {**self.report["restic"], **self._restic("keys/"), **self._restic("config")}
        self.report["replica"] = restorable(self.config, self.offsite, self.epoch)
        self.report["checked"] = self._judged(sorted(self.missed), self._gone())
        self.looked = True

    def _new_files(self, database: str) -> list[Piece]:
        """Of this epoch, level by level, those behind the last one that is there."""
        copied: list[Piece] = []
        for folder in _folders(self.service, self.epoch, database):
            for info in self.vault.list(folder, after=self.last.get(folder, "")):
                if self._copy(info):
                    copied += points.pieces([info])
                self.last[folder] = info.key
        return copied

    def _last_seconds(self, epoch: int, database: str) -> None:
        """What an epoch that has ended holds behind its coarse files: nobody will compact it any more."""
        prefix = replica.replica_prefix(self.service, epoch, database)
        coarse = (self.vault.list(folder) for folder in _folders(self.service, epoch, database))
        end = max((piece.last for infos in coarse for piece in points.pieces(infos)), default=0)
        if not end:
            base = continuation.of(self.vault, self.service, epoch)
            end = base.txids.get(database, 0) if base else 0
        fine = points.onward(self.vault, self.service, epoch, database, end)
        there = {key for level in range(FROM_LEVEL) for key in _keys(self.offsite, f"{prefix}/{level:04x}/")}
        for piece in fine:
            if piece.key not in there:
                self._copy(Info(piece.key, piece.size, "", piece.modified))

    def _documents(self, *, anew: bool) -> int:
        """Catalogue, bundle, journals, sealed inventory. How many entries of the catalogue were new."""
        stamp = f"{self.now - RECENT:%Y%m%dT}"
        self.etags = {}
        entries = self._documents_below(catalogue.entries(self.service), after=stamp, anew=anew)
        for prefix in (catalogue.verified(self.service), "journal/"):
            self._documents_below(prefix, after=stamp, anew=anew)
        for prefix in ("bundle/", "inventory/"):
            self._documents_below(prefix, anew=anew)
        return entries

    def _documents_below(self, prefix: str, *, after: str = "", anew: bool) -> int:
        there = {info.key: info.size for info in self.offsite.list(prefix)} if anew else {}
        recent, count = f"{prefix.rpartition('/')[0]}/{after}", 0
        for info in self.vault.list(prefix, after="" if anew else recent):
            if anew:
                same = there.get(info.key) == info.size and not (info.key.startswith(NOTES) and self._differs(info))
            else:
                same = self.known.etags.get(info.key) == info.etag
            if not same and self._copy(info):
                count += 1
                if anew and info.key not in there and self.seen and self.seen.had(info):
                    self.missed.append(info.key)
            if info.key > recent:
                self.etags[info.key] = info.etag
        return count

    def _differs(self, info: Info) -> bool:
        here, there = find(self.vault, info.key), find(self.offsite, info.key)
        return here is not None and there is not None and here.body != there.body

    def _copy(self, info: Info) -> bool:
        return copy(self.vault, self.offsite, info, self.tally)

    def _list_snapshots(self) -> None:
        listed = list(self.offsite.list(f"{snapshots.prefix(self.service)}snapshots/"))
        self.report["snapshots"] = [info.key.rpartition("/")[2] for info in listed]
        self.report["listed"] = _stamp(self.now)
        # What has gone since the last look at everything is still to be missed by the next one.
        self.report["restic"] = {**(self.report.get("restic") or {}), **dict(map(_short, listed))}

    def _restic(self, below: str) -> dict[str, str]:
        return dict(map(_short, self.offsite.list(f"{snapshots.prefix(self.service)}{below}")))

    def _gone(self) -> list[str]:
        """What restic's repository held at the last look and doesn't now, although no policy lets go of it yet: what
        opens it never goes, and its snapshots when they are old. Nothing brings them again."""
        kept = f"{self.now - timedelta(days=self.config.inventory.backups.offsite_days):%Y-%m-%d}"
        held, there = (self.seen.restic if self.seen else {}), self.report["restic"]
        return sorted(
            name for name, of in held.items() if name not in there and (of > kept or not name.startswith("snapshots/"))
        )

    def _position(self, copied: Mapping[str, list[Piece]]) -> Answer | None:
        """What restores from there: what did before, and the files that go on from it."""
        before = self.report.get("replica")
        if not before or before["epoch"] != self.epoch or set(before["databases"]) != set(self.databases):
            return restorable(self.config, self.offsite, self.epoch)
        databases = {}
        for name, noted in before["databases"].items():
            end, newest = int(noted["txid"]), None
            for piece in sorted(copied[name], key=lambda piece: piece.first):
                if piece.first > end + 1:
                    return restorable(self.config, self.offsite, self.epoch)  # a hole: look what it comes to
                if piece.last > end:
                    end, newest = piece.last, piece
            at = _stamp(points.header(self.vault, newest).at) if newest else noted["at"]
            databases[name] = {"txid": end, "at": at}
        return {"epoch": self.epoch, "databases": databases}

    def _judged(self, missed: list[str], gone: list[str]) -> Answer:
        """How much there is, what was missing although it had been copied, what of restic's is gone, what no restore
        can get across, and what is there beyond its policy."""
        objects, size = excess.total(self.offsite.list())
        policy = self.config.inventory.backups
        holes = []
        for number in points.epochs(self.offsite, self.service, self.epoch):
            for name in self.databases:
                walked = points.walk(self.offsite, self.service, number, name)
                holes += [f"epoch {number}, {name}, behind transaction {end}" for end, _ in walked.holes]
        beyond = excess.survey(self.vault, self.offsite, self.service, policy, self.epoch, self.now)
        return {
            **{"at": _stamp(self.now), "objects": objects, "bytes": size},
            **{"missed": len(missed), "missed_first": min(missed, default=None)},
            **{"gone": len(gone), "gone_first": min(gone, default=None)},
            **{"holes": holes, "beyond": beyond.to_json()},
        }


def _short(info: Info) -> tuple[str, str]:
    """An object of restic's repository, by folder and the beginning of its name, and its day."""
    folder, _, name = info.key.split("/", 2)[2].rpartition("/")
    return f"{folder}/{name[:16]}", f"{info.modified.astimezone(UTC):%Y-%m-%d}"


def _folders(service: str, epoch: int, database: str) -> list[str]:
    """One database's coarse files, by level, in the order in which what is there is whole at any moment."""
    prefix = replica.replica_prefix(service, epoch, database)
    return [f"{prefix}/{level:04x}/" for level in COARSE]


def _keys(store: Store, prefix: str) -> Iterator[str]:
    return (info.key for info in store.list(prefix))


def lacking(here: Iterable[Info], there: Iterator[Info]) -> Iterator[Info]:
    """Objects of one listing that the other hasn't, or has in another size; both in the order of their keys."""
    other = next(there, None)
    for info in here:
        while other is not None and other.key < info.key:
            other = next(there, None)
        if other is None or (other.key, other.size) != (info.key, info.size):
            yield info


def copy(vault: Store, offsite: Store, info: Info, tally: Tally) -> bool:
    """False when it is gone from the vault."""
    try:
        if info.size <= IN_MEMORY:
            offsite.put(info.key, vault.get(info.key).body)
        else:
            offsite.upload(io.BufferedReader(_Object(vault, info), points.PART), info.key, size=info.size)
    except Missing:
        return False  # retention was faster
    tally.add(info.size)
    return True


class _Object(io.RawIOBase):
    """An object of a store as a stream, read part by part."""

    def __init__(self, store: Store, info: Info) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        want = min(len(buffer), self._info.size - self._at)
        if want <= 0:
            return 0
        data = self._store.get_range(self._info.key, self._at, want)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def restorable(config: Config, offsite: Store, epoch: int) -> Answer | None:
    """What restores from there: the newest epoch that is whole, and each database's last transaction, with its time."""
    service = config.service.name
    for number in points.epochs(offsite, service, epoch):
        try:
            plans = [points.plan(offsite, service, number, d.name) for d in config.service.databases]
        except LifelineError:
            continue  # its first files aren't there yet
        return {"epoch": number, "databases": dict(_positions(offsite, plans))}
    return None


def _positions(offsite: Store, plans: list[points.Plan]) -> Iterator[tuple[str, Answer]]:
    for plan in plans:
        yield plan.database, {"txid": plan.txid, "at": _stamp(points.header(offsite, plan.pieces[-1]).at)}


def _seen(config: Config, vault: Store, offsite: Store, known: Known | None) -> Seen | None:
    """By this host's own note, or by the report in the vault where the other host looked since."""
    own = Seen(known.looked, known.last, known.report.get("restic") or {}) if known else None
    try:
        found = find(vault, catalogue.offsite_key(config.service.name))
        report = catalogue.parse("offsite.json", found.body) if found else {}
        if report.get("where") != offsite.where:
            return own
        other = Seen(datetime.fromisoformat(report["checked"]["at"]), {}, dict(report["restic"]))
    except (DataBad, KeyError, TypeError, ValueError):
        return own
    return own if own and own.looked >= other.looked else other


def _read(config: Config, offsite: Store) -> Known | None:
    """What the last pass noted; None when that is of another off-site vault, or can't be read."""
    found = read_json(config.layout.state / "offsite-known.json") or {}
    try:
        known = Known(**{**found, "looked": datetime.fromisoformat(found["looked"])})
    except (KeyError, TypeError, ValueError):
        return None
    return known if known.where == offsite.where else None


def _write(config: Config, known: Known) -> None:
    body = json.dumps({**asdict(known), "looked": _stamp(known.looked)})
    write_file(config.layout.state / "offsite-known.json", body)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
