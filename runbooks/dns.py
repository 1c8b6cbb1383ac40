"""Dns: point the public name at the primary, and prove that the world follows.

For a record that stayed behind: a failover that was waived past it, a hand that slipped in the console, an API that is
back; and for a TTL that isn't the stack's. Only the lease says who is primary: the name is never pointed at anybody
else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lifeline import admission
from lifeline.errors import BadInput, Refused, Unavailable
from lifeline.model import Finding, Host, Lease, Verdict
from lifeline.runbook import Outcome, Runbook, Step, check_waivers
from runbooks.promotion import resolvers_step, traffic_step
from runbooks.site import Site, confirm
from runbooks.traffic import Traffic, as_declared

NAME = "dns"
WAIVE_SERVING = "serving"
WAIVE_RESOLVERS = "resolvers"
WAIVE_ROUTE53 = "route53"
WAIVERS = (WAIVE_SERVING, admission.WAIVE_TRAFFIC, WAIVE_RESOLVERS, WAIVE_ROUTE53)
SPARE_S = 30.0


def dns(
    site: Site,
    target: str | None = None,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Point the record at the lease's holder, which ``target`` must be if it is given.  None for a dry run."""
    waived = check_waivers(waive, WAIVERS)
    with ThreadPoolExecutor(max_workers=1) as pool:
        names = pool.submit(as_declared, site)
        host, lease = primary(site, target)
        traffic = Traffic(site, host, waits=True, whole=True)
        now = traffic.moved()
    site.say(f"DNS: {names.result().says}")
    runbook = Runbook(NAME, _steps(traffic, lease), lambda outcome: _summary(traffic, outcome), site.clock, site.out)
    if dry_run:
        runbook.plan()
        return None
    if now.verdict is not Verdict.PASS:
        confirm(site, f"This points {traffic.record.fqdn} at {host.name} ({host.address}); {now.says}.", yes, ask)
    context = {"target": host.name, "epoch": lease.epoch, "before": now.says, "dns": names.result().evidence}
    return runbook.run(site.journal(NAME), context, waived, publish=site.publish)


def primary(site: Site, target: str | None) -> tuple[Host, Lease]:
    """The host that the name may lead to, by the lease alone; raises the refusal."""
    names = [host.name for host in site.inventory.hosts]
    if target is not None and target not in names:
        raise BadInput(f'there is no host "{target}"; hosts: {", ".join(names)}')
    try:
        lease = site.leases.read()
    except Unavailable as error:
        why = f"the lease can't be read ({error.message}): who is primary isn't known, and the record stays as it is"
        raise Unavailable(why, hint="fab status") from error
    if lease is None or lease.released:
        why = "nobody ever held the lease" if lease is None else f"{lease.holder} released the lease"
        raise Refused(
            f"{why}: there is no primary to point at", hint="fab provision" if lease is None else "fab status"
        )
    if lease.holder not in names:
        raise Refused(
            f"the lease is held by {lease.holder}, which the inventory doesn't know: the inventory is out of date",
            hint="fab inventory",
        )
    if target not in (None, lease.holder):
        raise Refused(
            f"{target} doesn't hold the lease, {lease.holder} does (epoch {lease.epoch}): clients would be led to "
            "a host that doesn't serve them",
            hint=f"fab dns, for {lease.holder}; fab failover --target {target}, to make {target} the primary",
        )
    return site.inventory.host(lease.holder), lease


def _steps(traffic: Traffic, lease: Lease) -> list[Step]:
    site, host = traffic.site, traffic.host
    steps = [
        Step(
            f"{host.name} serves, epoch {lease.epoch}",
            until=lambda: _serves(site, lease),
            within=0,
            waiver=WAIVE_SERVING,
            hint="fab failover, which finishes what began; fab status",
        ),
        traffic_step(traffic, again="fab dns"),
        Step(
            "the service answers through the public name",
            until=lambda: site.outside.answers(site.service(host.name)),
            within=traffic.record.ttl + SPARE_S,
            waiver=WAIVE_SERVING,
            hint="fab status",
            peek=lambda: Finding.failed("looked at once the name leads there"),
            would="ask for its health through the public name",
        ),
        # Here it is what was asked for: what isn't proved is no success.
        replace(
            resolvers_step(traffic), advisory=False, waiver=WAIVE_RESOLVERS, hint="fab dns, when they let go of it"
        ),
    ]
    second = site.inventory.dns.route53
    if second is not None:
        steps.append(
            Step(
                f"{second.fqdn} (Route 53) leads there too",
                until=traffic.second_followed,
                within=0,
                waiver=WAIVE_ROUTE53,
                hint=f"is http://{host.address}:8008/primary open to Route 53's checkers? docs/infrastructure.md",
            )
        )
    return steps


def _serves(site: Site, lease: Lease) -> Finding:
    seen = site.observe(lease.holder)
    says = f"its role is {seen.role}, epoch {seen.epoch}, {'healthy' if seen.service_healthy else 'not healthy'}"
    good = (seen.role, seen.epoch) == ("primary", lease.epoch) and seen.service_healthy
    return Finding.passed(says) if good else Finding.failed(says)


def _summary(traffic: Traffic, outcome: Outcome) -> str:
    lines = [f"{traffic.record.fqdn} leads to {traffic.host.name} ({traffic.host.address})."]
    waived = [result.step.waiver for result in outcome.results if result.waived]
    if waived:
        lines.append(f"Gone on without proof: {', '.join(waived)}.")
    lines.append("  next: fab status")
    return "\n".join(lines)
