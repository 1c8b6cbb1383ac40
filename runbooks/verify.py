"""Verify: real restores on the standby, to know that the backups are some. Destroys nothing."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from lifeline.errors import DataBad, LifelineError, Refused
from lifeline.model import Finding, Lease
from lifeline.proving import failure
from lifeline.runbook import Outcome, Runbook, Step
from runbooks.site import Site

NAME = "verify"
PROVE_S = 4 * 3600.0


def verify(site: Site, *, weekly: bool = False, as_json: bool = False) -> Outcome:
    """Restore the newest point, a random one and the newest backup beside, with every check, and note the result."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is nothing to verify", hint="fab provision")
    if as_json:
        site.aside()
    work = Verification(site, lease, weekly)
    runbook = Runbook(NAME, work.steps(), lambda _: work.summary(), site.clock, site.out)
    try:
        return runbook.run(site.journal(NAME), {"host": work.host, "weekly": weekly}, publish=site.publish)
    finally:
        if as_json and work.report:  # a program wants to know what failed, too
            print(json.dumps(work.report, indent=1))


class Verification:
    """One rehearsal, on the standby where there is one: a restore is work that a primary shouldn't have to do."""

    def __init__(self, site: Site, lease: Lease, weekly: bool) -> None:
        self.site, self.lease, self.weekly = site, lease, weekly
        self.host = site.inventory.other(lease.holder).name
        self.report: dict[str, Any] = {}

    def steps(self) -> list[Step]:
        return [
            Step("a host is there to restore on", until=self.placed, within=0, hint="fab status"),
            Step("what is restored is good", until=self.proved, within=0, hint="fab status"),
        ]

    def placed(self) -> Finding:
        try:
            seen = self.site.observe(self.host)
            if seen.role != "primary":
                return Finding.passed(f"{self.host}, {seen.role}")
            why = f"{self.host} is {seen.role}"
        except LifelineError as error:
            why = error.message
        self.host = self.lease.holder
        return Finding.passed(f"{self.host}, the primary itself, as the other one can't: {why}")

    def proved(self) -> Finding:
        """The proof is the act: it changes nothing but the catalogue, where its result is noted."""
        with contextlib.suppress(LifelineError):  # without a fresh sentinel the last one's age is measured
            self.site.hosts[self.lease.holder].verb("sentinel", timeout=15)
        arguments = ["--epoch", str(self.lease.epoch), *(["--weekly"] if self.weekly else [])]
        self.report = self.site.hosts[self.host].verb("prove", *arguments, timeout=PROVE_S)
        for one in (*self.report["points"], *self.report["checks"]):
            self.site.say(_line(one))
        error = failure(self.report)
        if error is None:
            return Finding.passed(f"{len(self.report['points'])} restores", **self.report)
        if isinstance(error, DataBad):
            raise error
        return Finding.unknown(error.message, **self.report)

    def summary(self) -> str:
        rpo = self.report.get("rpo_measured_s")
        said = "not known (no sentinel)" if rpo is None else f"{rpo:.1f} s"
        return f"Every restore is good. Measured RPO {said}. In the catalogue: {self.report['key']}"


def _line(one: dict[str, Any]) -> str:
    what = one.get("what") or one.get("name")
    where = f" from {one['source']}" if "source" in one else ""
    return f"      {one['verdict']:7} {what}{where}, {one['seconds']:.1f} s: {one['says']}"
