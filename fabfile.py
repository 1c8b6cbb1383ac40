"""The operator's verbs: each a few lines onto runbooks/.  docs/runbooks.md says what each does and destroys.

Runbooks and the lab are imported by the verb that needs them: `fab failover` shouldn't pay for the lab.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument
from invoke.tasks import Task, task

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lifeline.errors import BadInput, LifelineError

INTERRUPTED = 130
WAIVE_HELP = "go on without this proof; may be given several times (docs/runbooks.md lists the names)"
TASK = {"yes": "don't ask", "dry_run": "show the plan and what is so now; change nothing", "waive": WAIVE_HELP}


class Words(Argument):
    """An argument without a flag that only some actions take: `fab incident note "…"`, and `fab incident list`."""

    def __init__(self, action: Argument, needed: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.action, self.needed = action, needed

    @property
    def value(self) -> Any:
        """None is what the parser asks for next."""
        return self._value if self._value is not None or self.action.value in self.needed else ""

    @value.setter
    def value(self, text: str) -> None:
        self.set_value(text)


class Spoken(Task[Any]):
    """A task whose second argument are `Words`, after those actions."""

    TAKE_WORDS = ("open", "note")

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        action, words, *others = super().get_arguments(ignore_unknown_help)
        spoken = Words(action, self.TAKE_WORDS, name=words.name, positional=True, help=words.help)
        return [action, spoken, *others]


def refuse_mistaken(context: Context, typed: str, options: Mapping[str, Any], repeatable: Sequence[str]) -> None:
    """BadInput for what Invoke takes and the operator can't have meant: acting on it would be another act, mostly a
    larger one."""
    if context.config.run.dry:
        hint = f"fab {typed} --dry-run" if "dry_run" in options else ""
        raise BadInput(
            "--dry (-R) is an option of Invoke's, under which a verb would act all the same: nothing was done. "
            "Lifeline's own, which changes nothing, is --dry-run",
            hint=hint,
        )
    for name, value in options.items():
        given = value if isinstance(value, list) else [value]
        untyped = name == "words" and options["action"] not in Spoken.TAKE_WORDS
        if not untyped and any(isinstance(one, str) and not one.strip() for one in given):
            said = f"--{name.strip('_').replace('_', '-')}"
            raise BadInput(f"{said} was given an empty value (a variable that isn't set?): nothing was done")
    # A list that got nothing looks to the parser like one that wasn't asked for.
    for one, after in zip(sys.argv, [*sys.argv[1:], "--"], strict=True):
        if one.removeprefix("--") in repeatable and one.startswith("--") and after.startswith("--"):
            raise BadInput(f"{one} was given without its value: nothing was done")


def number(option: str, text: str | None) -> int | None:
    """An option's number; None where it wasn't given."""
    try:
        return None if text is None else int(text)
    except ValueError:
        raise BadInput(f'--{option} "{text[:40] if text else text}" is no whole number') from None


def verb(
    *,
    help: dict[str, str] | None = None,
    repeatable: Sequence[str] = (),
    fallback: str = "fab status",
    klass: type[Task[Any]] = Task,
    typed: str = "",
) -> Callable[[Callable[..., Any]], Any]:
    """A task whose errors are an operator's: message, next command (``fallback`` where it names none), exit code.
    ``typed``: the verb as it is typed, where that isn't the function's name."""

    def wrap(body: Callable[..., Any]) -> Any:
        name = typed or body.__name__

        @functools.wraps(body)
        def guarded(context: Context, *arguments: Any, **options: Any) -> None:
            try:
                refuse_mistaken(context, name, options, repeatable)
                body(context, *arguments, **options)
            except LifelineError as error:
                error.hint = error.hint or (f"fab --help {name}" if isinstance(error, BadInput) else fallback)
                print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
                sys.exit(error.exit_code)
            except KeyboardInterrupt:
                print("\nInterrupted. The journal shows how far it got; to run it again is to resume.", file=sys.stderr)
                sys.exit(INTERRUPTED)
            except Exception:
                traceback.print_exc()
                print("\nThis is a defect in Lifeline. Journals: .lifeline/<stack>/journal/", file=sys.stderr)
                sys.exit(1)

        known = {name.replace("_", "-"): text for name, text in (help or {}).items()}
        return task(help=known, iterable=list(repeatable), auto_shortflags=False, klass=klass)(guarded)

    return wrap


@verb(help={**TASK, "target": "the host to promote; default: the one that isn't primary"}, repeatable=["waive"])
def failover(
    _: Context, target: str | None = None, yes: bool = False, dry_run: bool = False, waive: Any = None
) -> None:
    """The primary is lost: fence it, and make the standby primary. Run it again to resume."""
    from runbooks.doors import open_site
    from runbooks.failover import failover as run

    with open_site(read_only=dry_run) as site:
        run(site, target, yes=yes, dry_run=dry_run, waive=tuple(waive or ()))


@verb(help={**TASK, "target": "the host to promote; default: the standby"}, repeatable=["waive"])
def switchover(
    _: Context, target: str | None = None, yes: bool = False, dry_run: bool = False, waive: Any = None
) -> None:
    """The primary is healthy: it stops in order, the standby goes on; nothing is lost. Run it again to resume."""
    from runbooks.doors import open_site
    from runbooks.switchover import switchover as run

    with open_site(read_only=dry_run) as site:
        run(site, target, yes=yes, dry_run=dry_run, waive=tuple(waive or ()))


@verb(help=TASK, repeatable=["waive"])
def failback(_: Context, yes: bool = False, dry_run: bool = False, waive: Any = None) -> None:
    """Home again: the home host follows, catches up, and takes over in order."""
    from runbooks.doors import open_site
    from runbooks.failback import failback as run

    with open_site(read_only=dry_run) as site:
        run(site, yes=yes, dry_run=dry_run, waive=tuple(waive or ()))


@verb(help={"settle": "HOST:FOLDER, a person has dealt with that one", "json": "for programs"})
def forks(_: Context, settle: str | None = None, json: bool = False) -> None:
    """What a former primary wrote and the vault never got, row by row: kept, told, merged by nobody."""
    from runbooks.doors import open_site
    from runbooks.forks import forks as run

    with open_site() as site:
        run(site, settle=settle or "", as_json=json)


@verb(help={"for": "how long: 30m, 2h, 1d (default 1h, at most 7d)"})
def pause(_: Context, for_: str = "1h") -> None:
    """The hosts fail nothing over by themselves for a while: for work on them."""
    from runbooks.doors import open_site
    from runbooks.mode import pause as run

    with open_site() as site:
        run(site, for_)


@verb()
def resume(_: Context) -> None:
    """End a pause, or a mode set by hand: the stack's policy holds again."""
    from runbooks.doors import open_site
    from runbooks.mode import resume as run

    with open_site() as site:
        run(site)


@verb(help={"name": "automatic or manual"})
def mode(_: Context, name: str) -> None:
    """Whether the hosts fail over by themselves, or wait for a person's word; above the stack's policy."""
    from runbooks.doors import open_site
    from runbooks.mode import mode as run

    with open_site() as site:
        run(site, name)


@verb(help=TASK, repeatable=["waive"])
def rebuild(_: Context, yes: bool = False, dry_run: bool = False, waive: Any = None) -> None:
    """Both hosts are gone, Pulumi's state perhaps too: the site anew, around its vault. Run it again to resume."""
    from runbooks.doors import clouds_of, open_remains, site_of
    from runbooks.rebuild import rebuild as run

    with open_remains(read_only=dry_run) as site:
        anew = functools.partial(site_of, site.root)
        run(site, clouds_of(site), anew, yes=yes, dry_run=dry_run, waive=tuple(waive or ()))


@verb(help={"dry_run": TASK["dry_run"], "yes": TASK["yes"]})
def reprotect(_: Context, yes: bool = False, dry_run: bool = False) -> None:
    """After a failover: power the other host on and make it a standby again."""
    from runbooks.doors import open_site
    from runbooks.reprotect import reprotect as run

    with open_site(read_only=dry_run) as site:
        run(site, yes=yes, dry_run=dry_run)


@verb(
    help={
        **{"action": "open, note, ack, close, list or report", "words": "after open and note: what happened"},
        **{"as": "note: what it is in the report: impact, cause, resolution, action or lesson"},
        **{"id": "report: which; default: the one that is open, else the newest", "json": "list: for programs"},
        "publish": "report: put the file, as you have worked on it, into the vault",
    },
    klass=Spoken,
)
def incident(
    _: Context,
    action: str,
    words: str,
    as_: str | None = None,
    id: str | None = None,
    publish: bool = False,
    json: bool = False,
) -> None:
    """One timeline of journals, alerts, decisions and notes: fab incident open "…", note "…", ack, close, report."""
    from runbooks import incident as run
    from runbooks.doors import open_site

    if action not in (*Spoken.TAKE_WORDS, "ack", "close", "list", "report"):
        raise BadInput(f'"{action}" is nothing to do with an incident', hint="fab --help incident")
    for option, given, goes in (("as", as_, "note"), ("id", id, "report"), ("publish", publish, "report")):
        if given and action != goes:
            raise BadInput(f"--{option} goes with fab incident {goes} only: nothing was done")
    with open_site() as site:
        if action == "open":
            run.open_incident(site, words)
        elif action == "note":
            run.note(site, words, as_ or "")
        elif action == "ack":
            run.acknowledge(site)
        elif action == "close":
            run.close(site)
        elif action == "list":
            run.show(site, as_json=json)
        else:
            run.report(site, id or "", publish=publish)


@verb(help={**TASK, "target": "a host; refused unless it is the primary"}, repeatable=["waive"])
def dns(_: Context, target: str | None = None, yes: bool = False, dry_run: bool = False, waive: Any = None) -> None:
    """Point the public name at the primary, by the lease, and prove it through name servers and resolvers."""
    from runbooks.dns import dns as run
    from runbooks.doors import open_site

    with open_site(read_only=dry_run) as site:
        run(site, target, yes=yes, dry_run=dry_run, waive=tuple(waive or ()))


@verb(help={"full": "read every file anew, trusting neither its size nor its time", "dry_run": TASK["dry_run"]})
def backup(_: Context, full: bool = False, dry_run: bool = False) -> None:
    """The independent copy, now: databases, configuration, state, logs; verified; by restic, in vault and host."""
    from runbooks.backup import backup as run
    from runbooks.doors import open_site

    with open_site(read_only=dry_run) as site:
        run(site, full=full, dry_run=dry_run)


@verb(help={"all": "not only the newest 20", "json": "for programs"})
def backups(_: Context, all: bool = False, json: bool = False) -> None:
    """Which backups there are: age, size, where they lie, and when each was last restored to prove it."""
    from runbooks.backups import backups as run
    from runbooks.doors import open_site

    with open_site(read_only=True) as site:
        run(site, everything=all, as_json=json)


RESTORE = {
    **TASK,
    "at": 'a time, "2026-01-15 14:00:00" in UTC; default: the newest data',
    "txid": "a transaction of the replica, instead of a time",
    "from": "vault, offsite, snapshot or local; default: whatever has the newest data",
    "to": "HOST:PATH, a copy to look at; nothing else is touched. here:PATH is this machine: needs no host at all",
    "only": "config, state, logs or database (the default), may be given several times; files come out of a backup",
    "table": "rows of one table out of that copy, as SQL or CSV, to the screen or to the file --to",
    "format": "with --table: sql (the default) or csv",
    "salvage": "SQLite's .recover on the databases as they lie, into --to HOST:PATH",
    "before_corruption": "search the last point that passes every check, and propose it",
    "check": "with --before-corruption: SQL that finds no row in good data",
}


@verb(help=RESTORE, repeatable=["waive", "only"])
def restore(
    _: Context,
    at: str | None = None,
    txid: str | None = None,
    from_: str | None = None,
    to: str | None = None,
    only: Any = None,
    table: str | None = None,
    format: str | None = None,
    salvage: bool = False,
    before_corruption: bool = False,
    check: str | None = None,
    yes: bool = False,
    dry_run: bool = False,
    waive: Any = None,
) -> None:
    """Restore the primary's databases beside, verify, swap; the old ones are kept on the host."""
    from runbooks.clean_point import before_corruption as search
    from runbooks.doors import open_site
    from runbooks.extract import salvage as recover
    from runbooks.extract import table as rows_of
    from runbooks.restore import inspect
    from runbooks.restore import restore as run
    from runbooks.wanted import one_way

    waived, parts = tuple(waive or ()), tuple(only or ())
    moment = {"at": at, "txid": txid, "from": from_, "to": to, "only": parts}
    ways = {"table": table, "salvage": salvage, "before-corruption": before_corruption}
    way = one_way({**ways, **moment, "format": format, "check": check, "dry-run": dry_run, "waive": waived})
    with open_site(read_only=dry_run or bool(to), with_cloud=way != "to") as site:
        if way == "table":
            rows_of(site, str(table), at, txid=txid, source=from_, form=format or "sql", to=to)
        elif way == "salvage":
            recover(site, to or "")
        elif way == "before-corruption":
            search(site, check, yes=yes, dry_run=dry_run, waive=waived)
        elif way == "to":
            inspect(site, str(to), at, txid=txid, source=from_, only=parts, waive=waived)
        else:
            run(site, at, txid=txid, source=from_, only=parts, yes=yes, dry_run=dry_run, waive=waived)


@verb(
    help={
        **{"yes": TASK["yes"], "dry_run": "only say what would go"},
        **{"offsite": "in the off-site vault, where no host may remove anything: with your own AWS key"},
    }
)
def prune(_: Context, offsite: bool = False, yes: bool = False, dry_run: bool = False) -> None:
    """Let go of what is kept long enough, as the keeper does daily; never of the newest backup that was proved."""
    from runbooks.doors import open_site
    from runbooks.prune import prune as run
    from runbooks.prune_offsite import copies, prune_offsite

    with open_site(read_only=dry_run) as site:
        if offsite:
            prune_offsite(site, copies(site.inventory), yes=yes, dry_run=dry_run)
        else:
            run(site, yes=yes, dry_run=dry_run)


@verb(help={"weekly": "also walk the whole chain, and read a part of restic's packs", "json": "for programs"})
def verify(_: Context, weekly: bool = False, json: bool = False) -> None:
    """Restore on the standby, to prove the backups: newest point, a random one, newest snapshot; the measured RPO."""
    from runbooks.doors import open_site
    from runbooks.verify import verify as run

    with open_site() as site:
        run(site, weekly=weekly, as_json=json)


@verb()
def validate(_: Context) -> None:
    """Is everything as it must be? Data, invariants, roles, traffic, standby, backups."""
    from runbooks.doors import open_site
    from runbooks.validate import validate as run

    with open_site() as site:
        run(site)


@verb(help={"json": "for programs", "watch": "anew every two seconds, until Ctrl-C"})
def status(_: Context, json: bool = False, watch: bool = False) -> None:
    """Roles, lease, mode, epoch, lag, traffic, backups: what is so now, and what the agents would decide and why."""
    from runbooks.doors import open_site
    from runbooks.status import status as run
    from runbooks.status import watch as go_on

    with open_site() as site:
        if watch and not json:
            go_on(site)
        run(site, as_json=json)


@verb(
    help={
        **{
            "from_vault": "the sealed copy in the vault",
            "from_offsite": "the sealed copy off-site, on AWS",
        },
        **{"from_host": "a host's address", "host_key": "its host key"},
    }
)
def inventory(
    _: Context,
    from_vault: bool = False,
    from_offsite: bool = False,
    from_host: str | None = None,
    host_key: str | None = None,
) -> None:
    """Renew the cached inventory: from Pulumi, or with Pulumi gone from the vault, off-site or from a host."""
    from runbooks.break_glass import renew

    renew(from_vault=from_vault, from_offsite=from_offsite, from_host=from_host or "", host_key=host_key or "")


@verb(help={"take_away": "settings that hosts have and the file here hasn't", "dry_run": TASK["dry_run"]})
def provision(_: Context, take_away: bool = False, dry_run: bool = False) -> None:
    """Bundle, configuration and programs onto both hosts; changes nothing the second time."""
    from runbooks.doors import open_site
    from runbooks.provision import provision as run

    with open_site(fresh=True, read_only=dry_run) as site:
        run(site, take_away=take_away, dry_run=dry_run)


DRILL = {
    "scenario": "which disaster (default: complete-failure)",
    "list": "the scenarios there are",
    "keep": "leave the lab up afterwards",
    "runs": "so many times on one pair of hosts: a series",
    "ttl": "seconds of the lease in a series (default 30)",
    "mb": "fill the database to so many megabytes before a series",
    "page": "put the series' row into docs/failover.md",
    "due": "which drills are due, by those that were held",
    "ical": "write the calendar to this file",
    "index": "write drills/index.html anew, the page over all drills",
    "production": "no lab: LIFELINE_STACK itself, whose traffic a switchover really moves; asked twice",
    "isolated": "no lab: a copy of LIFELINE_STACK, made out of its vault and torn down again; says what it costs",
    "tear_down": "what an isolated drill has left, where it could not tear it down itself",
    "yes": "with --isolated and --tear-down: don't ask",
    "dry_run": "with --isolated and --tear-down: only say what would be made, or destroyed",
}


@verb(help=DRILL)
def drill(
    _: Context,
    scenario: str | None = None,
    list: bool = False,
    keep: bool = False,
    runs: str | None = None,
    ttl: str | None = None,
    mb: str | None = None,
    page: bool = False,
    due: bool = False,
    ical: str | None = None,
    index: bool = False,
    production: bool = False,
    isolated: bool = False,
    tear_down: bool = False,
    yes: bool = False,
    dry_run: bool = False,
) -> None:
    """Rehearse a disaster on the lab's hosts, once or in a series, and report what was measured; or what is due."""
    from lab.drill import SCENARIO, WAYS, main
    from runbooks.wanted import one_way

    alone = {"production": production, "isolated": isolated, "tear-down": tear_down, "list": list}
    calendar = {"due": due, "ical": ical, "index": index}
    held = {"scenario": scenario, "keep": keep, "runs": runs, "ttl": ttl, "mb": mb, "page": page}
    way = one_way({**alone, **calendar, **held, "yes": yes, "dry-run": dry_run}, WAYS, "drill")
    if way in ("production", "isolated", "tear-down"):
        from lab import isolated as copy
        from lab.production import production as hold
        from runbooks.doors import open_site

        with open_site() as site:
            if way == "tear-down":
                copy.end(site, yes=yes, dry_run=dry_run)
                return
            sys.exit((copy.isolated(site, yes=yes, dry_run=dry_run) if way == "isolated" else hold(site))[1])

    if way in calendar:
        from lab.almanac import almanac

        sys.exit(almanac(due=due, ical=ical or "", index=index))
    series = {name: number(name, text) for name, text in (("runs", runs), ("ttl", ttl), ("mb", mb))}
    sys.exit(main(scenario or SCENARIO, keep=keep, list_only=list, page=page, **series))


@verb(
    help={
        "action": "verify: was any of it changed or dropped? seal: put on the chain what isn't",
        "json": "for programs",
    }
)
def evidence(_: Context, action: str, json: bool = False) -> None:
    """Journals, drills' reports and incidents, chained and off-site: fab evidence verify, fab evidence seal."""
    from runbooks.doors import open_site
    from runbooks.evidence import seal, vaults, verify

    if action not in ("verify", "seal"):
        raise BadInput(f'"{action}" is nothing to do with evidence', hint="fab evidence verify, or fab evidence seal")
    with open_site() as site:
        stores = vaults(site.inventory)
        seal(site, stores) if action == "seal" else verify(site, stores, as_json=json)


@verb(fallback="fab lab.status", typed="lab.up")
def up(_: Context) -> None:
    """Start the lab: a cloud on this machine."""
    from lab import lifecycle

    lifecycle.up()


@verb(fallback="fab lab.status", typed="lab.down")
def down(_: Context) -> None:
    """Stop the lab; nothing is left behind."""
    from lab import lifecycle

    lifecycle.down()


@verb(fallback="fab lab.status", typed="lab.env")
def env(_: Context) -> None:
    """What a shell needs to work against the lab: eval "$(fab lab.env)"."""
    from lab import lifecycle

    print(lifecycle.env_script())


@verb(fallback="fab lab.down", typed="lab.status")
def lab_status(_: Context) -> None:
    """What of the lab runs."""
    from lab import lifecycle

    found = lifecycle.status()
    print(found)
    sys.exit(0 if found.healthy else 6)


lab = Collection("lab")
lab.add_task(up)
lab.add_task(down)
lab.add_task(env)
lab.add_task(lab_status, name="status")

in_an_incident = (failover, switchover, failback, reprotect, rebuild, restore, dns, validate, status, forks, incident)
automatic = (pause, resume, mode)
in_quiet_times = (backup, backups, verify, prune, inventory, provision, drill, evidence)
namespace = Collection(*in_an_incident, *automatic, *in_quiet_times, lab)
