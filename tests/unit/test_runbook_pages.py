"""docs/runbooks: a page for each scenario, read at 3 a.m. What it says to type, to expect and to reach is so."""

from __future__ import annotations

import ast
import functools
import io
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lab import scenarios
from lifeline import autopilot, duties, escalation, schedule
from lifeline.errors import LifelineError, Refused
from lifeline.objectives import OBJECTIVES, Objective, length
from runbooks.failback import failback
from runbooks.failover import failover
from runbooks.reprotect import reprotect
from runbooks.restore import restore
from runbooks.site import Site
from runbooks.switchover import switchover
from runbooks.validate import validate
from tests.unit.typed import parsed
from tests.unit.world import NEW, OLD, World

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "docs/runbooks"
OTHERS = ("README", "post-recovery")
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
SCENARIOS = scenarios.every()
HEADINGS = (
    *("What you see", "What it means", "What happens by itself", "What to type", "When it stops"),
    *("How you know that it is over", "Targets", "How it is rehearsed"),
)
SCREENS, COLUMNS = 2 * 45, 160  # two screens, as a terminal or a browser has them
THEN = "2026-01-01 00:00:00"


# -- what a page says


def section(text: str, heading: str) -> str:
    """Below that heading; "" where there is none."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def blocks(text: str) -> str:
    """What stands in blocks of code: to be typed."""
    return "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def typed_on(text: str) -> list[str]:
    """Every fab command, in a block or in a line."""
    inline = re.findall(r"`(fab [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*re.findall(r"^(fab .*)$", blocks(text), re.MULTILINE), *inline]


def lists_of_steps(text: str) -> dict[str, list[str]]:
    """Behind "The steps of `fab …`": the names, in bold, of the numbered list."""
    found = re.findall(r"^The steps of `(fab [^`]+)`[^\n]*:\n\n((?:(?:\d+\.|   ) ?.*\n)+)", text, re.MULTILINE)
    return {command: re.findall(r"^\d+\. \*\*(.+?)\*\*", listed, re.MULTILINE) for command, listed in found}


def rows(text: str) -> list[list[str]]:
    """Of all tables, without their heads."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    heads = {number - 1 for number, row in enumerate(cells) if set("".join(row)) <= {"-"}}
    return [row for number, row in enumerate(cells) if number not in heads and number - 1 not in heads]


def alerts_on(text: str) -> list[str]:
    """Names marked as alerts: alert `a`, alerts `a`, `b` and `c`."""
    lists = re.findall(r"\balerts? ((?:`[^`]+`(?:, | and | or )?)+)", text)
    return [name for one in lists for name in re.findall(r"`([^`]+)`", one)]


# -- what the code says


def _texts(node: ast.expr, local: dict[str, ast.expr]) -> list[str]:
    """What an expression may be, "*" for what only a run knows."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return [*_texts(node.body, local), *_texts(node.orelse, local)]
        case ast.Name() if node.id in local:
            return _texts(local[node.id], {})
        case ast.JoinedStr():
            return ["".join(parts) for parts in product(*(_texts(value, local) for value in node.values))]
    return ["*"]


def _named(tree: ast.Module) -> Iterator[str]:
    """The name of every alert that a module makes: Alert(name, …), or {"name": …, "says": …, "next": …}."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
        local = {to.id: node.value for node in assigned for to in node.targets if isinstance(to, ast.Name)}
        for node in ast.walk(function):
            match node:
                case ast.Call(func=ast.Name(id="Alert"), args=[first, *_]):
                    yield from _texts(first, local)
                case ast.Dict(
                    keys=[ast.Constant(value="name"), ast.Constant(value="says"), ast.Constant(value="next")]
                ):
                    yield from _texts(node.values[0], local)


@functools.cache
def alerts() -> frozenset[str]:
    """Every name that an alert may have; "…" where only a run knows the rest."""
    known: dict[str, Iterable[str]] = {
        **{name: {job.name for job in schedule.JOBS} for name in ("late-*", "failed-*")},
        "*-wanted": {*autopilot._BY_HAND.values(), "failover"},
        "drill-overdue-*": {duty.name for duty in duties.CALENDAR},
        "backup-incomplete-*": ("vault", "local", "offsite"),
    }
    texts = [path.read_text() for path in (PROJECT / "lifeline").glob("*.py")]
    made = {name for text in texts if '"next"' in text or "Alert(" in text for name in _named(ast.parse(text))} - {"*"}
    filled = {name.replace("*", one) for name in made for one in known.get(name, ())}
    return frozenset(filled | {name.replace("*", "…") for name in made if not name.startswith("*")})


@functools.cache
def said() -> str:
    """Every text in runbooks/ and lifeline/, a line each; what an f-string puts in is left out."""
    files = [path for room in ("lifeline", "runbooks") for path in sorted((PROJECT / room).glob("*.py"))]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@functools.cache
def engine() -> str:
    """The reference service's own source: figures and words of its audit log."""
    return "\n".join(path.read_text() for path in (PROJECT / "services/genesis/engine").glob("*.py"))


def exit_codes() -> set[int]:
    table = section((PROJECT / "docs/design.md").read_text(), "Exit codes (`lifeline/errors.py`)")
    return {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


def goal(one: Objective) -> list[str]:
    """A row of the targets, as a page has it."""
    target = length(one.target_s) if one.target_s == 0 else f"< {length(one.target_s)}"
    return [f"{one.kind.upper()} {one.component}", target, length(one.max_s)]


PLANS: dict[str, Callable[[Site, dict[str, Any]], object]] = {
    "failover": lambda site, given: failover(site, given.get("target"), dry_run=True),
    "switchover": lambda site, given: switchover(site, given.get("target"), dry_run=True),
    "failback": lambda site, given: failback(site, dry_run=True),
    "reprotect": lambda site, given: reprotect(site, dry_run=True),
    "restore": lambda site, given: restore(site, THEN if "at" in given else None, dry_run=True),
    "validate": lambda site, given: validate(site),
}
AWAY = ("reprotect", "failback")  # what is for the time after a failover


def planned(command: str, folder: Path) -> list[str]:
    """The steps of a runbook by its own plan, epoch N holding as it begins; NAME is the public name, TIME a moment."""
    verb, given = parsed(command)
    world = World(folder)
    world.vault["replica/genesis/epoch-0001/trades/ltx/0/a.ltx"] = b""
    if verb in AWAY:
        failover(world.process(), yes=True)
    if verb == "failback":
        reprotect(world.process(), yes=True)
    assert world.lease is not None
    names = {f"epoch {world.lease.epoch + 1}": "epoch N+1", f"epoch {world.lease.epoch}": "epoch N"}
    names |= {world.inventory.record.fqdn: "NAME", f"{THEN} UTC": "TIME"}
    site = world.process()
    try:
        PLANS[verb](site, given)
    except LifelineError:
        if verb != "validate":  # it has no plan: it looks, at a world that needn't be whole
            raise
    assert isinstance(site.out, io.StringIO)
    steps = re.findall(r"^\[\d+/\d+\] (.*?)(?: … .*)?$", site.out.getvalue(), re.MULTILINE)
    return [functools.reduce(lambda text, name: text.replace(name, names[name]), names, step) for step in steps]


# -- the two held against each other


def problems(text: str, folder: Path) -> list[str]:
    """Of any page: what it says and the code doesn't."""
    found = [f"alert `{name}`: nothing raises it" for name in alerts_on(text) if name not in alerts()]
    for command in typed_on(text):
        try:
            parsed(command)
        except ValueError as error:
            found.append(str(error))
    for words in re.findall(r"\b(?:says|ends with|at) `([^`]+)`", text):
        found += [f"`{part}` is said by nothing" for part in re.split("[…,]", words) if part.strip() not in said()]
    for name in re.findall(r"\b(genesis_[a-z_]+)\b", text):
        found += [f"{name} is no figure of the engine's"] if f'"{name}"' not in engine() else []
    for words in re.findall(r"audit log has `([^`]+)`|`((?:trade|position) that [^`]+)`", text):
        found += [f"`{one}` is said by no engine" for one in words if one and f'"{one}"' not in engine()]
    for number, (command, names) in enumerate(lists_of_steps(text).items()):
        (world := folder / str(number)).mkdir(parents=True)
        if names != (steps := planned(command, world)):
            found.append(f"the steps of {command} are {steps}, not {names}")
    for row in rows(section(text, "When it stops")):
        if int(row[0]) not in exit_codes():
            found.append(f"exit code {row[0]} isn't in docs/design.md")
        if "`" not in row[-1]:
            found.append(f"exit code {row[0]}: nothing to type")
    if (size := sum(max(1, math.ceil(len(line) / COLUMNS)) for line in text.splitlines())) > SCREENS:
        found.append(f"{size} lines of {COLUMNS} columns: more than two screens")
    return found


def problems_of_scenario(name: str, text: str) -> list[str]:
    """Of a scenario's page: what it must have and hasn't."""
    scenario, found = SCENARIOS[name], []
    if not text.startswith(f"# {scenario.title}\n"):
        found.append(f"its title isn't {scenario.title!r}")
    headings = tuple(re.findall(r"^## (.*)$", text, re.MULTILINE))
    if headings != HEADINGS:
        found.append(f"its sections are {headings}")
    places = {"primary": OLD, "standby": NEW}
    lines = [shlex.split(line, comments=True) for line in blocks(section(text, "What to type")).splitlines()]
    for argv in scenario.types:
        words = [word.format(**places) for word in argv]
        found += [f"what the drill types isn't there: {shlex.join(words)}"] if words not in lines else []
    measured = (scenario.component, "trades", "positions")
    if (there := rows(section(text, "Targets"))) != (goals := [goal(OBJECTIVES[one]) for one in measured if one]):
        found.append(f"its targets are {there}, not {goals}")
    if f"fab drill --scenario {name}" not in blocks(section(text, "How it is rehearsed")):
        found.append("how it is rehearsed isn't there")
    return found


def missing(pages: Iterable[str], known: Iterable[str]) -> list[str]:
    """Scenarios without a page, and pages without a scenario."""
    without = set(known) - set(pages)
    alone = set(pages) - set(known) - set(OTHERS)
    return [
        *(f"write docs/runbooks/{name}.md: the page of scenario {name}" for name in sorted(without)),
        *(f"docs/runbooks/{name}.md is of no scenario: fab drill --list" for name in sorted(alone)),
    ]


def test_every_scenario_has_a_page_and_every_page_a_scenario() -> None:
    assert not missing(PAGES, SCENARIOS)
    assert set(OTHERS) <= set(PAGES)


def test_a_scenario_without_a_page_and_a_page_without_a_scenario_are_found() -> None:
    assert missing(["README", "fire"], ["flood"]) == [
        "write docs/runbooks/flood.md: the page of scenario flood",
        "docs/runbooks/fire.md is of no scenario: fab drill --list",
    ]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_says_is_so(name: str, tmp_path: Path) -> None:
    assert not problems(PAGES[name], tmp_path)


@pytest.mark.parametrize("name", sorted(set(PAGES) & set(SCENARIOS)))
def test_a_scenarios_page_has_what_it_must(name: str) -> None:
    assert not problems_of_scenario(name, PAGES[name])


def test_the_index_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", PAGES["README"]))
    assert linked == {*SCENARIOS, "post-recovery"}


def test_whatever_wakes_somebody_is_in_the_index() -> None:
    named = alerts_on(PAGES["README"])
    lost = [page for page in escalation.PAGES if not any(name.startswith(page) for name in named)]
    assert not lost, f"docs/runbooks/README.md doesn't say where to go with {lost}"
    paging = {name for name in alerts() if name.startswith(escalation.PAGES)}
    assert paging <= set(named), f"not in the index: {sorted(paging - set(named))}"


def test_a_failover_again_is_refused_after_a_good_end(tmp_path: Path) -> None:
    """As the pages say under "When it stops"."""
    world = World(tmp_path)
    failover(world.process(), yes=True)
    reprotect(world.process(), yes=True)
    with pytest.raises(Refused, match=f"{NEW} is primary and answers its users"):
        failover(world.process(), dry_run=True)
    with pytest.raises(Refused, match=f"{NEW} is primary already"):
        failover(world.process(), NEW, yes=True)


def test_the_code_raises_what_it_is_known_to_raise() -> None:
    assert {"failover-wanted", "data-damaged", "failover-impossible", "late-backup-full", "fork-…"} <= alerts()
    assert not {"failover-wished", "late-lunch", "…-wanted", "fork-x"} & alerts()


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("`failover-wanted`", "`failover-wished`", "nothing raises it"),
        ("fab validate", "fab validat", "No idea what 'validat' is"),
        ("fab failover --dry-run", "fab failover --dry", "No idea what '--dry' is"),
        ("**data is final**", "**data is well**", "the steps of fab failover"),
        ("hasn't renewed its lease for", "hasn't been seen for", "is said by nothing"),
        ("| 7 |", "| 9 |", "exit code 9"),
        ("fab failover --yes", "fab failover", "what the drill types isn't there: fab failover --yes"),
        ("< 10 min", "< 9 min", "its targets are"),
        ("| 30 min |", "| 1 h |", "its targets are"),
        ("## When it stops", "## If it stops", "its sections are"),
        ("--scenario complete-failure", "--scenario manual-failover", "how it is rehearsed"),
    ],
)
def test_a_wrong_page_is_found(right: str, wrong: str, found: str, tmp_path: Path) -> None:
    page, name = PAGES["complete-failure"], "complete-failure"
    assert right in page
    told = [*problems(wrong_page := page.replace(right, wrong), tmp_path), *problems_of_scenario(name, wrong_page)]
    assert any(found in one for one in told), told


def test_a_step_left_out_or_moved_is_found(tmp_path: Path) -> None:
    lines = PAGES["complete-failure"].splitlines(keepends=True)
    (at,) = (number for number, line in enumerate(lines) if "**data is final**" in line)
    for number, changed in enumerate(
        (lines[:at] + lines[at + 1 :], [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]])
    ):
        assert any("the steps of" in one for one in problems("".join(changed), tmp_path / str(number)))
