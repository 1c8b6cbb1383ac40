"""Backup: a consistent copy of the primary's databases, verified, saved by restic into the vault, and noted there."""

from __future__ import annotations

import json
from typing import Any

from lifeline.errors import Refused, Unavailable
from lifeline.model import Evidence, Finding
from lifeline.runbook import Outcome, Runbook, Step
from runbooks.site import Site

NAME = "backup"
BACKUP_S = 3600.0


def backup(site: Site, *, full: bool = False, dry_run: bool = False) -> Outcome | None:
    """One backup of the lease's holder; destroys nothing.  None for a dry run."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is no primary to back up", hint="fab provision")
    work = Backup(site, lease.holder, full)
    runbook = Runbook(NAME, work.steps(), work.summary, site.clock, site.out)
    if dry_run:
        runbook.plan()
        return None
    return runbook.run(site.journal(NAME), {"host": lease.holder, "full": full}, publish=site.publish)


class Backup:
    """One backup: made by the host, seen in the vault by us."""

    def __init__(self, site: Site, host: str, full: bool) -> None:
        self.site = site
        self.host = host
        self.full = full
        self.made: dict[str, Any] = {}

    def steps(self) -> list[Step]:
        kind = "full" if self.full else "incremental"
        return [
            Step(f"{self.host} is primary and healthy", until=self.healthy, within=0, hint="fab status"),
            Step(
                "a verified copy is saved",
                until=self.saved,
                do=self.save,
                within=BACKUP_S,
                would=f"make a {kind} backup of {self.host}",
                hint="fab backup",
            ),
            Step("the catalogue in the vault has it", until=self.catalogued, within=10, hint="fab backup"),
        ]

    def healthy(self) -> Finding:
        seen = self.site.observe(self.host)
        says = f"its role is {seen.role}, epoch {seen.epoch}"
        good = seen.role == "primary" and seen.service_healthy
        return Finding.passed(says) if good else Finding.failed(says, healthy=seen.service_healthy)

    def saved(self) -> Finding:
        if not self.made:
            return Finding.failed("no backup of this run yet")
        if why := self.made.get("skipped"):
            return Finding.failed(str(why))
        return Finding.passed(f"snapshot {self.made['snapshot']}, {self.made['bytes']} bytes", **self.made)

    def save(self) -> Evidence:
        flags = ["--full"] if self.full else []
        try:
            self.made = self.site.hosts[self.host].verb("backup", *flags, timeout=BACKUP_S)
        except Unavailable as error:
            # Whether it was made can't be told from another run's; a second backup is harmless, a claimed one is not.
            raise Refused(f"the backup's answer was lost: {error.message}", hint="fab backup") from error
        return self.made

    def catalogued(self) -> Finding:
        if not self.made:
            return Finding.failed("nothing was saved yet")
        key = str(self.made["catalogue"])
        body = self.site.vault.get(key)
        if body is None:
            return Finding.failed(f"{key} is not there")
        return Finding.passed(key, entry=json.loads(body))

    def summary(self, outcome: Outcome) -> str:
        entry = self.made
        return f"Backup {entry['catalogue']} of {self.host}, {entry['bytes']} bytes, after {outcome.seconds:.1f} s."
