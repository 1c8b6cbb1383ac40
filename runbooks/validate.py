"""Validate: is everything as it must be?  Looks at all of it, and fails with the first thing that isn't."""

from __future__ import annotations

from typing import Any

from lifeline.errors import DataBad, Refused, Unproven
from lifeline.model import Finding, Lease, Verdict
from lifeline.runbook import Outcome, Runbook, Step
from runbooks.catalogue import newest_backup
from runbooks.promotion import Promotion
from runbooks.site import Site
from runbooks.traffic import as_declared

NAME = "validate"
COMPARE_S = 330.0
SHOWN = 20
CLEAN_POINT = "fab restore --before-corruption --dry-run"
UNDO = "fab restore --at TIME --dry-run"
BOOKS = "its books agree with the world outside"


def validate(site: Site) -> Outcome:
    """Roles, data, invariants, traffic, standby and backups of the site; changes nothing."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is nothing to validate", hint="fab provision")
    checks = Checks(site, lease)
    primary, standby, fqdn = lease.holder, site.inventory.other(lease.holder).name, site.inventory.record.fqdn
    steps = [
        Step(f"{primary} serves, epoch {lease.epoch}", until=checks.serves, within=0, hint="fab status"),
        Step("its data is good", checks.data_good, within=0, hint=CLEAN_POINT, unsure="fab validate"),
        Step(
            BOOKS,
            checks.books_agree,
            within=0,
            hint=UNDO,
            unsure="fab validate",
            wrong=DataBad,
        ),
        Step("its writes are in the vault", until=checks.replicates, within=10, hint="fab status"),
        # Not a failover: the host that serves would lose its power for the sake of a record.
        Step(f"{fqdn} points at {primary}", checks.traffic, within=0, hint="fab dns", unsure="fab dns --dry-run"),
        Step(
            "name servers say so too",
            until=lambda: as_declared(site),
            within=0,
            hint="fab dns; where the delegation is wrong: at the registrar",
            unsure="fab dns --dry-run",
        ),
        Step("the service answers outside", until=checks.answers, within=5, hint="fab status"),
        Step(f"{standby} follows within policy", checks.follows, within=5, hint="fab reprotect", unsure="fab status"),
        Step("there is a verified backup", until=checks.backed_up, within=0, hint="fab backup"),
        Step("no alert is raised", until=checks.quiet, within=0, hint="fab status"),
    ]
    runbook = Runbook(NAME, steps, _summary, site.clock, site.out, survey=True)
    try:
        return runbook.run(site.journal(NAME), {"primary": primary, "epoch": lease.epoch}, publish=site.publish)
    finally:
        for line in checks.differences:
            site.say(line)


def _summary(outcome: Outcome) -> str:
    skipped = [result for result in outcome.results if result.verdict is Verdict.SKIPPED]
    not_seen = "; ".join(f"{result.step.name}: {result.finding.says}" for result in skipped)
    return f"Everything holds that was looked at. Not looked at: {not_seen}." if skipped else "Everything holds."


class Checks:
    """What must hold while nothing is wrong."""

    def __init__(self, site: Site, lease: Lease) -> None:
        self.site = site
        self.lease = lease
        self.standby = site.inventory.other(lease.holder).name
        self.differences: list[str] = []  # to be shown when all was looked at

    def serves(self) -> Finding:
        seen = self.site.observe(self.lease.holder)
        good = (seen.role, seen.epoch) == ("primary", self.lease.epoch) and seen.service_healthy
        says = f"its role is {seen.role}, epoch {seen.epoch}, {'healthy' if seen.service_healthy else 'not healthy'}"
        return Finding.passed(says) if good else Finding.failed(says)

    def data_good(self) -> Finding:
        return self._promotion().data_verified()

    def books_agree(self) -> Finding:
        """By the service's compare hook: orders, trades, positions, or whatever it holds against whom."""
        try:
            answer = self.site.hosts[self.lease.holder].verb("compare", timeout=COMPARE_S)
        except Unproven as error:
            return Finding.unknown(error.message)
        if not answer["ran"]:
            return Finding(Verdict.SKIPPED, "the service has no compare hook", answer)
        compared = ", ".join(f"{count} {what}" for what, count in answer["compared"].items())
        if answer["agree"]:
            return Finding.passed(f"{compared}: no difference", **answer)
        shown, count = answer["differences"], len(answer["differences"]) + answer["more"]
        self.differences = [f"{self.lease.holder} and the world outside differ:", *map(_difference, shown[:SHOWN])]
        if count > SHOWN:
            self.differences.append(f"  and {count - SHOWN} more; the first {len(shown)} are in the journal")
        return Finding.failed(f"{count} differences in {compared}; nothing was changed", **answer)

    def replicates(self) -> Finding:
        seen = self.site.observe(self.lease.holder)
        if not (seen.litestream_running and seen.last_sync_at):
            return Finding.failed("Litestream is not replicating")
        return Finding.passed(f"last at {seen.last_sync_at}", last_sync_at=seen.last_sync_at)

    def traffic(self) -> Finding:
        return self._promotion().traffic.moved()

    def answers(self) -> Finding:
        service = self.site.service(self.lease.holder)
        return self.site.outside.answers(service)

    def follows(self) -> Finding:
        seen, most = self.site.observe(self.standby), self.site.inventory.policy.max_lag_s
        if (
            (seen.role, seen.epoch) != ("standby", self.lease.epoch)
            or not seen.follower_running
            or seen.follower_stalled
        ):
            return Finding.failed(f"its role is {seen.role}, epoch {seen.epoch}")
        if seen.lag_s is None:
            return Finding.unknown("it doesn't know how far behind it is")
        says = f"{seen.lag_s:.1f} s behind, {most:g} s allowed"
        return Finding.passed(says, lag_s=seen.lag_s) if seen.lag_s <= most else Finding.failed(says, lag_s=seen.lag_s)

    def backed_up(self) -> Finding:
        entry = newest_backup(self.site)
        if entry is None:
            return Finding.failed("there is none")
        return Finding.passed(f"{entry.get('kind')} of {entry.get('at')}", key=entry["key"])

    def quiet(self) -> Finding:
        seen = [self.site.observe(name) for name in (self.lease.holder, self.standby)]
        alerts = [f"{one.host}: {alert.get('says')}" for one in seen for alert in one.alerts]
        if alerts:
            return Finding.failed("; ".join(alerts), alerts=[dict(alert) for one in seen for alert in one.alerts])
        blind = [one.host for one in seen if not one.watched]
        if blind:
            return Finding.unknown(f"nobody looks on {', '.join(blind)}: lifeline-keeper doesn't run there")
        return Finding.passed("both keepers look, and see nothing")

    def _promotion(self) -> Promotion:
        holder = self.lease.holder
        service, seen = self.site.service(holder), self.site.observe(holder)
        return Promotion(self.site, holder, self.lease, service, seen)


def _difference(one: dict[str, Any]) -> str:
    here, there = ("nothing" if side is None else side for side in (one["here"], one["there"]))
    return f"  {one['what']}: {one['key']}: here {here}, there {there}"
