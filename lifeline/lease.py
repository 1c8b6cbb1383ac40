"""The lease: who is primary, as one object in a bucket, changed by conditional writes only.

Safety, whatever crashes or times out: an epoch is written once, by one taker; epochs only grow; the object is never
deleted. All else follows from If-Match: a write that was decided on an old state doesn't happen.

Its time is for the holder, who stops without a renewal; for who watches it, and for the fence, who wait that long on
their own clocks (watch.py). Clocks are never compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from lifeline.errors import Refused, Unavailable
from lifeline.model import Lease, Mode
from lifeline.store import Conflict, Store, find

# A holder's renewal makes a take-over lose a race now and then; losing so many in a row is not a race.
_ATTEMPTS = 24


@dataclass(frozen=True)
class LeaseView:
    """The lease as it was read, and the ETag that a change must name. Both None: there never was one."""

    lease: Lease | None = None
    etag: str | None = None

    @property
    def epoch(self) -> int:
        """The last epoch there was; 0 before the first."""
        return self.lease.epoch if self.lease else 0

    @property
    def free(self) -> bool:
        """Nobody holds it: there is none, or it was released."""
        return self.lease is None or self.lease.ttl_s == 0

    def held_by(self, holder: str) -> bool:
        """Is the lease that host's?"""
        return not self.free and self.lease is not None and self.lease.holder == holder


@dataclass(frozen=True)
class Claim:
    """Who wants the lease for whom. One run claims once: ``run_id`` recognises its own take when it runs again."""

    service: str
    holder: str
    ttl_s: float
    margin_s: float
    taken_by: str  # "operator:NAME" or "agent:NAME"
    run_id: str


def taken(view: LeaseView, claim: Claim) -> bool:
    """Did this very run take the lease already?"""
    return view.lease is not None and view.lease.run_id == claim.run_id and view.held_by(claim.holder)


def next_lease(view: LeaseView, claim: Claim) -> Lease:
    """What a take-over writes: the next epoch."""
    return Lease(
        service=claim.service,
        holder=claim.holder,
        epoch=view.epoch + 1,
        ttl_s=claim.ttl_s,
        margin_s=claim.margin_s,
        renewal=0,
        taken_by=claim.taken_by,
        run_id=claim.run_id,
        mode=view.lease.mode if view.lease else None,
        over_released=view.lease is not None and view.lease.released,
    )


def renewed(lease: Lease) -> Lease:
    """What a renewal writes: another text, so that the ETag changes."""
    return replace(lease, renewal=lease.renewal + 1)


class Leases:
    """The lease of one service in a bucket. Reads and conditional writes; every decision is in the functions above."""

    def __init__(self, store: Store, service: str) -> None:
        self._store = store
        self._service = service
        self.key = f"lease/{service}.json"
        self._last: LeaseView | None = None  # what the last renewal wrote

    def read(self) -> LeaseView:
        """The lease now."""
        found = find(self._store, self.key)
        if found is None:
            return LeaseView()
        return LeaseView(Lease.from_json(found.body, f"{self.key} in {self._store.where}"), found.info.etag)

    def take(self, claim: Claim, *, over: int | None = None, renewal: int | None = None) -> LeaseView:
        """Take the lease as the next epoch, whoever holds it.

        ``over`` is the epoch that was decided on, by default the one there now: that epoch is taken over, or none. With
        ``renewal``, so is that very renewal: a holder that renewed since then lives, and keeps it. Of racing takers one
        wins; the others get Refused. A run that took it already gets its own take back.
        """
        for _ in range(_ATTEMPTS):
            view = self.read()
            if taken(view, claim):
                return view
            over = view.epoch if over is None else over
            alive = renewal is not None and view.lease is not None and view.lease.renewal != renewal
            if view.epoch != over or alive:
                raise self._beaten(view, claim, over)
            try:
                lease = next_lease(view, claim)
                return LeaseView(lease, self._write(lease, view))
            except Conflict:
                continue  # renewed meanwhile, or taken: the next read tells which
            except Unavailable as error:
                # Written or not? Only the store knows; when it can't be asked either, its error is the answer.
                if not taken(self.read(), claim):
                    raise error
        raise self._hopeless("taken")

    def begin_after(self, claim: Claim, epoch: int) -> LeaseView:
        """Where the lease was lost with its bucket: a released one of the last epoch there was, for the next to be a
        new one. One that is there stays."""
        last = replace(next_lease(LeaseView(), claim), epoch=epoch, ttl_s=0.0)
        try:
            return LeaseView(last, self._write(last, LeaseView()))
        except Conflict:
            return self.read()

    def depose(self, claim: Claim, *, over: int | None = None) -> LeaseView:
        """The operator's take-over from a holder. The service starts only behind a proved fence."""
        return self.take(claim, over=over)

    def renew(self, holder: str, epoch: int) -> LeaseView:
        """Renew if the lease is still ``holder``'s for ``epoch``; the lease as it is then, somebody else's if it is.

        One conditional write over what the last renewal here wrote; only where there was none, or somebody else wrote
        since, it reads. Raises Unavailable when it can't be known, which a holder must count as not renewed.
        """

        def ours(view: LeaseView) -> bool:
            return view.held_by(holder) and view.epoch == epoch

        # Forgotten at once, so that after an error, when it may have been written or not, the next renewal reads.
        view, self._last = self._last, None
        for _ in range(_ATTEMPTS):
            if view is None or not ours(view):
                view = self.read()
            if view.lease is None or not ours(view):
                return view
            lease = renewed(view.lease)
            try:
                self._last = LeaseView(lease, self._write(lease, view))
                return self._last
            except Conflict:
                view = None
        raise self._hopeless("renewed")

    def release(self, holder: str, epoch: int) -> LeaseView:
        """Give it back: ttl 0, free for the next epoch at once. Somebody else's lease is left alone."""
        for _ in range(_ATTEMPTS):
            view = self.read()
            if view.lease is None or not view.held_by(holder) or view.epoch != epoch:
                return view
            lease = replace(renewed(view.lease), ttl_s=0.0)
            try:
                return LeaseView(lease, self._write(lease, view))
            except Conflict:
                continue
        raise self._hopeless("released")

    def set_mode(self, mode: Mode | None) -> Lease:
        """A person's word on automatic failover; None: the stack's policy holds again. No renewal, so nobody takes it
        for a sign of life."""
        for _ in range(_ATTEMPTS):
            view = self.read()
            if view.lease is None:
                raise Refused("nobody ever held the lease: there is nothing to pause yet", hint="fab provision")
            lease = replace(view.lease, mode=mode)
            try:
                self._write(lease, view)
            except Conflict:
                continue
            return lease
        raise self._hopeless("written to")

    def _write(self, lease: Lease, over: LeaseView) -> str:
        body = json.dumps(lease.to_json(), indent=1, sort_keys=True).encode()
        if over.etag is None:
            return self._store.put_if_absent(self.key, body)
        return self._store.put_if_match(self.key, body, over.etag)

    def _beaten(self, view: LeaseView, claim: Claim, over: int) -> Refused:
        wish = f"{claim.taken_by} wanted it for {claim.holder}, over epoch {over}"
        return Refused(f"{describe(view)}; {wish}", hint="fab status")

    def _hopeless(self, what: str) -> Unavailable:
        return Unavailable(f"{self.key} in {self._store.where} changes faster than it can be {what}", hint="fab status")


def describe(view: LeaseView) -> str:
    """The lease in one line."""
    lease = view.lease
    if lease is None:
        return "nobody ever held the lease"
    if view.free:
        return f"the lease of epoch {lease.epoch} was released by {lease.holder}"
    return f"the lease of epoch {lease.epoch} is {lease.holder}'s (taken by {lease.taken_by})"
