"""Forks: what a former primary wrote and the vault never got, row by row.  Read by a person; merged by nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lifeline.errors import BadInput, LifelineError
from runbooks.site import Site

ROWS = 20
VERB_S = 900.0


def forks(site: Site, *, settle: str = "", as_json: bool = False) -> list[dict[str, Any]]:
    """Print (and return) the forks on both hosts; ``settle``: HOST:FOLDER, a person has dealt with that one."""
    if settle:
        return [_settle(site, settle)]
    found: list[dict[str, Any]] = []
    names = [host.name for host in site.inventory.hosts]
    for name, answer in site.hosts.each(names, lambda remote: remote.verb("forks", timeout=VERB_S)).items():
        if isinstance(answer, LifelineError):
            found.append({"host": name, "error": answer.message})
        else:
            found.extend(answer["forks"])
    site.say(json.dumps(found, indent=1) if as_json else _render(found))
    return found


def _settle(site: Site, what: str) -> dict[str, Any]:
    host, colon, folder = what.partition(":")
    if not colon or host not in {known.name for known in site.inventory.hosts}:
        raise BadInput(f'"{what}" is no HOST:FOLDER', hint="fab forks shows them")
    answer = site.hosts[host].verb("forks", "--settle", folder, timeout=VERB_S)
    site.say(f"{what} is settled: no alert any more. Its files stay where they are.")
    return dict(answer["settled"])


def _render(found: list[dict[str, Any]]) -> str:
    if not found:
        return "No fork: whatever a former primary wrote is in the vault."
    lines = []
    for fork in found:
        if "error" in fork:
            lines.append(f"{fork['host']}: not known: {fork['error']}")
            continue
        lines.append(told(fork["host"], fork))
        for name, table in fork["tables"].items():
            for side, words in (("only_here", "only here"), ("only_vault", "only in the vault")):
                lines.extend(f"    {name}, {words}: {json.dumps(row)}" for row in table[side][:ROWS])
            more = table["here"] + table["vault"] - sum(len(table[side][:ROWS]) for side in ("only_here", "only_vault"))
            if more > 0:
                lines.append(f"    {name}: {more} more; fab forks --json has up to 1000 a side, the files have all")
    lines.append("  next: settle each by hand, then: fab forks --settle HOST:FOLDER")
    return "\n".join(lines)


def told(host: str, fork: Mapping[str, Any]) -> str:
    """One fork in one line."""
    where = f"{host}:{fork['folder']}"
    if fork["verdict"] != "PASS":
        return f"{where}: NOT KNOWN what it holds: {fork.get('says', 'not compared yet')}"
    counts = ", ".join(f"{t['here']} rows of {name}" for name, t in fork["tables"].items() if t["here"])
    settled = " (settled)" if fork.get("settled") else ""
    what = counts or "only changed rows"
    return f"{where}: {what} that didn't get into the vault in time, epoch {fork['epoch']}{settled}"
