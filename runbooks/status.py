"""Status: what is so now, of everything that answers.  Reads only; what doesn't answer hides nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

from lifeline import incidents
from lifeline.errors import LifelineError
from lifeline.lookout import mode_now
from lifeline.model import Host, Lease, Observation
from lifeline.moments import stamp
from runbooks.backups import age, size
from runbooks.catalogue import mirror, newest_backup, newest_verification
from runbooks.site import Site

T = TypeVar("T")


def status(site: Site, *, as_json: bool = False) -> dict[str, Any]:
    """Print (and return) the state of the site: lease, traffic, hosts, newest verified backup."""
    found = gather(site)
    site.say(json.dumps(found, indent=1) if as_json else render(found))
    if not as_json and any(site.root.glob(".lifeline/*/copy.json")):
        from runbooks.isolated import AGAIN, noted  # an incident's status needn't wait for what it rarely needs

        for copy in noted(site.root):
            site.say(f"An isolated copy of {copy.of} is there since {copy.since}. Is no drill on, it costs: {AGAIN}")
    return found


def watch(site: Site, every_s: float = 2.0) -> None:
    """The same, anew every two seconds until Ctrl-C: for the hour after a failover."""
    clear = "\x1b[H\x1b[2J" if site.out.isatty() else ""
    while True:
        found = gather(site)
        foot = f"{site.clock.utc():%Y-%m-%d %H:%M:%S} UTC, every {every_s:g} s; Ctrl-C ends it"
        site.say(f"{clear}{render(found)}\n{foot}")
        site.clock.sleep(every_s)


def gather(site: Site) -> dict[str, Any]:
    """Ask everything at once.  Each part is its value, or {"error": why it isn't known}."""
    inventory = site.inventory
    with ThreadPoolExecutor(max_workers=8) as pool:
        lease = pool.submit(_try, site.leases.read)
        traffic = pool.submit(_try, lambda: site.cloud.record(inventory.record))
        resolved = pool.submit(site.outside.resolve, inventory.record.fqdn)
        reports = pool.submit(_try, lambda: _reports(site))
        second = pool.submit(_second, site) if inventory.dns.route53 else None
        dated = [
            pool.submit(_try, lambda read=read: _dated(site, read(site)))
            for read in (newest_backup, newest_verification, mirror)
        ]
        powers = {
            host.name: pool.submit(_try, lambda host=host: site.cloud.power_state(host.droplet_id))
            for host in inventory.hosts
        }
        names = [host.name for host in inventory.hosts]
        seen = site.hosts.each(names, lambda remote: _observe(site, remote.host.name))
        return {
            "stack": inventory.stack,
            "service": inventory.service,
            "inventory": site.loaded.origin,
            "lease": _plain(lease.result()),
            "mode": _mode_of(site, lease.result()),
            "traffic": {
                "name": inventory.record.fqdn,
                "record": _plain(traffic.result()),
                "resolves_to": resolved.result(),
                "second": second.result() if second else None,
            },
            "hosts": [_host(host, powers[host.name].result(), seen[host.name]) for host in inventory.hosts],
            **dict(zip(("backup", "verification", "offsite"), (one.result() for one in dated), strict=True)),
            "reports_due": reports.result(),
        }


def render(found: dict[str, Any]) -> str:
    """For people."""
    lease, backup = found["lease"], found["backup"]
    lines = [f"{found['service']} ({found['stack']}), inventory from {found['inventory']}"]
    if lease is None:
        lines.append("lease    nobody ever held it")
    elif "error" in lease:
        lines.append(f"lease    not known: {lease['error']}")
    else:
        free = " (released: nobody is primary)" if lease["ttl_s"] == 0 else ""
        lines.append(f"lease    {lease['holder']}, epoch {lease['epoch']}, taken by {lease['taken_by']}{free}")
    record = found["traffic"]["record"]
    where = f"not known: {record['error']}" if "error" in record else f"{record['address']}, TTL {record['ttl']} s"
    resolved = ", ".join(found["traffic"]["resolves_to"]) or "nothing"
    lines.append(f"traffic  {found['traffic']['name']} -> {where}; resolves to {resolved}")
    lines.extend(_second_line(found))
    lines.append(_mode(found))
    lines.append(_protection(found))
    for host in found["hosts"]:
        lines.append(_line(host))
        lines.extend(_would(host))
    if backup is None:
        lines.append("backup   none: fab backup")
    elif "error" in backup:
        lines.append(f"backup   not known: {backup['error']}")
    else:
        lines.append(f"backup   {backup['at']}{_ago(backup)}, {backup['kind']}, verified, {backup['key']}")
    lines.append(_verification(found.get("verification")))
    lines.append(_mirror(found.get("offsite")))
    lines.append(_logs(found["hosts"]))
    lines.extend(_due(found["reports_due"]))
    lines[1:1] = _alerts(found["hosts"])
    return "\n".join(lines)


def _alerts(hosts: list[dict[str, Any]]) -> list[str]:
    """First of all: how many, and which."""
    alerts = [(host["name"], alert) for host in hosts for alert in host.get("alerts") or ()]
    said = [f"  {name}: {one['says']} (since {one['since']})\n    next: {one['next']}" for name, one in alerts]
    head = [f"{len(alerts)} ALERT{'S' if len(alerts) > 1 else ''}"] if alerts else []
    blind = [host["name"] for host in hosts if "error" not in host and not host["watched"]]
    unseen = [
        f"NOBODY LOOKS on {name}: its keeper doesn't run, so no backups, and alerts are old or missing\n"
        f"    next: on {name}: sudo supervisorctl tail lifeline-keeper; fab provision"
        for name in blind
    ]
    return [*_incident(hosts), *head, *said, *unseen]


def _incident(hosts: list[dict[str, Any]]) -> list[str]:
    """The one that is going on, whether somebody has it, and which way to people doesn't work."""
    heralds = {host["name"]: host.get("herald") or {} for host in hosts}
    going = {one["incident"]: one["state"] for one in heralds.values() if one.get("incident")}
    lines = [
        f"INCIDENT {name}, {state}\n    next: {'fab incident ack' if state == 'open' else 'fab incident note, close'}"
        for name, state in sorted(going.items())
    ]
    for host, one in heralds.items():
        for way, queue in (one.get("queues") or {}).items():
            if why := queue.get("problem") or queue.get("refused"):
                lines.append(f"  {host} can't reach {way}: {why}; {queue['waiting']} messages wait")
    return lines


def _mode(found: dict[str, Any]) -> str:
    """Do the hosts act by themselves?  As the lease and the stack say, and until when."""
    mode = found["mode"]
    until = f" until {mode['until']}" if mode["until"] else ""
    by = f", by {mode['by']}" if mode["by"] else ", by the stack's policy"
    means = {
        "automatic": "the standby takes over by itself, when it can prove that the primary is fenced",
        "manual": "the hosts say when they would fail over, and wait for fab failover",
        "paused": "the hosts do nothing by themselves: fab resume",
    }
    return f"mode     {mode['name'].upper()}{until}{by}: {means[mode['name']]}"


def _protection(found: dict[str, Any]) -> str:
    """Who could take over now; else what is missing, and the command for it."""
    lease = found["lease"]
    if not lease or "error" in lease:
        return "standby  not known: nor is who is primary"
    others = [host for host in found["hosts"] if host["name"] != lease["holder"]]
    ready = [host for host in others if host.get("role") == "standby" and host.get("epoch") == lease["epoch"]]
    near = [host["name"] for host in ready if host["lag_s"] is not None and not host["follower_stalled"]]
    if near:
        return f"standby  {', '.join(near)}"
    why = (
        "; ".join(f"{host['name']} ({host['power']}): {_missing(host)}" for host in others) or "there is no other host"
    )
    return f"standby  NONE, NOT PROTECTED: {why}\n         next: fab reprotect --yes"


def _missing(host: dict[str, Any]) -> str:
    if "error" in host:
        return str(host["error"])
    if host["role"] != "standby":
        return f"its role is {host['role']}"
    return (
        "its follower has stalled" if host["follower_stalled"] else f"it follows epoch {host['epoch']}, lag not known"
    )


def _second(site: Site) -> dict[str, Any]:
    name = site.inventory.dns.route53
    assert name is not None
    return {"name": name.fqdn, "resolves_to": site.outside.resolve(name.fqdn)}


def _second_line(found: dict[str, Any]) -> list[str]:
    """The name at Route 53, and whether it leads where it should."""
    second, lease = found["traffic"]["second"], found["lease"]
    if second is None:
        return []
    known = bool(lease) and "error" not in lease
    holder = next((host["address"] for host in found["hosts"] if known and host["name"] == lease["holder"]), None)
    where = second["resolves_to"]
    means = "NOT KNOWN" if not where else "the primary" if where == [holder] else "NOT THE PRIMARY (yet): fab dns"
    return [f"         {second['name']} (Route 53) resolves to {', '.join(where) or 'nothing'}: {means}"]


def _logs(hosts: list[dict[str, Any]]) -> str:
    """When each host's logs last got into the vault."""
    said = []
    for host in hosts:
        job = (host.get("jobs") or {}).get("logs") or {}
        last = f"shipped {job['succeeded']}" if job.get("succeeded") else "NEVER shipped"
        failed = f", FAILS: {job.get('says')}" if job.get("failed") else ""
        said.append(f"{host['name']} not known" if "error" in host else f"{host['name']} {last}{failed}")
    return f"logs     {'; '.join(said)}"


def _would(host: dict[str, Any]) -> list[str]:
    """What its agent would decide now, and why."""
    pilot = host.get("pilot") or {}
    if not pilot:
        return []
    at_work = f"; its pilot: {pilot['pilot']}" if pilot.get("pilot") else ""
    return [f"         decides: {pilot['act']}, {pilot['reason']}{at_work}"]


def _reports(site: Site) -> dict[str, str]:
    service = site.inventory.service
    keys = (key for key, _ in site.vault.keys(incidents.folder(service)))
    return {name: stamp(at) for name, at in incidents.reports_due(keys, service, site.clock.utc()).items()}


def _due(found: dict[str, str]) -> list[str]:
    """The procedures want a report within 24 hours; the meeting about it needs one."""
    if "error" in found:
        return [f"reports  not known which are due: {found['error']}"]
    return [
        f"report   DUE of incident {name}, which ended {at}\n"
        f"         next: fab incident report --id {name}; fill it in, the same with --publish, and hold the post-mortem"
        for name, at in found.items()
    ]


def _mirror(found: dict[str, Any] | None) -> str:
    if found is None:
        return "offsite  NEVER: nothing is in the off-site vault"
    if "error" in found:
        return f"offsite  not known: {found['error']}"
    replica = found.get("replica")
    held = f"offsite  {found['at']}{_ago(found)}" + ("" if replica else ", NO REPLICA IS WHOLE THERE")
    if not (checked := found.get("checked")):
        return held
    wrong = [f"{len(checked['holes'])} HOLES"] if checked.get("holes") else []
    wrong += [f"{checked['missed']} objects had gone, copied again"] if checked.get("missed") else []
    beyond = checked.get("beyond") or {}
    if any(beyond.get(kind) for kind in ("snapshots", "epochs", "files")):
        wrong.append(f"beyond its policy for {beyond['overdue_days']:.0f} d: fab prune --offsite")
    return "; ".join([held, f"{checked['objects']} objects, {size(checked['bytes'])}", *wrong])


def _ago(found: dict[str, Any]) -> str:
    seconds = found.get("age_s")
    return "" if seconds is None else f" ({age(timedelta(seconds=seconds))} ago)"


def _mode_of(site: Site, lease: Lease | dict[str, str] | None) -> dict[str, Any]:
    known = lease if isinstance(lease, Lease) else None
    name = mode_now(known, site.inventory.policy, site.clock.utc())
    word = known.mode if known and known.mode and known.mode.name == name else None
    return {"name": name, "until": word.until if word else None, "by": word.by if word else None}


def _dated(site: Site, document: dict[str, Any] | None) -> dict[str, Any] | None:
    """With its age in seconds, by this machine's clock; null where its date can't be read."""
    if document is None:
        return None
    try:
        passed = (site.clock.utc() - datetime.fromisoformat(str(document.get("at")))).total_seconds()
    except (ValueError, TypeError):
        return {**document, "age_s": None}
    return {**document, "age_s": round(max(0.0, passed), 1)}


def _verification(found: dict[str, Any] | None) -> str:
    if found is None:
        return "restored NEVER: no backup was restored to prove it. fab verify"
    if "error" in found:
        return f"restored not known: {found['error']}"
    rpo = found.get("rpo_measured_s")
    measured = "not known" if rpo is None else f"{rpo:.1f} s"
    return f"restored {found['at']}{_ago(found)}, {found['verdict']}, on {found['host']}; measured RPO {measured}"


def _line(host: dict[str, Any]) -> str:
    head = f"host     {host['name']} ({host['home_role']} at home, {host['address']}, {host['power']}): "
    if "error" in host:
        return f"{head}{host['error']}"
    lag = "lag not known" if host["lag_s"] is None else f"lag {host['lag_s']:.1f} s"
    age = "" if host["lease_age_s"] is None else f", lease seen {host['lease_age_s']:.0f} s ago"
    health = "healthy" if host["service_healthy"] else "service running" if host["service_running"] else "no service"
    health = health if host.get("reconciled", True) else "not reconciled"
    stalled = ", FOLLOWER STALLED" if host["follower_stalled"] else ""
    behind = _transactions_behind(host)
    return f"{head}{host['role']}, epoch {host['epoch']}, {health}, {lag}{behind}{age}{stalled}"


def _transactions_behind(host: dict[str, Any]) -> str:
    """How many transactions a copy lacks, summed over its databases; "" where that isn't known."""
    pairs = [(copy.get("newest_txid"), copy.get("txid")) for copy in host["databases"]]
    if host["role"] != "standby" or any(one is None for pair in pairs for one in pair):
        return ""
    return f" ({sum(max(0, newest - has) for newest, has in pairs)} transactions)"


def _host(host: Host, power: Any, seen: Observation | LifelineError) -> dict[str, Any]:
    known = {
        "name": host.name,
        "home_role": host.home_role,
        "region": host.region,
        "address": host.address,
        "power": power if isinstance(power, str) else "power not known",
    }
    if isinstance(seen, LifelineError):
        return {**known, "error": seen.message}
    fields = {key: value for key, value in asdict(seen).items() if key != "host"}
    plain = {"databases": list(fields["databases"]), "alerts": list(fields["alerts"])}
    return {**known, **fields, **plain, "lag_s": seen.lag_s, "watched": seen.watched}


def _observe(site: Site, name: str) -> Observation:
    return site.observe(name)


def _try(ask: Callable[[], T]) -> T | dict[str, str]:
    try:
        return ask()
    except LifelineError as error:
        return {"error": error.message}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, dict) else asdict(value)
