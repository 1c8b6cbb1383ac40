"""Traffic: the record that clients follow. Looked at before it is moved, moved, and followed through caches.

Moving it ends at the provider. What resolvers keep is in other people's hands: it is told, with the seconds for which
they will keep it, and nothing waits for it that brings the service back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lifeline import cloud
from lifeline.cloud import RecordValue, TokenRefused
from lifeline.errors import LifelineError, Unavailable
from lifeline.model import Finding, Host, Record, Verdict
from lifeline.names import Answer, Delegation
from runbooks.site import Site

SERVERS_S = 10.0  # for the provider's own name servers to agree
GRACE_S = 10.0  # caches count in whole seconds, and answer from several places
PAUSE_S = 1.0
MOVE_S = 15.0  # of the step's 20: the rest is for seeing it
SILENT = 3  # questions without an answer


@dataclass
class Traffic:
    """The record, on its way to ``host``."""

    site: Site
    host: Host
    waits: bool = False  # for caches, whoever is there
    whole: bool = False  # the record's TTL must be right too: not in a failover, which must not fail for that
    tried: bool = False
    moved_at: float | None = None

    @property
    def record(self) -> Record:
        return self.site.inventory.record

    def moved(self) -> Finding:
        """What the provider's API says; while it says nothing, what all of the domain's name servers say."""
        try:
            value = self.site.cloud.record(self.record)
        except Unavailable as error:
            return self._by_name_servers(error)
        other = self.whole and value.ttl != self.record.ttl
        says = f"it is {value.address}, TTL {value.ttl} s{f', not {self.record.ttl} s' if other else ''}"
        verdict = Verdict.PASS if value.address == self.host.address and not other else Verdict.FAIL
        return Finding(verdict, says, {"address": value.address, "ttl": value.ttl})

    def to_move(self) -> Finding:
        """The same for a step that can act: not known isn't left at that before it was tried."""
        found = self.moved()
        return replace(found, verdict=Verdict.FAIL) if found.verdict is Verdict.UNKNOWN and not self.tried else found

    def move(self) -> None:
        """An API that is busy for a moment (429, 503) is asked again: what users wait for doesn't end on that."""
        self.tried = True
        clock = self.site.clock
        end = clock.monotonic() + MOVE_S
        while True:
            try:
                self.site.cloud.set_record(self.record, self.host.address)
                break
            except TokenRefused:
                raise
            except Unavailable:
                if clock.monotonic() + PAUSE_S > end:
                    raise
                clock.sleep(PAUSE_S)
        self.moved_at = clock.monotonic()

    def by_hand(self, again: str) -> str:
        """What to do where the provider's API doesn't answer: exactly, for someone who was asleep five minutes ago."""
        record, address = self.record, self.host.address
        lines = [
            f"set it by hand, then: {again}   (it sees the change at the name servers)",
            f"console: https://cloud.digitalocean.com/networking/domains/{record.domain}"
            f' : the A record "{record.name}" to {address}, TTL {record.ttl}',
            f"or:      doctl compute domain records update {record.domain} --record-id {record.id} --record-type A "
            f"--record-name {record.name} --record-data {address} --record-ttl {record.ttl}",
            f"or go on without this proof: {again} --waive traffic",
        ]
        second = self.site.inventory.dns.route53
        if second is not None:
            lines.append(f"meanwhile {second.fqdn} follows by itself (Route 53): give it to whoever can use it")
        return "\n        ".join(lines)

    def _by_name_servers(self, error: Unavailable) -> Finding:
        try:
            answers = self.site.outside.names(self.record.domain).authoritative(self.record.fqdn)
        except Unavailable as unknown:
            return Finding.unknown(f"{error.message}; and {unknown.message}")
        says = _listed(f"{answer.server} {_verb(answer)}" for answer in answers)
        if answers and all(self._leads(answer) for answer in answers):
            return Finding.passed(f"{says}; the cloud's API doesn't answer", address=self.host.address, api="down")
        return Finding.unknown(f"{error.message}; {says}")

    # The world's caches

    def followed(self) -> Finding:
        """Every name server and every resolver leads there; or which don't, and for how long still."""
        began = self.site.clock.monotonic() if self.moved_at is None else self.moved_at
        names = self.site.outside.names(self.record.domain)
        patience = self.record.ttl + GRACE_S if self.site.attended or self.waits else 0.0
        seen = [
            # In this order: a resolver that asked a name server which lags would keep the old address for another TTL.
            *self._watch("name server", lambda: names.authoritative(self.record.fqdn), min(SERVERS_S, patience), began),
            *self._watch("resolver", lambda: names.cached(self.record.fqdn), patience, began),
        ]
        return _spread(seen, self.record.fqdn, self.host.address)

    def second_followed(self) -> Finding:
        """Route 53's name leads there too: its checkers ask /primary, so it follows the lease by itself."""
        second = self.site.inventory.dns.route53
        if second is None:
            return Finding(Verdict.SKIPPED, "the stack has no second name")
        names, began = self.site.outside.names(second.zone), self.site.clock.monotonic()
        seen = self._watch("name server", lambda: names.authoritative(second.fqdn), second.settles_s + GRACE_S, began)
        return _spread(seen, second.fqdn, self.host.address)

    def _watch(self, kind: str, ask: Callable[[], Iterable[Answer]], patience: float, began: float) -> list[_Seen]:
        """Ask until all lead there, or what is left will not within our patience."""
        clock = self.site.clock
        end = clock.monotonic() + patience
        seen: dict[str, _Seen] = {}
        while True:
            try:
                answers = list(ask())
            except Unavailable as error:
                answers = [Answer(f"a {kind}", problem=f"can't be asked: {error.message}")]
            for answer in answers:
                one = seen.setdefault(answer.server, _Seen(kind, answer))
                one.learn(answer, leads=self._leads(answer), after=clock.monotonic() - began)
            left = end - clock.monotonic()
            if left <= 0 or all(one.settled(left) for one in seen.values()):
                return list(seen.values())
            clock.sleep(min(PAUSE_S, left))

    def _leads(self, answer: Answer) -> bool:
        return answer.addresses == (self.host.address,)


@dataclass
class _Seen:
    """One server, as it was heard while it was watched.  ``after_s``: how long after the move it was first seen to
    lead there."""

    kind: str
    answer: Answer
    after_s: float | None = None
    silent: int = 0

    def learn(self, answer: Answer, *, leads: bool, after: float) -> None:
        self.answer = answer
        self.silent = self.silent + 1 if answer.problem else 0
        if leads and self.after_s is None:
            self.after_s = round(after, 1)

    def settled(self, left: float) -> bool:
        """Is there nothing to wait for: it leads there, doesn't answer, or will keep the old address for longer?"""
        keeps = self.kind == "resolver" and self.answer.ttl is not None and self.answer.ttl > left
        return self.after_s is not None or self.silent >= SILENT or keeps

    def says(self) -> str:
        if self.kind == "resolver" and self.answer.addresses:
            return f"{self.answer.server} keeps {self.answer.says} for another {self.answer.ttl} s"
        return f"{self.answer.server} {_verb(self.answer)}"

    def evidence(self) -> dict[str, object]:
        answer = self.answer
        return {
            "kind": self.kind,
            "server": answer.server,
            "addresses": list(answer.addresses),
            "ttl": answer.ttl,
            "problem": answer.problem,
            "after_s": self.after_s,
        }


def _spread(seen: list[_Seen], name: str, address: str) -> Finding:
    evidence = {"servers": [one.evidence() for one in seen]}
    behind = [one for one in seen if one.after_s is None]
    if not seen:
        return Finding.unknown(f"nobody was asked for {name}", **evidence)
    if not behind:
        counts = [f"{count} {kind}s" for kind in ("name server", "resolver") if (count := _count(seen, kind))]
        last = max(one.after_s or 0.0 for one in seen)
        return Finding.passed(f"{' and '.join(counts)} lead to {address}, the last after {last:.0f} s", **evidence)
    words = _listed(one.says() for one in behind)
    return Finding.unknown(f"{words}: clients that ask there don't come to {address} yet", **evidence)


def _count(seen: list[_Seen], kind: str) -> int:
    return sum(one.kind == kind for one in seen)


def as_declared(site: Site) -> Finding:
    """Before anything is moved: would moving the record move the clients, and how soon?  Ends in about a second where
    the provider's API answers; asks no resolver for the record (lifeline/names.py says why)."""
    record = site.inventory.record
    names = site.outside.names(record.domain)
    try:
        delegation = names.delegation()
        answers = names.authoritative(record.fqdn)
    except Unavailable as error:
        return Finding.unknown(f"whether {record.fqdn} leads where the provider says is not known: {error.message}")
    try:
        value: RecordValue | None = site.cloud.record(record)
    except LifelineError:
        value = None
    found = differences(record, delegation, answers, value)
    evidence = {
        "parent": delegation.parent,
        "servers": {answer.server: answer.says for answer in answers},
        "ttls": {answer.server: answer.ttl for answer in answers},
        "api": None if value is None else {"address": value.address, "ttl": value.ttl},
        "differences": found,
    }
    if found:
        return Finding.failed("; ".join(found), **evidence)
    if value is None:
        return Finding.unknown("the name servers agree; what the provider's API says is not known", **evidence)
    says = f"{record.fqdn} is {value.address}, TTL {value.ttl} s, at the provider and at {len(answers)} name servers"
    return Finding.passed(f"{says}, to which {delegation.parent} delegates", **evidence)


def differences(
    record: Record, delegation: Delegation, answers: Iterable[Answer], value: RecordValue | None
) -> list[str]:
    """What isn't as declared, each with what it means for a cut-over.  Pure."""
    found = []
    strange = sorted(set(delegation.servers) - set(cloud.NAME_SERVERS))
    if not delegation.servers:
        found.append(f"{delegation.parent} delegates {record.domain} to nobody: the name can't be found at all")
    elif set(delegation.servers) <= set(strange):
        found.append(
            f"{delegation.parent} delegates {record.domain} to {', '.join(strange)}, none of them the provider's: "
            "moving the record will move nobody"
        )
    elif strange:
        found.append(
            f"{delegation.parent} delegates {record.domain} to {', '.join(strange)} too, which the provider doesn't "
            "run: who asks there will not follow"
        )
    if value is not None and value.ttl != record.ttl:
        found.append(
            f"the record's TTL is {value.ttl} s, the stack says {record.ttl} s: "
            f"resolvers may keep the old address for {value.ttl} s"
        )
    for answer in answers:
        if answer.problem:
            found.append(f"{answer.server} {answer.problem}: who asks there gets no answer, or waits for another")
            continue
        if value is not None and answer.addresses != (value.address,):
            found.append(
                f"{answer.server} answers {answer.says}, the provider's API says {value.address}: who asks there is "
                "led elsewhere, and may not follow"
            )
        most = record.ttl if value is None else value.ttl
        if answer.ttl is not None and answer.ttl > most:
            found.append(f"{answer.server} lets resolvers keep the old address for {answer.ttl} s")
    return found


def _verb(answer: Answer) -> str:
    return answer.problem or f"answers {answer.says}"


def _listed(words: Iterable[str]) -> str:
    return "; ".join(words)
