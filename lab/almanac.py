"""`fab drill --due`, `--ical` and `--index`: what was held, what is due, and the page over all of it.

What was held is told by the reports on this machine, and by those in the vault of LIFELINE_STACK where one is set: a
colleague's drill counts. A vault that is set and can't be read leaves UNKNOWN what isn't shown by the reports here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lab import index as page
from lab import scenarios
from lifeline import duties, held
from lifeline.duties import Held, Standing
from lifeline.errors import BadInput, LifelineError, StepFailed, Unproven
from lifeline.inventory import load, project_root
from lifeline.layout import write_file
from lifeline.store import Store


def almanac(*, due: bool = False, ical: str = "", index: bool = False, now: datetime | None = None) -> int:
    """Print, or write; the exit code: 0 nothing is overdue, 6 something is, 5 it can't be told."""
    root, now = project_root(), now or datetime.now(UTC)
    folder = root / "drills"
    if index:
        folder.mkdir(exist_ok=True)
        print(f"The page over all drills: {page.write(folder, now)}")
    if not (due or ical):
        return 0
    stack = os.environ.get("LIFELINE_STACK") or os.environ.get("PULUMI_STACK") or ""
    here, problems = held.in_folder(folder)
    there, since, away = _in_vault(root, stack) if stack else ([], None, "")
    standing = duties.standings([*here, *there], now, since or min((one.at for one in here), default=None))
    if ical:
        path = _writable(ical)
        try:
            write_file(path, duties.ical(standing, stack or "lifeline", now).encode(), mode=0o644)
        except OSError as error:
            raise BadInput(f"{path} can't be written: {error.strerror}", hint="fab drill --ical drills.ics") from None
        print(f"The calendar, to import or subscribe to: {path}")
    if due:
        return _say(standing, stack, problems, away)
    return 0


def _say(standing: Sequence[Standing], stack: str, problems: Sequence[str], away: str) -> int:
    print(duties.table(standing))
    for one in standing:
        if not set(one.duty.scenarios) & set(scenarios.every()):
            print(f"  ! no scenario here serves the drill {one.duty.title.lower()}: hold it by hand, until one does")
    print(f"By the reports on this machine{f' and in the vault of {stack}' if stack and not away else ' alone'}.")
    for line in problems:
        print(f"  can't be read: {line}")
    if away:
        print(f"  the vault of {stack} can't be read: {away}")
    if not any(one.state in ("overdue", "never") for one in standing):
        return 0
    return Unproven.exit_code if away else StepFailed.exit_code


def _in_vault(root: Path, stack: str) -> tuple[list[Held], datetime | None, str]:
    """(what was held by the vault, since when there is a deployment, why it can't be told)."""
    try:
        store = _store(root, stack)
        return held.in_store(store), held.first_run(store), ""
    except LifelineError as error:
        return [], None, error.message


def _store(root: Path, stack: str) -> Store:
    from lifeline.vault import key_from_environment, open_store

    inventory = load(root, stack).inventory
    return open_store(inventory.vault, key_from_environment("SPACES"), read_s=5.0, attempts=1)


def _writable(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(f"{path} can't be written: it is a folder, or is in none", hint="fab drill --ical drills.ics")
    return path
