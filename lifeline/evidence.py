"""Evidence: journals, drills' reports and incidents, chained by their digests, and copied off-site under Object Lock.

The chain is in the off-site vault: ``evidence/<service>/<number>.json``, each entry naming documents with their digests
and the digest of the entry before it. An entry is written with If-None-Match, so of two writers one is first and the
other comes behind it. Its end is noted elsewhere too (the vault, and the operator's machine): a chain that was cut off
is as whole as one that never was longer, and only who remembers its end can tell.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lifeline.errors import Unavailable
from lifeline.model import Verdict
from lifeline.moments import stamp
from lifeline.store import Conflict, Info, Missing, Store, Version, find

PREFIXES = ("journal/", "drills/", "incidents/")
NOTHING = "0" * 64
BATCH = 200  # documents an entry
RACES = 8
LAG = timedelta(hours=24)  # so long may a document wait for its entry
TOLD = 20


@dataclass(frozen=True)
class Sealed:
    """A document as it was when its entry was written."""

    key: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """A link of the chain."""

    service: str
    number: int
    previous: str
    at: str
    by: str
    documents: tuple[Sealed, ...]

    def body(self) -> bytes:
        """The bytes that are written, and that the next entry's ``previous`` is the digest of."""
        return json.dumps({"version": 1, **asdict(self)}, indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n"

    @classmethod
    def parse(cls, body: bytes) -> Entry:
        """ValueError: not an entry."""
        try:
            raw = json.loads(body)
            if raw["version"] != 1:
                raise ValueError(f"version {raw['version']!r}")
            documents = tuple(Sealed(str(d["key"]), str(d["sha256"]), int(d["bytes"])) for d in raw["documents"])
            texts = (str(raw["previous"]), str(raw["at"]), str(raw["by"]))
            return cls(str(raw["service"]), int(raw["number"]), *texts, documents)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from None


@dataclass(frozen=True)
class Head:
    """The end of the chain, as somebody saw it."""

    number: int
    sha256: str

    @classmethod
    def parse(cls, body: bytes | None) -> Head | None:
        """None for what isn't one: then nobody remembers there."""
        try:
            raw = json.loads(body or b"")
            return cls(int(raw["number"]), str(raw["sha256"]))
        except (ValueError, KeyError, TypeError):
            return None

    def body(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Link:
    """An entry as it is found: the number of its key, and its bytes."""

    number: int
    body: bytes

    @property
    def sha256(self) -> str:
        return digest(self.body)


@dataclass
class Proof:
    """What was looked at, and what is wrong (``bad``) or can't be told (``unknown``)."""

    entries: int = 0
    documents: int = 0
    expired: int = 0
    head: Head | None = None
    newest: str = ""
    bad: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return Verdict.FAIL if self.bad else Verdict.UNKNOWN if self.unknown else Verdict.PASS


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def folder(service: str) -> str:
    return f"evidence/{service}/"


def entry_key(service: str, number: int) -> str:
    return f"{folder(service)}{number:08d}.json"


def head_key(service: str) -> str:
    """In the vault: another company's store, so whoever cuts off one doesn't have the other."""
    return f"{folder(service)}head.json"


# -- deciding (pure)


def judge_chain(service: str, links: Sequence[Link], heads: Mapping[str, Head | None]) -> tuple[Proof, list[Entry]]:
    """Does each entry follow from the one before it, and is the end where those who saw it remember it?

    ``links`` in the order of their keys; ``heads``: by the place that remembers.
    """
    proof, entries = Proof(entries=len(links)), []
    previous, expected = NOTHING, 1
    for link in links:
        if link.number != expected:
            gone = f"entry {expected}" if link.number == expected + 1 else f"entries {expected} to {link.number - 1}"
            proof.bad.append(f"{gone} of the chain dropped")
        try:
            entry = Entry.parse(link.body)
        except ValueError as error:
            proof.bad.append(f"entry {link.number} can't be read ({error}): it was changed")
        else:
            entries.append(entry)
            if (entry.service, entry.number) != (service, link.number):
                proof.bad.append(f"entry {link.number} says it is {entry.number} of {entry.service}: moved")
            if link.number == expected and entry.previous != previous:
                proof.bad.append(f"entry {link.number} doesn't follow from entry {link.number - 1}: one was changed")
        previous, expected = link.sha256, link.number + 1
    proof.head = Head(links[-1].number, links[-1].sha256) if links else None
    proof.newest = entries[-1].at if entries else ""
    _remembered(proof, {link.number: link.sha256 for link in links}, heads)
    return proof, entries


def _remembered(proof: Proof, digests: Mapping[int, str], heads: Mapping[str, Head | None]) -> None:
    known = {place: head for place, head in heads.items() if head is not None}
    end = proof.head.number if proof.head else 0
    for place, head in known.items():
        if head.number > end:
            proof.bad.append(f"the chain ends at entry {end}, but {place} has seen entry {head.number}: cut off")
        elif digests.get(head.number) != head.sha256:
            proof.bad.append(f"entry {head.number} isn't the one that {place} has seen: the chain was written anew")
    if not known:
        proof.unknown.append("nobody remembers where the chain ended: whether its end was cut off can't be told")
    if not digests and not proof.bad:
        proof.unknown.append("there is no evidence yet")


def judge_document(one: Sealed, body: bytes | None, place: str, expired: bool) -> str:
    """What is wrong with a document; empty: nothing. ``body`` None: it isn't there."""
    if body is None:
        return "" if expired else f"{one.key} dropped from {place}"
    if digest(body) == one.sha256:
        return ""
    if len(body) < one.bytes:
        return f"{one.key} in {place} was cut off: {len(body)} bytes of {one.bytes}"
    return f"{one.key} in {place} was changed"


def judge_history(versions: Iterable[Version], chain: str, expired: frozenset[str]) -> list[str]:
    """What the store's own record of versions says: an entry is written once and never deleted; a document may be
    written again only as it was, and be deleted when its time is over (``expired``)."""
    found: list[str] = []
    first: dict[str, str] = {}
    for one in sorted(versions, key=lambda version: version.modified):
        if one.key in expired:
            continue
        if one.marker:
            found.append(f"{one.key} was deleted at {stamp(one.modified)}; its versions are kept while locked")
        elif one.key in first and (one.key.startswith(chain) or one.etag != first[one.key]):
            found.append(f"{one.key} was overwritten at {stamp(one.modified)}; the first version is kept while locked")
        else:
            first.setdefault(one.key, one.etag)
    return found


# -- reading and writing


def read_chain(offsite: Store, service: str, after: int = 0) -> list[Link]:
    """The entries behind that number, in order. Raises Unavailable."""
    behind = entry_key(service, after) if after else ""
    return [Link(number, offsite.get(info.key).body) for number, info in _numbered(offsite, service, behind)]


def _numbered(offsite: Store, service: str, behind: str) -> Iterator[tuple[int, Info]]:
    for info in offsite.list(folder(service), after=behind):
        if found := re.fullmatch(r"(\d{8})\.json", info.key.removeprefix(folder(service))):
            yield int(found[1]), info


@dataclass(frozen=True)
class Known:
    """What whoever seals remembers, so as not to read the whole chain each time: its end, and what has an entry."""

    head: Head | None = None
    keys: frozenset[str] = frozenset()


def noted(known: Known, where: str) -> dict[str, Any]:
    """For a file, as ``recalled`` reads it."""
    return {"where": where, "head": asdict(known.head) if known.head else None, "keys": sorted(known.keys)}


def recalled(note: Mapping[str, Any] | None, where: str) -> Known:
    """What was noted of that vault; nothing known when it is of another one, or can't be read: then all is read."""
    try:
        if note is None or note["where"] != where:
            return Known()
        head = Head(int(note["head"]["number"]), str(note["head"]["sha256"])) if note["head"] else None
        return Known(head, frozenset(map(str, note["keys"])))
    except (KeyError, TypeError, ValueError):
        return Known()


def seal(
    vault: Store, offsite: Store, service: str, by: str, now: Callable[[], datetime], known: Known | None = None
) -> tuple[Known, list[str]]:
    """Copy what has no entry yet off-site, and write its entry. Returns what is known now, and the keys.

    Interrupted anywhere, the next call goes on: a document is off-site before its entry is. Raises Unavailable.
    """
    known = _caught_up(offsite, service, known or Known())
    there = [info.key for prefix in PREFIXES for info in vault.list(prefix)]
    new = [key for key in there if key not in known.keys]
    for start in range(0, len(new), BATCH):
        documents = [one for key in new[start : start + BATCH] if (one := _copied(vault, offsite, key))]
        if documents:
            known = _append(offsite, service, by, now, known, tuple(documents))
            assert known.head is not None
            vault.put(head_key(service), known.head.body(), content_type="application/json")
    # What has expired from the vault needs no remembering.
    return Known(known.head, known.keys & set(there)), [key for key in new if key in known.keys]


def _caught_up(offsite: Store, service: str, known: Known) -> Known:
    head, keys = known.head, set(known.keys)
    for link in read_chain(offsite, service, head.number if head else 0):
        head = Head(link.number, link.sha256)
        try:
            keys |= {one.key for one in Entry.parse(link.body).documents}
        except ValueError:
            continue  # whoever verifies will say so; what comes next must be sealed all the same
    return Known(head, frozenset(keys))


def _copied(vault: Store, offsite: Store, key: str) -> Sealed | None:
    try:
        body = vault.get(key).body
    except Missing:
        return None
    there = find(offsite, key)
    if there is None or there.body != body:
        offsite.put(key, body)
    return Sealed(key, digest(body), len(body))


def _append(
    offsite: Store, service: str, by: str, now: Callable[[], datetime], known: Known, documents: tuple[Sealed, ...]
) -> Known:
    for _ in range(RACES):
        head = known.head or Head(0, NOTHING)
        entry = Entry(service, head.number + 1, head.sha256, stamp(now()), by, documents)
        try:
            offsite.put_if_absent(entry_key(service, entry.number), entry.body())
        except Conflict:
            known = _caught_up(offsite, service, known)  # somebody else was first: behind theirs
            continue
        keys = known.keys | {one.key for one in documents}
        return Known(Head(entry.number, digest(entry.body())), keys)
    raise Unavailable(f"{offsite.where}: others write to the chain faster than this can", hint="the same again")


def verify(
    vault: Store,
    offsite: Store,
    service: str,
    now: datetime,
    *,
    keep_days: int,
    remembered: Mapping[str, Head | None],
) -> Proof:
    """Everything in the chain, read and held to it, off-site and in the vault; and what has no entry.

    ``keep_days``: older documents may have expired. ``remembered``: ends of the chain that others have seen, by place;
    the vault's own is added. Raises Unavailable where the chain itself can't be read.
    """
    links = read_chain(offsite, service)
    heads = dict(remembered)
    lost: list[str] = []
    try:
        found = find(vault, head_key(service))
        heads["the vault"] = Head.parse(found.body if found else None)
    except Unavailable as error:
        lost.append(error.message)
    proof, entries = judge_chain(service, links, heads)
    cutoff = stamp(now - timedelta(days=keep_days))
    places = {"the off-site vault": offsite, **({} if lost else {"the vault": vault})}
    for entry in entries:
        for one in entry.documents:
            proof.documents += 1
            expired = entry.at < cutoff
            bodies = {place: _body(store, one.key, proof) for place, store in places.items()}
            proof.expired += expired and bodies["the off-site vault"] == (None, True)
            for place, (body, read) in bodies.items():
                if read and (wrong := judge_document(one, body, place, expired)):
                    proof.bad.append(wrong)
    proof.unknown += [f"the copies in the vault can't be looked at: {why}" for why in lost]
    if not lost:
        proof.unknown += _unsealed(vault, entries, now)
    old = frozenset(one.key for entry in entries if entry.at < cutoff for one in entry.documents)
    history = (version for prefix in (folder(service), *PREFIXES) for version in offsite.versions(prefix))
    proof.bad += judge_history(history, folder(service), old)
    return proof


def _body(store: Store, key: str, proof: Proof) -> tuple[bytes | None, bool]:
    """(its bytes, or None when it isn't there; whether that could be told)."""
    try:
        found = find(store, key)
        return (found.body if found else None), True
    except Unavailable as error:
        proof.unknown.append(f"{key} can't be read: {error.message}")
        return None, False


def _unsealed(vault: Store, entries: Sequence[Entry], now: datetime) -> list[str]:
    sealed = {one.key for entry in entries for one in entry.documents}
    waiting = [
        info.key
        for prefix in PREFIXES
        for info in vault.list(prefix)
        if info.key not in sealed and now - info.modified > LAG
    ]
    if not waiting:
        return []
    return [f"{len(waiting)} documents have no entry in the chain, the first {waiting[0]}: nothing tells of a change"]


def to_json(proof: Proof) -> dict[str, Any]:
    """For programs."""
    return {**asdict(proof), "verdict": str(proof.verdict)}
