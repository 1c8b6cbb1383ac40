"""Incidents, for the person in one: open, note, acknowledge, close, list, report.

Each writes one event, here first and then in the vault; nothing here waits for anybody, and none of it is in the way of
a recovery.
"""

from __future__ import annotations

import getpass
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

from lifeline import incidents, postmortem
from lifeline.errors import BadInput, LifelineError, Refused
from lifeline.held import JOURNALS
from lifeline.incidents import Event, Incident, Kind, folder
from lifeline.inventory import folder as files_of
from lifeline.journal import read_lines, redact
from lifeline.layout import write_file
from lifeline.objectives import length
from lifeline.postmortem import OF_A_PERSON
from runbooks.records import Records
from runbooks.site import Site


def open_incident(site: Site, title: str) -> Incident:
    """A person opens one, and has it: nobody is called."""
    records, found = _gathered(site)
    if (going := incidents.newest_open(found)) is not None:
        raise Refused(f"{going.id} is open already: {going.title}", hint='fab incident note "…", or fab incident close')
    at = site.clock.utc()
    name = incidents.new_id(at, secrets.token_hex(3))
    _add(site, records, name, "opened", _text(site, title))
    _add(site, records, name, "acknowledged", "opened by hand")
    site.say(f"{name} is open. It gathers journals, alerts and decisions from 30 minutes before now on.")
    site.say('  next: fab status; fab incident note "…" for whatever you see or decide; fab incident close')
    return _one(records, name)


def note(site: Site, text: str, as_: str = "") -> Incident:
    """Something seen, decided or learnt, into the timeline. ``as_``: what it is for in the report."""
    if as_ and as_ not in OF_A_PERSON:
        raise BadInput(f'"{as_}" is no part of a report; there are {", ".join(OF_A_PERSON)}', hint="fab incident note")
    records, incident = _going(site, closed_too=bool(as_))
    _add(site, records, incident.id, "note", _text(site, text), **({"as": as_} if as_ else {}))
    site.say(f"Noted in {incident.id}.")
    return _one(records, incident.id)


def acknowledge(site: Site) -> Incident:
    """Somebody has it: nobody further up is called, and the pager is told so by the hosts."""
    records, incident = _going(site)
    if incident.acknowledged is None:
        _add(site, records, incident.id, "acknowledged")
    who = incident.acknowledged.who if incident.acknowledged else _me()
    site.say(f"{incident.id} is acknowledged by {who}: nobody further up is called.")
    return _one(records, incident.id)


def close(site: Site) -> Incident:
    """It is over. What is still raised is said, and the report is next."""
    records, incident = _going(site)
    for host, name in sorted(incident.raised):
        site.say(f"  ! {name} on {host} is still raised: an alert that is raised anew opens a new incident")
    _add(site, records, incident.id, "closed")
    took = length((site.clock.utc() - incident.opened_at).total_seconds())
    site.say(f"{incident.id} is closed after {took}.\n  next: fab validate; fab incident report")
    return _one(records, incident.id)


def show(site: Site, *, as_json: bool = False) -> list[Incident]:
    """All of them, the newest first."""
    if as_json:
        site.aside()
    _, found = _gathered(site)
    shown = [one for one in reversed(found)]
    if as_json:
        print(json.dumps([_json(one) for one in shown], indent=1))
        return shown
    for one in shown:
        end = one.closed.at if one.closed else site.clock.utc()
        took = length((end - one.opened_at).total_seconds())
        site.say(f"{one.id}  {one.state:<13} {took:>12}  {one.title}")
    if not shown:
        site.say("No incident is on record.")
    return shown


def report(site: Site, name: str = "", *, publish: bool = False) -> Path:
    """Write the post-mortem, once: a file that is there may have been worked on, and stays."""
    records, found = _gathered(site)
    incident = _named(found, name) if name else (incidents.newest_open(found) or next(reversed(found), None))
    if incident is None:
        raise BadInput("no incident is on record", hint='fab incident open "what happened"')
    path = records.here / folder(records.service) / f"{incident.id}.md"
    text = postmortem.report(incident, _runs(site, incident), site.clock.utc(), site.inventory.service)
    kept = path.exists() and path.read_text(encoding="utf-8") != text
    fresh = path.with_suffix(".new.md") if kept else path
    if not publish:
        write_file(fresh, text)
        if kept:
            site.say(f"{path} is there and may have been worked on: it stays. As it would be written now: {fresh}")
        left = text.count("**[A PERSON:")
        site.say(f"{fresh}\n  {left} places need a person; look for **[A PERSON: in it")
        site.say(
            '  next: fill them in, or fab incident note "…" --as cause|impact|action|lesson; then report --publish'
        )
        return fresh
    if not path.exists():
        raise BadInput(f"there is no {path} to publish", hint="fab incident report, then fill in what needs a person")
    key = f"{folder(records.service)}{incident.id}/report-{site.clock.utc():%Y%m%dT%H%M%SZ}.md"
    site.vault.put(key, path.read_bytes())
    site.say(f"{path} is in the vault as {key}; the chain of evidence takes it up within the hour.")
    return path


# -- behind them


def _gathered(site: Site) -> tuple[Records, list[Incident]]:
    """Everything on record, here and in the vault; a vault that is away is said."""
    records = Records(files_of(site.root, site.inventory.stack), site.inventory.service, site.vault)
    if why := records.sync():
        site.say(f"  ? the vault isn't reached ({why}): what hosts and others wrote may be missing here")
    events, problems = records.events()
    for line in problems:
        site.say(f"  ! can't be read: {line}")
    return records, incidents.by_incident(events)


def _going(site: Site, *, closed_too: bool = False) -> tuple[Records, Incident]:
    records, found = _gathered(site)
    incident = incidents.newest_open(found) or (next(reversed(found), None) if closed_too else None)
    if incident is None:
        raise BadInput("no incident is open", hint='fab incident open "what happened"')
    return records, incident


def _named(found: list[Incident], name: str) -> Incident:
    match = [one for one in found if one.id.startswith(name)]
    if len(match) != 1:
        raise BadInput(f"{name} names {len(match)} incidents", hint="fab incident list")
    return match[0]


def _one(records: Records, name: str) -> Incident:
    return incidents.told(one for one in records.events()[0] if one.incident == name)


def _add(site: Site, records: Records, name: str, kind: Kind, says: str = "", **data: str) -> None:
    if why := records.add(Event(name, site.clock.utc(), _me(), kind, says, data)):
        site.say(f"  ? written here; not yet in the vault ({why}): the next fab incident brings it there")


def _runs(site: Site, incident: Incident) -> Iterator[list[dict[str, object]]]:
    """Journals of its time: of this machine, and those of hosts and others in the vault."""
    first = f"{incident.opened_at - postmortem.BEFORE:%Y%m%dT%H%M%SZ}"
    last = f"{incident.closed.at if incident.closed else site.clock.utc():%Y%m%dT%H%M%SZ}"
    here = {path.name: path for path in site.journals.glob("*.jsonl") if first <= path.name[:16] <= last}
    for path in here.values():
        if lines := read_lines(path):
            yield lines
    try:
        for key, _ in site.vault.keys(JOURNALS):
            name = key.removeprefix(JOURNALS)
            if first <= name[:16] <= last and name not in here and (lines := _lines(site.vault.get(key))):
                yield lines
    except LifelineError as error:
        site.say(f"  ? journals in the vault can't be read ({error.message}): the timeline has this machine's only")


def _lines(body: bytes | None) -> list[dict[str, object]]:
    found = []
    for line in (body or b"").decode(errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def _text(site: Site, text: str) -> str:
    text = text.strip()
    if not text:
        raise BadInput("it says nothing", hint='fab incident note "what you see or decide"')
    return str(redact(text, frozenset(site.inventory.secrets())))[: incidents.LONGEST]


def _me() -> str:
    return f"operator:{getpass.getuser()}"


def _json(one: Incident) -> dict[str, object]:
    head = {"id": one.id, "state": one.state, "title": one.title, "opened_by": one.opened_by}
    return {**head, "events": [event.to_json() for event in one.events]}
