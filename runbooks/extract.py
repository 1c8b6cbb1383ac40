"""Rows of one table out of a past copy, into a file or onto the screen; and what SQLite salvages of a damaged one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lifeline.errors import BadInput, LifelineError, Refused
from runbooks.catalogue import newest_backup
from runbooks.site import Site
from runbooks.wanted import STAGE_S, Asked, asked, both_clocks

SALVAGE_S = 2 * 3600.0


def table(
    site: Site,
    name: str,
    at: str | None = None,
    *,
    txid: str | None = None,
    source: str | None = None,
    form: str = "sql",
    to: str | None = None,
) -> dict[str, Any]:
    """Every row of a table as it was, into the file ``to`` (default: stdout).  Works on a copy made for it, on the host
    that isn't primary where that answers."""
    if form not in ("sql", "csv"):
        raise BadInput(f'"{form}" is no format; known: sql, csv', hint="fab restore --table NAME --format csv")
    want = asked(at, txid, source)
    output = Path(to) if to else None
    if output is not None and output.exists():
        raise BadInput(f"{output} exists already", hint="name a file that doesn't")
    lease = site.leases.read()
    host = site.hosts[_where(site, lease.holder, want) if lease else site.inventory.home_backup.name]
    epoch = str(lease.epoch if lease else 1)
    words = ["--epoch", epoch, *want.arguments(), "--table", name, "--format", form]
    found = host.verb("extract", *words, timeout=STAGE_S)
    try:
        _fetch(host, str(found["path"]), output)
    finally:
        host.run(["sudo", "-n", "rm", "-f", "--", str(found["path"])], timeout=30)
    when = f" as of {both_clocks(want.at)}" if want.at else ""
    print(f"{found['rows']} rows of {name}{when}, from {found['source']}.", file=sys.stderr)
    return found


def _fetch(host: Any, path: str, output: Path | None) -> None:
    if output is not None:
        host.get(path, output)
        return
    sys.stdout.write(host.run(["sudo", "-n", "cat", "--", path], timeout=STAGE_S).text)


def _where(site: Site, holder: str, want: Asked) -> str:
    """The host that isn't primary, where it answers; a primary's own disk holds what it backed up itself."""
    if want.source == "local":
        return holder
    other = site.inventory.other(holder).name
    try:
        site.observe(other)
    except LifelineError:
        return holder
    return other


def salvage(site: Site, to: str) -> dict[str, Any]:
    """``.recover`` the primary's databases as they lie into a new folder of its host, and say what came back."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is no database to salvage", hint="fab provision")
    host, colon, path = to.partition(":")
    if not colon or not path.startswith("/") or host not in {known.name for known in site.inventory.hosts}:
        raise BadInput(f'"{to}" is no HOST:PATH of this stack', hint=f"--to {lease.holder}:/var/lib/lifeline/salvaged")
    words = ["--to", path]
    for name, rows in _expected(site).items():
        words += [f"--expect={name}.{table_name}={count}" for table_name, count in rows.items()]
    found = site.hosts[host].verb("salvage", *words, timeout=SALVAGE_S)
    site.say(_said(host, found))
    return found


def _expected(site: Site) -> dict[str, dict[str, int]]:
    """Rows of each table in the newest backup; empty where that can't be known."""
    try:
        entry = newest_backup(site) or {}
    except LifelineError:
        return {}
    return {name: dict(noted.get("rows") or {}) for name, noted in (entry.get("databases") or {}).items()}


def _said(host: str, found: dict[str, Any]) -> str:
    lines = []
    for one in found["databases"]:
        lines.append(f"{one['name']}: {host}:{one['path']}, {one['verdict']}: {one['says']} ({one['seconds']:.1f} s)")
        for name, rows in one["tables"].items():
            known = "not known" if rows["expected"] is None else rows["expected"]
            lines.append(f"  {name}: {rows['recovered']} rows came back; the newest backup has {known}")
        if one["lost_and_found"]:
            lines.append(f"  {one['lost_and_found']} rows belong to no table any more: they are in lost_and_found")
    lines.append("Nothing is served of it. Look at it; then fab restore, or bring rows over by hand.")
    return "\n".join(lines)
