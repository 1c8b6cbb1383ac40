"""Status: what is so now, of everything that answers.  Reads only; what doesn't answer hides nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from lifeline.errors import LifelineError
from lifeline.model import Host, Observation
from runbooks.catalogue import newest_backup, newest_verification
from runbooks.site import Site

T = TypeVar("T")


def status(site: Site, *, as_json: bool = False) -> dict[str, Any]:
    """Print (and return) the state of the site: lease, traffic, hosts, newest verified backup."""
    found = gather(site)
    site.say(json.dumps(found, indent=1) if as_json else render(found))
    return found


def gather(site: Site) -> dict[str, Any]:
    """Ask everything at once.  Each part is its value, or {"error": why it isn't known}."""
    inventory = site.inventory
    with ThreadPoolExecutor(max_workers=8) as pool:
        lease = pool.submit(_try, site.leases.read)
        traffic = pool.submit(_try, lambda: site.cloud.record(inventory.record))
        resolved = pool.submit(site.outside.resolve, inventory.record.fqdn)
        backup = pool.submit(_try, lambda: newest_backup(site))
        verification = pool.submit(_try, lambda: newest_verification(site))
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
            "traffic": {
                "name": inventory.record.fqdn,
                "record": _plain(traffic.result()),
                "resolves_to": resolved.result(),
            },
            "hosts": [_host(host, powers[host.name].result(), seen[host.name]) for host in inventory.hosts],
            "backup": backup.result(),
            "verification": verification.result(),
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
    lines.extend(_line(host) for host in found["hosts"])
    if backup is None:
        lines.append("backup   none: fab backup")
    elif "error" in backup:
        lines.append(f"backup   not known: {backup['error']}")
    else:
        lines.append(f"backup   {backup['at']}, {backup['kind']}, verified, {backup['key']}")
    lines.append(_verification(found.get("verification")))
    alerts = [(host["name"], alert) for host in found["hosts"] for alert in host.get("alerts") or ()]
    if alerts:
        said = [f"  {name}: {one['says']} (since {one['since']})\n    next: {one['next']}" for name, one in alerts]
        lines[1:1] = [f"{len(alerts)} ALERT{'S' if len(alerts) > 1 else ''}", *said]
    return "\n".join(lines)


def _verification(found: dict[str, Any] | None) -> str:
    if found is None:
        return "restored NEVER: no backup was restored to prove it. fab verify"
    if "error" in found:
        return f"restored not known: {found['error']}"
    rpo = found.get("rpo_measured_s")
    measured = "not known" if rpo is None else f"{rpo:.1f} s"
    return f"restored {found['at']}, {found['verdict']}, on {found['host']}; measured RPO {measured}"


def _line(host: dict[str, Any]) -> str:
    head = f"host     {host['name']} ({host['home_role']} at home, {host['address']}, {host['power']}): "
    if "error" in host:
        return f"{head}{host['error']}"
    lag = "lag not known" if host["lag_s"] is None else f"lag {host['lag_s']:.1f} s"
    age = "" if host["lease_age_s"] is None else f", lease seen {host['lease_age_s']:.0f} s ago"
    health = "healthy" if host["service_healthy"] else "service running" if host["service_running"] else "no service"
    stalled = ", FOLLOWER STALLED" if host["follower_stalled"] else ""
    return f"{head}{host['role']}, epoch {host['epoch']}, {health}, {lag}{age}{stalled}"


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
    return {**known, **fields, **plain, "lag_s": seen.lag_s}


def _observe(site: Site, name: str) -> Observation:
    return site.observe(name)


def _try(ask: Callable[[], T]) -> T | dict[str, str]:
    try:
        return ask()
    except LifelineError as error:
        return {"error": error.message}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, dict) else asdict(value)
