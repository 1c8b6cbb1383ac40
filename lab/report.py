"""A drill's report: ``report.json`` for programs (contract: docs/design.md), ``report.html`` for people.

The page is one file without scripts: it opens from a mail, on a phone and on paper, years later.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from lab.chart import Mark, writes_chart
from lifeline import objectives
from lifeline.journal import stamp

if TYPE_CHECKING:
    from lab.drill import Drill
    from lab.scenarios.criteria import Criterion

Document = dict[str, Any]


def document(drill: Drill, environment: Mapping[str, Any]) -> Document:
    """The report as JSON values."""
    facts, criteria, timing = drill.facts, drill.criteria(), drill.timing()
    targets, judgement, fault = facts.targets, facts.judgement, drill.fault
    zero = fault.began if fault else None
    waited = timing.get("waited_for_ttl_s")
    beyond = None if facts.rto_s is None or waited is None else round(facts.rto_s - waited, 3)
    steps = [step.to_json(zero) for step in drill.record.steps]
    command = str(drill.recovery or "")
    steps += [runbook_step(line, command, fault.wall if fault else None) for line in drill.runbook_steps]
    return {
        "scenario": drill.scenario.name,
        "title": drill.scenario.title,
        "story": drill.scenario.story,
        "stack": drill.stage.inventory.stack if drill.stage.inventory else None,
        "verdict": str(drill.verdict),
        "reasons": _reasons(drill),
        "criteria": told(criteria),
        "started": stamp(drill.stage.started),
        "seconds": round(time.monotonic() - drill.stage.begun, 1),
        "fault_at": stamp(datetime.fromtimestamp(fault.wall, UTC)) if fault else None,
        "fault": fault.evidence if fault else None,
        "rto": {
            **{"target_s": targets.rto_target_s, "max_s": targets.rto_max_s, "measured_s": facts.rto_s},
            "beyond_ttl_s": beyond,
        },
        "rpo": {
            **{"target_s": targets.rpo_target_s, "max_s": targets.rpo_max_s},
            "measured_s": judgement.rpo_measured_s if judgement else None,
        },
        "objectives": [one.to_json() for one in facts.objectives()],
        "dns": timing,
        "ledger": judgement.to_json() if judgement else None,
        "primary": {"before": facts.primary, "after": sorted(facts.served_after or ())},
        "operator": _operator(drill),
        "steps": steps,
        "writes": [list(second) for second in drill.writes()],
        "environment": dict(environment),
        "logs": str(drill.stage.logs),
    }


def runbook_step(line: Mapping[str, Any], command: str, fault_wall: float | None) -> Document:
    """A line of a journal as a step of the report."""
    started = datetime.fromisoformat(line["started"]).timestamp()
    return {
        **{name: line[name] for name in ("verdict", "seconds", "started", "evidence")},
        **{"name": line["step"], "of": command, "waiver": line.get("waiver")},
        **{name: line.get(name) for name in ("journal", "line")},
        "at_s": None if fault_wall is None else round(started - fault_wall, 3),
    }


def _operator(drill: Drill) -> Document | None:
    recovery = drill.facts.recovery
    if recovery is None:
        return None
    return {"command": recovery.command, "exit_code": recovery.code, "seconds": round(recovery.seconds, 3)}


def _reasons(drill: Drill) -> list[str]:
    """Why the verdict isn't PASS."""
    return [*([f"the drill broke off: {drill.error}"] if drill.error else []), *complaints(drill.criteria())]


def told(criteria: Sequence[Criterion]) -> list[Document]:
    """Criteria as the report has them."""
    return [{"name": c.name, "verdict": str(c.verdict), "says": c.says} for c in criteria]


def complaints(criteria: Sequence[Criterion]) -> list[str]:
    """Those that aren't met, and why."""
    return [f"{c.name}: {c.verdict}, {c.says}" for c in criteria if c.verdict != "PASS"]


def write(folder: Path, document: Document) -> None:
    """Write both files into ``folder``, and point ``latest`` beside it here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(html(document, journals(folder, document)), encoding="utf-8")
    partial = folder.parent / f".latest-{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(folder.parent / "latest")


def summary(document: Document, folder: Path) -> str:
    """The report in a few lines, for the terminal."""
    rto, rpo, ledger = document["rto"], document["rpo"], document["ledger"] or {}
    beyond = "" if rto["beyond_ttl_s"] is None else f", of which {rto['beyond_ttl_s']:.1f} s beyond the DNS TTL"
    lines = [
        "",
        f"  {document['verdict']}  {document['title']}",
        f"  RTO  {seconds(rto['measured_s'])}{beyond}; target {rto['target_s']:g} s, maximum {rto['max_s']:g} s",
        f"  RPO  {seconds(rpo['measured_s'])}; target {rpo['target_s']:g} s, maximum {rpo['max_s']:g} s",
        f"  acknowledged {_count(ledger, 'acknowledged')}, survived {_count(ledger, 'survived')},"
        f" lost {_count(ledger, 'lost')}, duplicated {_count(ledger, 'duplicated')}",
        f"  providers: {document['environment']['provider']}; the whole drill took {document['seconds']:.0f} s",
        *(f"  ! {reason.splitlines()[0]}" for reason in document["reasons"]),
        f"  {folder / 'report.html'}",
    ]
    return "\n".join([*lines, ""])


def _count(ledger: Mapping[str, Any], name: str) -> str:
    value = ledger.get(name)
    return "UNKNOWN" if value is None else str(value)


def seconds(value: float | None) -> str:
    """For people: what isn't known is never a number."""
    return "UNKNOWN" if value is None else f"{value:.1f} s"


# -- the page


def templates() -> Environment:
    """Of all pages: whatever is put in is escaped, and what is missing is an error."""
    return Environment(
        loader=PackageLoader("lab", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def journals(folder: Path, document: Document) -> list[Document]:
    """What the steps name of the journals in a drill's folder, word for word."""
    names = dict.fromkeys(step["journal"] for step in document["steps"] if step.get("journal"))
    return [_journal(name, (folder / name).read_bytes()) for name in names if (folder / name).is_file()]


def _journal(name: str, content: bytes) -> Document:
    """``sha256``: by which the chain of evidence knows it."""
    lines = []
    for number, text in enumerate(content.decode(errors="replace").removesuffix("\n").split("\n"), 1):
        try:
            line = json.loads(text)
            told = {key: line[key] for key in ("step", "verdict", "started")}
        except (ValueError, KeyError, TypeError):  # torn by a kill
            told = {"step": "", "verdict": "UNKNOWN", "started": ""}
        lines.append({**told, "id": f"{name}:{number}", "number": number, "text": text})
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "lines": lines}


def html(document: Document, kept: Sequence[Document] = ()) -> str:
    """The page; every value is escaped.  ``kept``: the journals; each step leads to the line that proves it."""
    environment = templates()
    environment.filters.update(seconds=seconds, pretty=_pretty, evidence=_evidence, length_of=objectives.length)
    last = max((step["at_s"] + step["seconds"] for step in _recovery(document)), default=0.0)
    return environment.get_template("report.html").render(
        d=document,
        chart=writes_chart(document["writes"], _marks(document)),
        gauges=[_gauge("Recovery time", "RTO", document["rto"]), _gauge("Data loss window", "RPO", document["rpo"])],
        course=[step for step in document["steps"] if "of" not in step],
        recovery=[_bar(step, max(last, document["rto"]["measured_s"] or 0.0)) for step in _recovery(document)],
        span=max(last, document["rto"]["measured_s"] or 0.0),
        objectives=objectives.html_table(judged) if (judged := _objectives(document)) else "",
        journals=kept,
        lines={line["id"]: line for journal in kept for line in journal["lines"]},
    )


def _objectives(document: Document) -> Sequence[objectives.Judged]:
    """The procedures' rows that it was held against; none in a report from before they were."""
    return objectives.parse(document.get("objectives") or ())


def _recovery(document: Document) -> list[Document]:
    """The operator's steps on the clock that starts with the fault."""
    return [step for step in document["steps"] if "of" in step and step["at_s"] is not None]


def _bar(step: Document, span: float) -> Document:
    """A step with its place on the timeline, in percent."""
    left = 100 * max(0.0, step["at_s"]) / span if span else 0.0
    width = max(0.4, 100 * step["seconds"] / span) if span else 0.4
    return {**step, "left": round(min(left, 99.6), 2), "width": round(min(width, 100 - min(left, 99.6)), 2)}


def _gauge(title: str, short: str, values: Mapping[str, Any]) -> Document:
    """A measured value against its target and maximum."""
    measured, target, most = values["measured_s"], values["target_s"], values["max_s"]
    state = "unknown" if measured is None else "good" if measured <= target else "fair" if measured <= most else "bad"
    words = {
        "unknown": "not known",
        "good": "target met",
        "fair": "target missed, within the maximum",
        "bad": "above the maximum",
    }
    filled = 0.0 if measured is None or not most else min(100.0, 100 * measured / most)
    return {
        **{"title": title, "short": short, "measured": measured, "target": target, "max": most},
        **{"state": state, "words": words[state], "filled": round(filled, 2)},
        "mark": round(min(100.0, 100 * target / most), 2) if most else 0.0,
    }


def _marks(document: Document) -> list[Mark]:
    """What the chart points out. Zero is the fault."""
    if document["fault_at"] is None:
        return []
    marks = [Mark(0.0, "fault", "bad")]
    changed, back = document["dns"].get("changed_after_s"), document["rto"]["measured_s"]
    if changed is not None:
        marks.append(Mark(changed, "DNS moved", "neutral"))
    if back is not None:
        marks.append(Mark(back, "writes again", "good"))
    return marks


def _pretty(name: str) -> str:
    return name.replace("_", " ")


def _evidence(evidence: Mapping[str, Any] | Sequence[Any]) -> str:
    """Evidence in one line, cut where nobody reads on."""
    items = evidence.items() if isinstance(evidence, Mapping) else enumerate(evidence)
    text = ", ".join(f"{_pretty(str(key))}: {_plain(value)}" for key, value in items if key not in ("acted", "says"))
    said = f"{evidence['says']}. " if isinstance(evidence, Mapping) and evidence.get("says") else ""
    text = said + text
    return text if len(text) <= 400 else text[:399] + "…"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
