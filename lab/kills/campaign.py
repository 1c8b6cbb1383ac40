"""Going through the kills, one after the other; what came of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

from lab.kills.plan import Kill
from lab.kills.site import Look, Moment, Site, now
from lab.kills.store import Vault
from lab.kills.verdict import Books, Record, compare, disagreements
from lifeline.errors import LifelineError, Unavailable

CUT_OFF_WITHIN_S = 60.0


def run(kills: Sequence[Kill], folder: Path, say: Callable[[Record], None]) -> list[Record]:
    """Every kill, site by site. `say` hears of each as soon as it is known what came of it."""
    vault, records = Vault(folder / "s3"), []
    vault.start()
    try:
        for number, of_site in groupby(kills, key=lambda kill: kill.site):
            for record in _live(Site(folder / f"site-{number:02d}", vault, number), list(of_site)):
                records.append(record)
                say(record)
    finally:
        vault.kill()
    return records


def _live(site: Site, kills: Sequence[Kill]) -> Iterator[Record]:
    """One site from its first acknowledgement to its last books. One that doesn't come back ends there."""
    ended = ""
    with site.running(kills[0].durability):
        for kill, following in pairwise([*kills, None]):
            assert kill
            if not ended:
                try:
                    yield _happen(site, kill, following)
                    continue
                except LifelineError as error:
                    ended = error.message
            yield Record(kill, (ended,))


def _happen(site: Site, kill: Kill, following: Kill | None) -> Record:
    time.sleep(kill.after_s)  # the random moment itself
    at, record = _strike(site, kill)
    if following is None or not following.at_once:
        record = replace(record, back_s=site.await_load(at).mono - at.mono)
    if following is None:
        look = site.settled()
        record = replace(record, problems=(*record.problems, *disagreements(look.owed, look.restore(), site.forgotten)))
    return record


def _strike(site: Site, kill: Kill) -> tuple[Moment, Record]:
    """Kill, restore what the vault holds, compare. The load goes on meanwhile, where it can."""
    if kill.kind == "host":
        return _lose_host(site, kill)
    if kill.kind == "store":
        return _lose_store(site, kill)
    at = site.host.kill(kill.kind)
    return at, _shown(kill, at, site.look())[0]


def _lose_host(site: Site, kill: Kill) -> tuple[Moment, Record]:
    at = site.lose_host()
    if kill.outage_s is not None:
        _outage(site.vault, site.bucket, kill.outage_s)
    site.await_drained(at)
    look = site.look()
    site.new_host()
    record, books = _shown(kill, at, look)
    site.forget(books)
    return at, record


def _lose_store(site: Site, kill: Kill) -> tuple[Moment, Record]:
    """The store dies and comes back. What a restore that was reading says meanwhile must be true: it can't read."""
    first = Attempt(site.look()) if kill.amid is not None else None
    if first:
        time.sleep((kill.amid or 0.0) * site.usual_s)  # the random moment itself
    at = now()
    gone = _outage(site.vault, site.bucket, kill.outage_s or 0.0)
    problems = list(first.problems()) if first else []
    acknowledged = site.acknowledged_within(*gone)
    if acknowledged and kill.durability == "vault":
        problems.append(f"{acknowledged} writes were acknowledged while the vault was away")
    record, _ = _shown(kill, at, site.look())
    if kill.durability == "async":
        # What an outage leaves behind is bounded by nothing: the next kill would be judged by this one's backlog.
        site.await_caught_up()
    told = first.told if first else ""
    return at, replace(record, problems=(*problems, *record.problems), cut_off=told)


def _outage(vault: Vault, bucket: str, seconds: float) -> tuple[float, float]:
    """From when to when there certainly was no store, on the monotonic clock."""
    vault.kill()
    begun = time.monotonic()
    time.sleep(seconds)
    ended = time.monotonic()
    vault.start(bucket)
    return begun, ended


def _shown(kill: Kill, at: Moment, look: Look) -> tuple[Record, Books]:
    books = look.restore()
    record = compare(kill, at.wall, look.owed, books)
    return replace(record, restore_s=time.monotonic() - at.mono), books


class Attempt(threading.Thread):
    """A restore under way while the store dies."""

    def __init__(self, look: Look) -> None:
        super().__init__(daemon=True)
        self._look = look
        self._outcome: Books | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._look.restore()
        except Exception as error:  # whatever it is: it is judged
            self._outcome = error

    def problems(self) -> Iterator[str]:
        """Once it has ended: it was through in time, or says that the store can't be read, and leaves nothing."""
        self.join(CUT_OFF_WITHIN_S)
        if self._outcome is None:
            yield f"a restore whose store died says nothing for {CUT_OFF_WITHIN_S:g} s"
        elif isinstance(self._outcome, Exception):
            if not isinstance(self._outcome, Unavailable):
                yield f"a restore whose store died says: {type(self._outcome).__name__}: {self._outcome}"
            if self._look.folder.exists():
                yield "a restore that was cut off left files"

    @property
    def told(self) -> str:
        """What it said; nothing where it was through."""
        return str(self._outcome).partition("\n")[0] if isinstance(self._outcome, Exception) else ""
