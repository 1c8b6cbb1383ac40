"""The post-mortem of an incident, by the procedures' template: what is known filled in, people asked for the rest.

Pure.

Nothing is guessed: a figure that no record shows is a question to whoever was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeline.incidents import Event, Incident
from lifeline.moments import moment
from lifeline.objectives import Met, judge, length

RUN_STARTED, RUN_FINISHED = "run started", "run finished"  # the first step of a journal, and the last
BEFORE = timedelta(minutes=30)  # what was run so shortly before belongs to it
ROUND_TRIP = "an outside write round-trips"
OF_A_PERSON = ("impact", "cause", "resolution", "action", "lesson")
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """A line of the timeline."""

    at: datetime
    who: str
    says: str


def ask(what: str) -> str:
    """A mark for a person; grep finds them all."""
    return f"**[A PERSON: {what}]**"


def report(incident: Incident, runs: Iterable[Sequence[Line]], now: datetime, service: str) -> str:
    """Markdown. ``runs``: journals as their lines; those that don't belong to it are left out."""
    own = [run for run in runs if _belongs(run, incident, now)]
    began, ended = outage(incident, own)
    until = incident.closed.at if incident.closed else None
    parts = [
        f"## Incident Post-Mortem: {_plain(incident.title)}",
        f"**Incident**: {incident.id}, {service}, opened by {incident.opened_by}, {incident.state}",
        f"**Date**: {incident.opened_at:%Y-%m-%d}",
        f"**Duration**: {_time(began)} - {_end(until, began)}",
        "\n".join(["**Impact**:", *(f"- {line}" for line in _impact(incident, began, ended, now))]),
        "\n".join(["### Timeline", *(_bullet(one) for one in timeline(incident, own))]),
        "\n".join(["### Root Cause", *_cause(incident)]),
        "\n".join(["### Resolution", *_resolution(incident, own)]),
        "\n".join(["### Action Items", *_actions(incident)]),
        "\n".join(["### Lessons Learned", *_lessons(incident)]),
    ]
    return "\n\n".join(parts) + "\n"


def outage(incident: Incident, runs: Iterable[Sequence[Line]]) -> tuple[datetime, datetime | None]:
    """(since when something was wrong by the earliest alert, when an outside write was first proved after it)."""
    since = [found for one in incident.events if one.kind == "alert" and (found := moment(one.data.get("since")))]
    began = min([incident.opened_at, *since])
    proved = [
        at + timedelta(seconds=float(line.get("seconds") or 0))
        for run in runs
        for line in run
        if line.get("step") == ROUND_TRIP and line.get("verdict") == "PASS" and (at := moment(line.get("started")))
    ]
    return began, min((at for at in proved if at >= began), default=None)


def timeline(incident: Incident, runs: Iterable[Sequence[Line]]) -> list[Moment]:
    """Events, and of each run its beginning, what it did or couldn't prove, and its end; by time."""
    found = [Moment(one.at, one.who, _event(one)) for one in incident.events]
    for run in runs:
        found += _of_run(run)
    return sorted(found, key=lambda one: one.at)


def _event(one: Event) -> str:
    name = one.data.get("alert")
    return {
        "opened": f"the incident is opened: {one.says}",
        "alert": f"alert {name}: {one.says}",
        "over": f"alert {name} is over",
        "decision": f"decision: {one.says}",
        "paged": f"{one.data.get('level')} is called: {one.says}",
        "acknowledged": f"acknowledged{f': {one.says}' if one.says else ''}",
        "note": f"{one.data.get('as') or 'note'}: {one.says}",
        "joined": f"goes on as {one.data.get('into')}",
        "closed": f"the incident is closed{f': {one.says}' if one.says else ''}",
    }[one.kind]


def _of_run(run: Sequence[Line]) -> list[Moment]:
    found = []
    name = _runbook(run)
    for line in run:
        at, evidence = moment(line.get("started")), line.get("evidence") or {}
        if at is None:
            continue
        verdict, took = line.get("verdict"), float(line.get("seconds") or 0)
        waived = f", waived by {line['waiver']}" if line.get("waiver") else ""
        if line.get("step") == RUN_STARTED:
            found.append(Moment(at, name, f"begins (journal {line.get('run_id')})"))
        elif line.get("step") == RUN_FINISHED:
            error = f": {evidence['error']}" if evidence.get("error") else ""
            found.append(Moment(at + timedelta(seconds=took), name, f"ends, {verdict}, after {length(took)}{error}"))
        elif evidence.get("acted") or verdict != "PASS" or waived or line.get("step") == ROUND_TRIP:
            says = f": {evidence['says']}" if evidence.get("says") else ""
            after = at + timedelta(seconds=took)
            found.append(Moment(after, name, f"{line.get('step')}, {verdict}, {length(took)}{waived}{says}"))
    return found


def _belongs(run: Sequence[Line], incident: Incident, now: datetime) -> bool:
    at = moment(run[0].get("started")) if run else None
    end = incident.closed.at if incident.closed else now
    return at is not None and incident.opened_at - BEFORE <= at <= end


def _runbook(run: Sequence[Line]) -> str:
    evidence = run[0].get("evidence") or {} if run else {}
    return f"fab {evidence['runbook']}" if evidence.get("runbook") else "a runbook"


def _impact(incident: Incident, began: datetime, ended: datetime | None, now: datetime) -> list[str]:
    notes = _notes(incident, "impact")
    lines = list(notes)
    if ended is None:
        lines.append(ask("from when to when could clients not write? No journal shows a write from outside after it"))
    else:
        took = (ended - began).total_seconds()
        met = judge("complete failover", took)
        goal = met.objective
        against = f"target {length(goal.target_s)}, maximum {length(goal.max_s)}: {met.verdict}"
        lines.append(
            f"from the first alert to a write from outside that reads back: {length(took)} ({against}). Clients "
            "may have noticed earlier than the alert"
        )
        if met.verdict is Met.FAIL:
            lines.append(ask("why did recovery take longer than its maximum?"))
    forks = [
        one.says for one in incident.events if one.kind == "alert" and str(one.data.get("alert")).startswith("fork-")
    ]
    lines += [f"data: {says}" for says in dict.fromkeys(forks)]
    lines.append(ask("were acknowledged writes lost, how many, of whom? fab forks; fab validate; the clients' records"))
    if not notes:
        lines.append(ask("what did it mean for the business?"))
    if incident.paged:
        ack = incident.acknowledged
        waited = length((ack.at - incident.opened_at).total_seconds()) if ack else ""
        said = f"acknowledged after {waited} by {ack.who}" if ack else "never acknowledged"
        lines.append(f"called: {', '.join(sorted(incident.paged))}; {said}")
    if incident.raised:
        held = ", ".join(f"{name} on {host}" for host, name in sorted(incident.raised))
        lines.append(f"still raised as of {_time(now)}: {held}")
    return lines


def _cause(incident: Incident) -> list[str]:
    if notes := _notes(incident, "cause"):
        return notes
    first = next((one for one in incident.events if one.kind == "alert"), None)
    seen = [f"What was seen first: {_plain(first.says)} ({first.who}, {_time(first.at)})."] if first else []
    return [*seen, ask('why did it happen? fab incident note "…" --as cause')]


def _resolution(incident: Incident, runs: Sequence[Sequence[Line]]) -> list[str]:
    lines = list(_notes(incident, "resolution"))
    for run in runs:
        last = run[-1]
        if last.get("step") != RUN_FINISHED:
            lines.append(f"- {_runbook(run)} was begun and never ended (journal {run[0].get('run_id')})")
        elif any((line.get("evidence") or {}).get("acted") for line in run):
            took = length(float(last.get("seconds") or 0))
            lines.append(f"- {_runbook(run)}: {last.get('verdict')} after {took} (journal {run[0].get('run_id')})")
    if incident.closed and incident.closed.says:
        lines.append(f"- closed by {incident.closed.who}: {_plain(incident.closed.says)}")
    return lines or [ask("how was it resolved? No journal shows anything that was done")]


def _actions(incident: Incident) -> list[str]:
    items = [f"- [ ] {text}" for text in _notes(incident, "action")]
    standard = (
        "positions verified, orders reconciled, missed trades looked for, audit logs reviewed",
        "runbooks updated if needed",
    )
    fixed = [f"- [ ] {item}" for item in standard]
    return [*items, *fixed, *([] if items else [f"- [ ] {ask('what keeps it from happening again?')}"])]


def _lessons(incident: Incident) -> list[str]:
    return [f"- {text}" for text in _notes(incident, "lesson")] or [
        f"- {ask('what went well, what did not, where was luck?')}"
    ]


def _notes(incident: Incident, as_: str) -> list[str]:
    return [_plain(one.says) for one in incident.events if one.kind == "note" and one.data.get("as") == as_]


def _bullet(one: Moment) -> str:
    return f"- {one.at:%H:%M:%S} {one.who}: {_plain(one.says)}" if one.at else ""


def _end(until: datetime | None, began: datetime) -> str:
    if until is None:
        return ask("it isn't closed: fab incident close")
    return f"{_time(until)} ({length((until - began).total_seconds())})"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _plain(text: str) -> str:
    """One line, that begins no heading, list or table of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
