"""The moments a replica can be restored to, and the files that takes. Reads only, through a Store.

Litestream keeps transactions as files at several levels: 0 as they came, then compacted by the second, the half
minute, five minutes and the hour, and snapshots at level 9. A *point* is a transaction at which some file ends. The
same keys are in the vault and in the off-site bucket, so everything here works on either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from lifeline import continuation, ltx, replica
from lifeline.errors import BadInput, DataBad, StepFailed
from lifeline.store import Info, Missing, Progress, Store

SNAPSHOTS = 9
LEVELS = tuple(range(len(replica.LEVELS), -1, -1))
FINE = 1
PART = 8 << 20
_LOOK_BACK = (0, 1 << 8, 1 << 16)  # transactions; a file that spans a boundary begins somewhat before it


class NothingOldEnough(StepFailed):
    """There is nothing from before the time asked for. `first`: the earliest moment there is, where that is known."""

    def __init__(self, message: str, *, hint: str = "", first: datetime | None = None) -> None:
        super().__init__(message, hint=hint)
        self.first = first


class Inside(BadInput):
    """The transaction asked for lies inside a compacted file: no file ends there."""


class Gap(DataBad):
    """Files are missing. `reach`: the last transaction before the hole, and `epoch` the one it is in; 0 when nothing
    can be restored."""

    def __init__(self, message: str, reach: int = 0, epoch: int = 0, *, hint: str = "") -> None:
        hint = hint or "fab restore goes back to the last point before it; fab verify says how much"
        super().__init__(message, hint=hint)
        self.reach, self.epoch = reach, epoch


@dataclass(frozen=True, slots=True)
class Piece:
    """One file: the transactions it holds, its size in bytes, and when it was written to this bucket (UTC)."""

    key: str
    level: int
    first: int
    last: int
    size: int
    modified: datetime


@dataclass(frozen=True)
class Point:
    """A transaction one can go back to. `at`: when it was committed, or for `points` when the store got its file."""

    epoch: int
    txid: int
    at: datetime | None


@dataclass(frozen=True)
class Plan:
    """The files that make a database as it was at `txid`, in the order in which they are applied."""

    service: str
    epoch: int
    database: str
    txid: int
    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """What will be downloaded."""
        return sum(piece.size for piece in self.pieces)


def epochs(store: Store, service: str, newest: int) -> list[int]:
    """The epochs up to `newest` that hold anything of a replica, the newest first."""
    return [
        epoch
        for epoch in range(newest, 0, -1)
        if any(ltx.parse_key(info.key) for info in store.list(replica.epoch_prefix(service, epoch)))
    ]


def plan(
    store: Store,
    service: str,
    epoch: int,
    database: str,
    *,
    txid: int | None = None,
    avoid: frozenset[str] = frozenset(),
) -> Plan:
    """The files for the end of the replica, or for exactly `txid`, without those in `avoid`.

    Lists what lies behind the snapshot it begins with, not the whole replica. Raises Gap when files are missing or
    avoided that nothing replaces, NothingOldEnough when there is nothing to begin with, BadInput when no file ends
    at `txid`.
    """
    look = _Look(store, service, epoch, database, avoid)
    gaps: list[Gap] = []
    for begin in look.beginnings(txid):
        try:
            return look.finish(begin, txid)
        except Gap as gap:
            gaps.append(gap)
    if gaps := [*gaps, *look.gaps_before]:
        raise max(gaps, key=lambda gap: gap.reach)
    if txid is None and look.first_transaction() is None:
        raise NothingOldEnough(f"epoch {epoch} holds no replica of {database}")
    if txid is None or look.damaged_beginning:
        raise Gap(f"{database}: epoch {epoch} has no whole snapshot to begin with")
    raise NothingOldEnough(f"{database}: nothing in epoch {epoch} goes back to transaction {txid}")


class _Listed:
    """A level's files behind `at`, asked for as far as they are needed, and never twice."""

    def __init__(self, at: int, pieces: Iterator[Piece]) -> None:
        self.at, self._pieces, self._seen = at, pieces, list[Piece]()

    def __iter__(self) -> Iterator[Piece]:
        yield from self._seen
        for piece in self._pieces:
            self._seen.append(piece)
            yield piece


class _Look:
    """One search through one database's replica of one epoch.

    The replica may be written meanwhile. So each level is listed once, coarse ones first: the end is where the finest
    ended then. Asked again, it would recede for as long as the writer is faster than the listing.
    """

    def __init__(self, store: Store, service: str, epoch: int, database: str, avoid: frozenset[str]) -> None:
        self.store, self.service, self.epoch, self.database, self.avoid = store, service, epoch, database, avoid
        self.prefix = replica.replica_prefix(service, epoch, database)
        self.damaged_beginning = False
        self.gaps_before: list[Gap] = []  # in the epoch that this one continues
        self.listed: dict[int, _Listed] = {}

    @cached_property
    def snapshots(self) -> list[Piece]:
        return list(self.pieces(SNAPSHOTS))

    def pieces(self, level: int, after: int = 0) -> Iterator[Piece]:
        """Files of a level in order, those whose first transaction is behind `after`."""
        folder = f"{self.prefix}/{level:04x}/"
        start = f"{folder}{after:016x}-{'f' * 16}.ltx" if after else ""
        yield from (piece for piece in pieces(self.store.list(folder, after=start)) if piece.level == level)

    def spanning(self, level: int, at: int) -> Iterable[Piece]:
        """Files of a level in order, from the one that goes on from transaction `at`, even if it began before it."""
        known = self.listed.get(level)
        if known is None or at < known.at:
            known = self.listed[level] = _Listed(at, self._spanning(level, at))
        return known

    def _spanning(self, level: int, at: int) -> Iterator[Piece]:
        for back in _LOOK_BACK:
            if back >= at:
                break
            candidates = self.pieces(level, at - back)
            first = next(candidates, None)
            if first is not None and first.first <= at + 1:
                yield first
                yield from candidates
                return
        yield from self.pieces(level)

    def between(self, level: int, end: int, limit: int | None) -> Iterator[Piece]:
        """Files of a level that go beyond `end`, and begin at `limit` at the latest."""
        for piece in self.spanning(level, end):
            if limit is not None and piece.first > limit:
                return
            if piece.last > end:
                yield piece

    @cached_property
    def oldest(self) -> list[Piece]:
        """Each level's first file, but for the snapshots."""
        return [piece for level in LEVELS if (piece := next(self.pieces(level), None))]

    def from_one(self) -> bool:
        """Does the replica still hold its very first file?"""
        return any(piece.first == 1 for piece in self.oldest)

    def first_transaction(self) -> int | None:
        return min((piece.first for piece in (*self.snapshots[:1], *self.oldest)), default=None)

    def beginnings(self, txid: int | None) -> Iterator[tuple[Piece, ...]]:
        """What a restore may begin with, the best first: each snapshot, the epoch before, nothing."""
        for piece in reversed([p for p in self.snapshots if txid is None or p.last <= txid]):
            if piece.key in self.avoid:
                self.damaged_beginning = True
            else:
                yield (piece,)
        before = self.continues()
        if before and (txid is None or txid > before[1]) and (pieces := self.up_to(*before)):
            yield pieces
        if self.from_one():
            yield ()

    def continues(self) -> tuple[int, int] | None:
        """(epoch, transaction) that this epoch goes on from. Its owner says so before it is done: where it never was,
        the epoch began with a full copy, whose transactions are counted from one."""
        found = continuation.of(self.store, self.service, self.epoch)
        end = found.txids.get(self.database) if found else None
        if found is None or end is None or any(piece.first < end for piece in self.oldest):
            return None
        return found.epoch, end

    def up_to(self, epoch: int, end: int) -> tuple[Piece, ...]:
        """The files of the epoch before, up to where this one goes on from; none where that was pruned, or has a gap:
        then there may be another beginning."""
        try:
            return plan(self.store, self.service, epoch, self.database, txid=end, avoid=self.avoid).pieces
        except NothingOldEnough:
            pass
        except Gap as gap:
            self.gaps_before.append(gap)
        except BadInput as error:
            says = f"epoch {self.epoch} goes on from transaction {end} of epoch {epoch}, which isn't there"
            self.gaps_before.append(Gap(f"{says}: {error.message}"))
        return ()

    def finish(self, begin: tuple[Piece, ...], txid: int | None) -> Plan:
        """From the beginning to the end, in as few files as possible: coarse levels first, finer ones for the rest."""
        more, beyond = self.onward(begin[-1].last if begin else 0, txid)
        chosen = [*begin, *more]
        end = chosen[-1].last if chosen else 0
        if txid is not None and end < txid:
            if beyond is None:
                raise BadInput(
                    f"{self.database}: epoch {self.epoch} ends with transaction {end}, before {txid}",
                    hint="fab restore, without --txid, goes to the end",
                )
            if self.covered(end, txid):
                raise Inside(
                    f"{self.database}: transaction {txid} lies inside a file; the one before it to go back to is {end}",
                    hint=f"fab restore --txid {end}",
                )
        if (txid is None and beyond) or (txid is not None and end < txid):
            says = f"the replica of {self.database} has a gap behind transaction {end} of epoch {self.epoch}"
            raise Gap(says, end, self.epoch)
        if not end:
            raise Gap(f"{self.database}: epoch {self.epoch} has nothing whole")
        return Plan(self.service, self.epoch, self.database, end, tuple(chosen))

    def onward(self, end: int, txid: int | None) -> tuple[list[Piece], Piece | None]:
        """The files from transaction `end` on, as far as they go without a hole; and one behind the hole, if there is
        one."""
        self.listed.clear()
        chosen: list[Piece] = []
        beyond: Piece | None = None
        moved = True
        while moved and end != txid:
            moved = False
            for level in LEVELS:
                for piece in self.extending(level, end, txid):
                    chosen.append(piece)
                    end, moved = piece.last, True
            # A hole in one level may be bridged by a finer one, and the coarser go on behind it.
            if (beyond := self.beyond(end)) is None:
                break
        return chosen, beyond

    def extending(self, level: int, end: int, txid: int | None) -> Iterator[Piece]:
        """The level's files that go on from `end` without a hole, none beyond `txid`."""
        best: Piece | None = None
        for piece in self.spanning(level, end):
            if piece.first > end + 1:
                if best is None:
                    return
                yield best
                end, best = best.last, None
                if piece.first > end + 1:
                    return
            if piece.last <= end or piece.key in self.avoid or (txid is not None and piece.last > txid):
                continue
            if best is None or piece.last > best.last:
                best = piece
        if best is not None:
            yield best

    def beyond(self, end: int) -> Piece | None:
        """A file with transactions behind `end`, if there is one."""
        found = [piece for level in LEVELS for piece in self.spanning_first(level, end)]
        found += [piece for piece in self.snapshots if piece.last > end]
        return max(found, key=lambda piece: piece.last, default=None)

    def spanning_first(self, level: int, end: int) -> Iterator[Piece]:
        for piece in self.spanning(level, end):
            if piece.last > end:
                yield piece
                return

    def covered(self, end: int, txid: int) -> bool:
        """Do the files go on without a hole from `end` to beyond `txid`?"""
        return any(
            piece.first <= end + 1 and piece.last > txid and piece.key not in self.avoid
            for level in LEVELS
            for piece in self.spanning_first(level, end)
        )


def onward(store: Store, service: str, epoch: int, database: str, after: int) -> list[Piece]:
    """The files that go on from transaction `after` to the end of an epoch, or to a hole: coarse ones first, finer ones
    for the rest."""
    return _Look(store, service, epoch, database, frozenset()).onward(after, None)[0]


def end(store: Store, service: str, epoch: int, database: str, after: int) -> int:
    """The last transaction of an epoch, at least `after`, whatever is missing before it."""
    look = _Look(store, service, epoch, database, frozenset())
    newest = max([after, *(piece.last for piece in look.snapshots)])
    for level in LEVELS:
        newest = max([newest, *(piece.last for piece in look.spanning(level, newest))])
    return newest


def pieces(infos: Iterable[Info]) -> Iterator[Piece]:
    """The files of a replica among listed objects."""
    for info in infos:
        if found := ltx.parse_key(info.key):
            yield Piece(info.key, *found, info.size, info.modified)


def header(store: Store, piece: Piece) -> ltx.Header:
    """A file's own header, by a request for its first bytes."""
    return ltx.parse_header(store.get_range(piece.key, 0, ltx.HEADER))


def size(store: Store, plan: Plan) -> int:
    """Bytes of the database that a plan makes, by one small request; 0 where its last file can't be read: that is for
    whoever reads all of it to tell."""
    try:
        last = header(store, plan.pieces[-1])
    except (DataBad, Missing):
        return 0
    return last.pages * last.page_size


def at(store: Store, service: str, epoch: int, database: str, moment: datetime) -> Point:
    """The last point whose transactions were all committed at or before `moment`.

    A file is dated, in its header, by its last transaction: each level is bisected by that, the coarse ones first, so
    that 30 days of files take some dozens of small requests. Litestream's own `-timestamp` asks for the date of every
    file there is. Raises NothingOldEnough when the epoch begins after the moment.
    """
    look = _Look(store, service, epoch, database, frozenset())
    before = look.continues()
    end, limit, known = before[1] - 1 if before else 0, None, None
    for level in LEVELS:
        candidates = list(look.between(level, end, limit))
        if known is not None:
            candidates = _run(candidates, end)
        index = _last_before(store, candidates, moment)
        following = candidates[0 if index is None else index + 1 :]
        if following:
            limit = following[0].last - 1
        if index is not None and candidates[index].last > end:
            end, known = candidates[index].last, header(store, candidates[index]).at
    if known is None:
        raise NothingOldEnough(f"{database}: epoch {epoch} has nothing from before {moment:%Y-%m-%d %H:%M:%S} UTC")
    return Point(epoch, end, known)


def _run(pieces: list[Piece], end: int) -> list[Piece]:
    """Those that go on from `end` without a hole: where the finest files were pruned, the oldest left may begin inside
    a coarser one, and nothing leads there."""
    found: list[Piece] = []
    for piece in pieces:
        if piece.first > end + 1:
            break
        found.append(piece)
        end = max(end, piece.last)
    return found


def _last_before(store: Store, pieces: list[Piece], moment: datetime) -> int | None:
    """Index of the last file dated at or before `moment`; log2(n) requests."""
    low, high = 0, len(pieces)
    while low < high:
        middle = (low + high) // 2
        if header(store, pieces[middle]).at <= moment:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low else None


def first(store: Store, service: str, epoch: int, database: str) -> datetime | None:
    """The earliest moment that `at` finds in this epoch and that can be restored from its own files; None where it
    holds no beginning. Some dozen small requests."""
    look = _Look(store, service, epoch, database, frozenset())
    whole = [0] if look.from_one() else [piece.last for piece in look.snapshots]
    if not whole:
        return None
    end = max(whole[0] - 1, 0)
    ends = [piece for level in LEVELS for piece in look.spanning_first(level, end)]
    return min((header(store, piece).at for piece in ends), default=None)


def points(
    store: Store,
    service: str,
    epoch: int,
    database: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    at_most: int = 1000,
) -> list[Point]:
    """Up to `at_most` points of an epoch, evenly thinned, in order, the newest always among them.

    Their times are when the store got the files: up to a level's interval after the commit. Lists the whole replica.
    """
    look = _Look(store, service, epoch, database, frozenset())
    snapshots = list(look.pieces(SNAPSHOTS))
    before = look.continues()
    floor = before[1] if before else 1 if look.first_transaction() == 1 and look.from_one() else None
    floor = min([*(piece.last for piece in snapshots[:1]), *([floor] if floor else [])], default=None)
    if floor is None:
        return []
    ends: dict[int, datetime] = {}
    for level in (*LEVELS, SNAPSHOTS):
        for piece in look.pieces(level):
            if piece.last >= floor:
                ends[piece.last] = min(piece.modified, ends.get(piece.last, piece.modified))
    found = [
        Point(epoch, txid, when)
        for txid, when in sorted(ends.items())
        if (since is None or when >= since) and (until is None or when <= until)
    ]
    if len(found) <= at_most:
        return found
    step = (len(found) - 1) / max(1, at_most - 1)
    return [found[round(number * step)] for number in range(at_most)] if at_most > 1 else found[-1:]


@dataclass(frozen=True)
class Walked:
    """What a walk over one replica found. `holes`: (last transaction before, first after); `damaged`: key and why."""

    pieces: int
    bytes: int
    newest: int
    holes: tuple[tuple[int, int], ...]
    damaged: tuple[tuple[str, str], ...]
    snapshots: int

    @property
    def good(self) -> bool:
        return not self.holes and not self.damaged and self.newest > 0


def walk(
    store: Store, service: str, epoch: int, database: str, *, deep: bool = False, progress: Progress | None = None
) -> Walked:
    """The whole chain of an epoch: does every transaction from the oldest beginning to the newest lie in some file?

    `deep` reads every file and checks its checksum too.
    """
    read: dict[str, str | None] = {}
    missed: set[str] = set()
    while True:
        look = _Look(store, service, epoch, database, frozenset())
        everything = [piece for level in (SNAPSHOTS, *LEVELS) for piece in look.pieces(level)]
        before = len(missed)
        if deep:
            _read_all(store, everything, read, missed, progress)
        # To read takes its time, and compacted files go meanwhile: what is there now must be whole without them.
        if len(missed) == before:
            break
    snapshots = [piece for piece in everything if piece.level == SNAPSHOTS]
    holes, end = _holes(look, everything, snapshots)
    damaged = tuple((piece.key, why) for piece in everything if (why := read.get(piece.key)))
    total = sum(piece.size for piece in everything)
    return Walked(len(everything), total, end, tuple(holes), damaged, len(snapshots))


def _holes(look: _Look, everything: list[Piece], snapshots: list[Piece]) -> tuple[list[tuple[int, int]], int]:
    """(last transaction before and first after each, the newest transaction)."""
    before = look.continues()
    end = min([*(p.last for p in snapshots[:1]), *([before[1]] if before else [])], default=0)
    if look.from_one():
        end = 0
    holes = []
    for piece in sorted(everything, key=lambda piece: (piece.first, -piece.last)):
        if piece.last <= end:
            continue
        if piece.first > end + 1:
            holes.append((end, piece.first))
        end = piece.last
    return holes, end


def _read_all(
    store: Store, everything: list[Piece], read: dict[str, str | None], missed: set[str], progress: Progress | None
) -> None:
    """Read what hasn't been ``read`` (what is wrong with each, None: nothing); ``missed``: listed, and gone by then.
    What is listed again after that, and isn't there again, is damaged."""
    done, total = 0, sum(piece.size for piece in everything)
    for piece in everything:
        if piece.key not in read:
            try:
                read[piece.key] = _damage(store, piece)
            except Missing as error:
                if piece.key in missed:
                    read[piece.key] = error.message
                missed.add(piece.key)
        done += piece.size
        if progress:
            progress(done, total)


def _damage(store: Store, piece: Piece) -> str | None:
    try:
        found = ltx.check(stream(store, piece))
    except DataBad as error:
        return error.message
    return None if (found.first, found.last) == (piece.first, piece.last) else "it holds other transactions"


def stream(store: Store, piece: Piece) -> Iterator[bytes]:
    """A file in parts of at most 8 MB. Raises Torn when it is shorter than it was listed."""
    for start in range(0, piece.size, PART):
        want = min(PART, piece.size - start)
        part = store.get_range(piece.key, start, want)
        if len(part) != want:
            raise ltx.Torn("it ends too early")
        yield part


def expired_fine(store: Store, service: str, epoch: int, database: str, older_than: datetime) -> Iterator[str]:
    """Keys of the finest compacted level that are older than that, and whose transactions the next level holds too.

    The newest of them always stays: Litestream goes on from it.
    """
    look = _Look(store, service, epoch, database, frozenset())
    coarse = max((piece.last for piece in look.pieces(FINE + 1)), default=0)
    held = None
    for piece in look.pieces(FINE):
        if held is not None:
            yield held.key
        held = None
        if piece.modified >= older_than or piece.last > coarse:
            return
        held = piece
