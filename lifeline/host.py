"""`lifeline-host VERB`: what runbooks call on a host, as root. One JSON object on stdout; errors are JSON too, with
the exit codes of errors.py.

Every verb is idempotent. Nothing here imports boto3 before a verb needs the vault: `observe` must answer at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from lifeline import checked, data, hooks, roles, verify
from lifeline.apply import apply, configure, differing, follower_programs, read_shipped
from lifeline.errors import BadInput, DataBad, LifelineError, Refused, StepFailed, Unproven
from lifeline.layout import Config, Layout, alone, load_config, read_role
from lifeline.model import Verdict
from lifeline.progress import during
from lifeline.service import HOOKS
from lifeline.store import Store, find
from lifeline.supervisor import Supervisor
from lifeline.systemd import Systemd

LOCK_WITHIN_S = 30.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a state of the disk, no defect
Answer = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Console script. Returns the exit code."""
    arguments = parser().parse_args(argv)
    layout = Layout()
    try:
        answer = arguments.do(layout, arguments)
    except LifelineError as error:
        return _fail(
            error, error.exit_code, {"error": error.message, "hint": error.hint, **getattr(error, "answer", {})}
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            full = StepFailed(
                f"the disk can't be written: {error}",
                hint="df -h /var/lib on that host; free some space, then the same again",
            )
            return _fail(full, full.exit_code, {"error": full.message, "hint": full.hint})
        traceback.print_exc()
        return _fail(
            error,
            1,
            {"error": f"{type(error).__name__}: {error}", "hint": "a defect in Lifeline; the trace is on stderr"},
        )
    print(json.dumps(answer))
    return 0


def _fail(error: Exception, code: int, answer: Answer) -> int:
    print(json.dumps(answer))
    print(f"lifeline-host: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(json.dumps({"error": message, "hint": f"{self.prog} --help"}))
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(prog="lifeline-host", description="The verbs of a Lifeline host. One JSON object on stdout.")
    verbs = top.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    def verb(
        name: str, do: Callable[[Layout, argparse.Namespace], Answer], text: str, *, epoch: bool = False
    ) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=text, description=text)
        found.set_defaults(do=do)
        if epoch:
            found.add_argument("--epoch", type=_epoch, required=True)
        return found

    verb("observe", _observe, "what can be seen from this host")
    verb("apply", _apply, "configuration from the shipped files")
    configure = verb(
        "configure", _configure, "take the shipped files from stdin, and apply them (provisioning calls this)"
    )
    configure.add_argument("--check", action="store_true", help="only say what would change")
    verb("warm", _warm, "compile what will be imported (provisioning calls this)")
    stop = verb(
        "stop-service", _stop_service, "stop the service, bring its last transactions into the vault, stop Litestream"
    )
    stop.add_argument("--no-flush", action="store_true", help="don't wait for the vault")
    verb("finalize", _finalize, "bring every database to the end of an epoch's replica", epoch=True)
    check = verb("verify", _verify, "are the databases good?")
    check.add_argument("--full", action="store_true", help="integrity_check instead of quick_check")
    verb("start-primary", _start_primary, "become primary of an epoch", epoch=True)
    verb("start-standby", _start_standby, "follow an epoch", epoch=True)
    left = verb("forks", _forks, "what this host wrote as a former primary and the vault never got, row by row")
    left.add_argument("--settle", metavar="FOLDER", help="a person has dealt with that one: no alert any more")
    verb("leave", _leave, "stop-service and release in one: a primary that goes in order", epoch=True)
    verb("release", _release, "give the lease of an epoch back, when nothing runs here any more", epoch=True)
    verb("withdraw", _withdraw, "promise the holder of that epoch nothing more (failsafe)", epoch=True)
    save = verb("backup", _backup, "a verified copy of everything, by restic")
    save.add_argument("--full", action="store_true")
    prove = verb("prove", _prove, "restore the newest point, a random one and the newest backup, to prove them")
    prove.add_argument("--epoch", type=_epoch, help="the lease's (fab verify says it); default: this host's own")
    prove.add_argument("--weekly", action="store_true", help="also the whole chain, and a part of restic's packs")
    prove.add_argument("--scheduled", action="store_true", help="the keeper asks, not a person")
    verb("offsite", _offsite, "copy what is new in the vault to the off-site vault")
    prune = verb("prune", _prune, "let go of what is kept long enough")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    kept = verb("logs", _logs, "set logs aside, bring them into the vault, delete old ones that are there")
    kept.add_argument("--dry-run", action="store_true", help="only say what would be done")
    verb("evidence", _evidence, "put on the chain of evidence what came to the vault since")
    verb("catalogue", _catalogue, "when each job last succeeded, as the vault has it")
    verb("sentinel", _sentinel, "note the time in every database, for the age of what a restore finds")
    restore = verb("restore", _restore, "restore beside, verify, swap", epoch=True)
    restore.add_argument("--at", help="a time (UTC unless it says otherwise); default: the newest")
    restore.add_argument("--txid", help="a transaction of the replica")
    restore.add_argument("--from", dest="source", help="vault, offsite, snapshot or local; default: the newest data")
    restore.add_argument(
        "--only", action="append", default=[], help="database (the default), configuration, state, logs"
    )
    restore.add_argument("--older", action="store_true", help="take an older source when the newest fails")
    restore.add_argument("--low-memory", action="store_true", help="try although memory is short of what it needs")
    restore.add_argument("--stage", action="store_true", help="don't swap: the service may go on")
    restore.add_argument("--to", help="into this folder, to be looked at; nothing live is touched")
    restore.add_argument("--plan", action="store_true", help="only say what it would take")
    search = verb("search-clean", _search_clean, "the last point of the replica that passes every check", epoch=True)
    search.add_argument("--check", help="SQL that finds no row in good data, beside the invariants")
    extract = verb("extract", _extract, "rows of one table out of a past copy, into a file for the caller", epoch=True)
    extract.add_argument("--table", required=True)
    extract.add_argument("--format", choices=["sql", "csv"], default="sql")
    extract.add_argument("--at", help="a time (UTC unless it says otherwise); default: the newest")
    extract.add_argument("--txid", help="a transaction of the replica")
    extract.add_argument("--from", dest="source", help="vault, offsite, snapshot or local; default: the newest data")
    salvage = verb("salvage", _salvage, "SQLite's .recover on the databases as they lie, into a new folder")
    salvage.add_argument("--to", required=True)
    salvage.add_argument("--expect", action="append", default=[], help="DATABASE.TABLE=ROWS of the newest backup")
    verb("compare", _compare, "the service's books against the world outside; changes nothing")
    hook = verb("hook", _hook, "run a hook of the service")
    hook.add_argument("name", choices=HOOKS)
    run = verb("run", _run, "become one of the supervised programs (supervisor calls this)")
    run.add_argument("what", choices=["service", "litestream", "follower", "hook"])
    run.add_argument("name", nargs="?", default="")
    return top


def _epoch(text: str) -> int:
    epoch = int(text)
    if epoch < 1:
        raise ValueError("epochs begin with 1")
    return epoch


def _supervisor(layout: Layout) -> Supervisor:
    return Supervisor(layout.supervisor_socket)


def _vault(config: Config) -> Any:
    from lifeline.host_stores import open_vault  # boto3: 0.2 s

    return open_vault(config)


@contextmanager
def _changing(layout: Layout) -> Iterator[None]:
    """One verb at a time changes this host: a runbook that was started twice must not meet itself."""
    busy = Refused("another verb is at work on this host", hint="wait for it, or look: ps -C lifeline-host")
    with alone(layout.host_lock, busy, LOCK_WITHIN_S):
        yield


def _observe(layout: Layout, _: argparse.Namespace) -> Answer:
    from lifeline.observe import observe

    return observe(load_config(layout))


def _apply(layout: Layout, _: argparse.Namespace) -> Answer:
    with _changing(layout):
        return {"changed": apply(layout, _supervisor(layout), Systemd())}


def _configure(layout: Layout, arguments: argparse.Namespace) -> Answer:
    shipped = read_shipped(sys.stdin.buffer.read())
    if arguments.check:
        return {"changed": differing(layout, shipped)}
    with _changing(layout):
        return {"changed": configure(layout, _supervisor(layout), Systemd(), shipped)}


def _warm(layout: Layout, _: argparse.Namespace) -> Answer:
    import compileall

    from lifeline import agent, agent_http, backups, host_run, host_stores, observe, restores

    modules = (agent, agent_http, backups, host_run, host_stores, observe, restores)
    release = Path(sys.prefix).parent
    compiled = compileall.compile_dir(release / "service", quiet=2)
    return {"changed": bool(compiled), "modules": [module.__name__ for module in modules]}


def _stop_service(layout: Layout, arguments: argparse.Namespace) -> Answer:
    with _changing(layout):
        return roles.stop_service(load_config(layout), _supervisor(layout), flush=not arguments.no_flush)


def _finalize(layout: Layout, arguments: argparse.Namespace) -> Answer:
    config, supervisor = load_config(layout), _supervisor(layout)
    followers = list(follower_programs(config.service))

    def running() -> bool:
        states = supervisor.states()
        return all(name in states and states[name].running for name in followers)

    with _changing(layout):
        states = supervisor.states()
        busy = [name for name in (config.service.name, "litestream") if name in states and states[name].running]
        if busy:
            raise Refused(
                f"{', '.join(busy)} running on {config.name}: its databases are in use",
                hint="lifeline-host stop-service",
            )
        return data.finalize(
            config,
            _vault(config),
            arguments.epoch,
            stop_followers=lambda: roles.stop_followers(config, supervisor),
            running=running,
        )


def _verify(layout: Layout, arguments: argparse.Namespace) -> Answer:
    config = load_config(layout)
    begun = time.monotonic()
    paths = {database.name: layout.live(database) for database in config.service.databases}
    with during("verifying"):
        if arguments.full:
            finding = verify.verify_service(config.service, "full", paths=paths)
        else:
            found = {one.name: checked.quick(config, one, paths[one.name]) for one in config.service.databases}
            finding = verify.worst(found)
    checks = [
        {"name": name, "verdict": found["verdict"], "detail": found["says"], "seconds": found.get("seconds")}
        for name, found in finding.evidence.items()
    ]
    answer = {"verdict": str(finding.verdict), "seconds": round(time.monotonic() - begun, 3), "checks": checks}
    if finding.verdict is Verdict.PASS:
        return answer
    kind = DataBad if finding.verdict is Verdict.FAIL else Unproven
    # Not the end of the same replica again: it has what was written, good or bad.
    hint = "fab restore --before-corruption --dry-run" if kind is DataBad else "fab status"
    error = kind(f"{config.name}: {finding.says}", hint=hint)
    raise _with_answer(error, answer)


def _with_answer(error: LifelineError, answer: Answer) -> LifelineError:
    """An error whose JSON carries the answer's fields as well."""
    error.__dict__["answer"] = answer
    return error


def _start_primary(layout: Layout, arguments: argparse.Namespace) -> Answer:
    config = load_config(layout)
    with _changing(layout):
        return roles.start_primary(config, _supervisor(layout), _vault(config), arguments.epoch)


def _start_standby(layout: Layout, arguments: argparse.Namespace) -> Answer:
    config = load_config(layout)
    with _changing(layout):
        return roles.start_standby(config, _supervisor(layout), arguments.epoch)


def _leave(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline.host_stores import open_leases

    config = load_config(layout)
    with _changing(layout):
        return roles.leave(config, _supervisor(layout), open_leases(config), arguments.epoch)


def _release(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline.host_stores import open_leases

    config = load_config(layout)
    with _changing(layout):
        return roles.release(config, _supervisor(layout), open_leases(config), arguments.epoch)


def _withdraw(layout: Layout, arguments: argparse.Namespace) -> Answer:
    return roles.withdraw(load_config(layout), arguments.epoch)


def _forks(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import forks
    from lifeline.host_stores import open_vault_store

    config = load_config(layout)
    if arguments.settle:
        return {"settled": forks.settle(config, arguments.settle)}
    return {"forks": forks.compare_all(config, open_vault_store(config))}


def _backup(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import backups

    config = load_config(layout)
    return backups.backup(config, _vault(config), "full" if arguments.full else "incremental")


def _prove(layout: Layout, arguments: argparse.Namespace) -> Answer:
    """Exit 0 whatever the verdict: to have found damage is to have done the work. The verdict is in the answer."""
    from lifeline import backups, host_stores, proving

    config = load_config(layout)
    # Its own may be a dead one, if it was off since a failover; the keeper asks only on a standby, which follows.
    epoch = arguments.epoch or max(read_role(layout).epoch, 1)
    away = host_stores.open_offsite_store(config) if config.offsite_destination else None
    proof = proving.Proof(host_stores.open_vault_store(config), backups.repositories(config), epoch, away)
    kind = ("weekly" if arguments.weekly else "daily") if arguments.scheduled else "by hand"
    return proving.prove(config, _vault(config), proof, weekly=arguments.weekly, kind=kind)


def _offsite(layout: Layout, _: argparse.Namespace) -> Answer:
    from lifeline import backups, host_stores, offsite

    config, role = load_config(layout), read_role(layout)
    if role.role != "primary":
        return {"skipped": f"{config.name} is {role.role}, not primary"}
    with backups.one_at_a_time(config, "mirror", wait_s=60):  # every minute there is one, and it takes seconds
        stores = host_stores.open_vault_store(config), host_stores.open_offsite_store(config)
        return offsite.mirror(config, *stores, role.epoch)


def _prune(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import prune
    from lifeline.host_stores import open_vault_store

    config, role = load_config(layout), read_role(layout)
    if role.role == "none":
        return {"skipped": f"{config.name} has no role"}
    vault, dry_run = open_vault_store(config), arguments.dry_run
    if role.role == "standby":
        answer = prune.prune_local(config, vault, dry_run=dry_run)
    else:
        answer = prune.prune(config, vault, role.epoch, dry_run=dry_run)
    if answer["errors"]:
        error = StepFailed(f"not everything could be looked at: {answer['errors'][0]}", hint="fab status; fab prune")
        raise _with_answer(error, answer)
    return answer


def _logs(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import host_stores, logs

    config = load_config(layout)
    stores = {
        "vault": cache(lambda: host_stores.open_vault_store(config)),
        "offsite": cache(lambda: host_stores.open_offsite_store(config)),
    }
    answer = logs.keep(config, stores, datetime.now(UTC), dry_run=arguments.dry_run)
    if answer["errors"]:
        says = "; ".join(answer["errors"][:3])
        raise _with_answer(StepFailed(f"not all logs were kept: {says}", hint="lifeline-host logs, again"), answer)
    return answer


def _evidence(layout: Layout, _: argparse.Namespace) -> Answer:
    from lifeline import evidence, host_stores
    from lifeline.layout import read_json, write_file

    config, role = load_config(layout), read_role(layout)
    if role.role != "primary":
        return {"skipped": f"{config.name} is {role.role}, not primary"}
    offsite, path = host_stores.open_offsite_store(config), layout.state / "evidence-known.json"
    known = evidence.recalled(read_json(path), offsite.where)
    vault, service = host_stores.open_vault_store(config), config.service.name
    known, keys = evidence.seal(vault, offsite, service, config.name, lambda: datetime.now(UTC), known)
    write_file(path, json.dumps(evidence.noted(known, offsite.where)))
    return {"sealed": keys, "entry": known.head.number if known.head else None}


def _catalogue(layout: Layout, _: argparse.Namespace) -> Answer:
    from lifeline import catalogue, held
    from lifeline.host_stores import open_vault_store

    config = load_config(layout)
    store = open_vault_store(config)
    keys = [info.key for info in store.list(catalogue.root(config.service.name))]
    verified, damaged = _verifications(store, catalogue.verified_keys(keys))
    newest = next(iter(catalogue.entry_keys(keys)), None)
    mirrored = _readable(store, catalogue.offsite_key(config.service.name))
    answer = catalogue.summary(keys, verified, _readable(store, newest) if newest else None, mirrored)
    now, prefix = datetime.now(UTC), catalogue.anew(config.service.name)
    anew = [found for key in keys if key.startswith(prefix) and (found := _readable(store, key))]
    more = {"damaged": damaged, "anew": catalogue.told_still(anew, now), "drills": held.overdue(store, now)}
    return {**answer, **more}


VERIFICATIONS = 14  # so many of the newest say when each kind was last made


def _verifications(store: Store, newest_first: Sequence[str]) -> tuple[list[Answer], list[str]]:
    """(the newest ones, keys of damaged ones among them). Without the catalogue no keeper does anything: one that can't
    be read must not end that."""
    from lifeline import catalogue

    whole: list[Answer] = []
    damaged: list[str] = []
    for key in newest_first:
        try:
            whole.append(catalogue.parse_verification(key, store.get(key).body))
        except DataBad:
            damaged.append(key)
        if len(whole) == VERIFICATIONS:
            break
    return whole, damaged


def _readable(store: Store, key: str) -> Answer | None:
    """A document of the catalogue; None when there is none, or a damaged one: the backups must go on."""
    from lifeline import catalogue

    try:
        found = find(store, key)
        return catalogue.parse(key, found.body) if found else None
    except DataBad:
        return None


def _sentinel(layout: Layout, _: argparse.Namespace) -> Answer:
    from lifeline import sentinel

    return {"databases": sentinel.write(load_config(layout))}


def _restore(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import restores

    config = load_config(layout)
    doors = _doors(config)
    want = restores.wanted(arguments.epoch, arguments.at, arguments.txid, arguments.source, arguments.only)
    waived = restores.Waived(arguments.older, arguments.low_memory)
    if arguments.plan:
        return restores.outline(config, doors, want)
    if arguments.to:
        return restores.inspect(config, doors, want, Path(arguments.to), waived)
    supervisor = _supervisor(layout)
    if arguments.stage:
        return restores.restore(config, supervisor, doors, want, stage_only=True, waived=waived)
    with _changing(layout):
        return restores.restore(config, supervisor, doors, want, waived=waived)


def _search_clean(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import clean_point
    from lifeline.host_stores import open_vault_store

    config = load_config(layout)
    return clean_point.search(config, open_vault_store(config), arguments.epoch, arguments.check)


def _extract(layout: Layout, arguments: argparse.Namespace) -> Answer:
    """The file belongs to whoever asked through sudo, and to nobody else."""
    from lifeline import restores

    config = load_config(layout)
    want = restores.wanted(arguments.epoch, arguments.at, arguments.txid, arguments.source)
    owner = int(os.environ.get("SUDO_UID", os.geteuid()))
    return restores.extract_rows(config, _doors(config), want, arguments.table, arguments.format, owner)


def _salvage(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import salvage

    expected: dict[str, dict[str, int]] = {}
    for text in arguments.expect:
        name, equals, count = text.rpartition("=")
        database, dot, table = name.partition(".")
        if not (equals and dot and count.isdigit()):
            raise BadInput(f'"{text}" is not DATABASE.TABLE=ROWS')
        expected.setdefault(database, {})[table] = int(count)
    return salvage.salvage(load_config(layout), Path(arguments.to), expected)


def _doors(config: Config) -> Any:
    from lifeline import host_stores, restores

    return restores.Doors(
        lambda: host_stores.open_vault_store(config),
        lambda: host_stores.open_offsite_store(config),
        lambda: host_stores.open_vault_store(config, patient=False),
    )


def _hook(layout: Layout, arguments: argparse.Namespace) -> Answer:
    return hooks.run(load_config(layout), arguments.name)


def _compare(layout: Layout, arguments: argparse.Namespace) -> Answer:
    return hooks.compare(load_config(layout))


def _run(layout: Layout, arguments: argparse.Namespace) -> Answer:
    from lifeline import host_run

    config = load_config(layout)
    if arguments.what == "service":
        host_run.run_service(config)
    if arguments.what == "litestream":
        host_run.run_litestream(config)
    if not arguments.name:
        raise BadInput(f"run {arguments.what} needs a name")
    if arguments.what == "follower":
        host_run.run_follower(config, arguments.name)
    host_run.run_hook(config, arguments.name)


if __name__ == "__main__":
    sys.exit(main())
