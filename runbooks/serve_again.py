"""A primary that had to stop itself, and whose lease nobody took over meanwhile, serves again: the same epoch, its own
data.  Begun by its own agent; nothing is fenced, since nobody else may serve before the lease has moved.
"""

from __future__ import annotations

from lifeline.errors import Refused
from lifeline.model import Finding
from lifeline.runbook import Outcome, Runbook, Step
from runbooks.promotion import Promotion, outside_step, resolvers_step, serve_step, traffic_step
from runbooks.site import Site

NAME = "serve-again"


def serve_again(site: Site, me: str) -> Outcome:
    """``me`` serves its own epoch again.  Refused when the lease isn't its own any more, or its data is a copy."""
    lease = site.leases.read()
    if lease is None or lease.holder != me or lease.released:
        raise Refused(f"{me} doesn't hold the lease any more", hint="fab status")
    promotion = Promotion(site, me, lease, site.service(me), site.observe(me))

    def own() -> Finding:
        live = promotion.observed.live_epoch
        if live == lease.epoch:
            return Finding.passed(f"as {me} wrote it in epoch {live}")
        raise Refused(f"the data of {me} isn't that of epoch {lease.epoch}", hint=f"fab failover --target {me}")

    steps = [
        Step("nobody has taken the lease over", until=promotion.lease_held, within=0, hint="fab status"),
        Step("its data is its own", until=own, within=0),
        # Its log is settled as the service starts; to open the databases before that would not be safe (wal.py).
        serve_step(promotion, again="fab provision"),
        traffic_step(promotion.traffic, again="fab dns"),
        outside_step(promotion),
        resolvers_step(promotion.traffic),
    ]
    done = f"{me} serves again, epoch {lease.epoch}.\n  next: fab status"
    told: dict[str, object] = {"host": me, "epoch": lease.epoch}
    return Runbook(NAME, steps, lambda _: done, site.clock, site.out).run(
        site.journal(NAME), told, publish=site.publish
    )
