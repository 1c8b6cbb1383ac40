"""The catalogue: which backups there are, which were restored since, and where they lie. Keys and documents, pure.

An entry is written once, after every copy in it was verified, and never changed. What happens to it later are documents
of their own: verifications, and the state of the off-site mirror.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeline.errors import DataBad

_STAMP = "%Y%m%dT%H%M%SZ"
_ENTRY = re.compile(r"^catalogue/[^/]+/(?P<at>\d{8}T\d{6}Z)-(?P<kind>full|incremental)\.json$")
_VERIFIED = re.compile(r"^catalogue/[^/]+/verified/(?P<at>\d{8}T\d{6}Z)\.json$")


def root(service: str) -> str:
    """The prefix of everything here."""
    return f"catalogue/{service}/"


def entries(service: str) -> str:
    """The prefix of the entries alone: they begin with their year."""
    return f"{root(service)}2"


def verified(service: str) -> str:
    """The prefix of the verifications."""
    return f"{root(service)}verified/"


def entry_key(service: str, kind: str, at: datetime) -> str:
    """`catalogue/genesis/20260102T030405Z-full.json`."""
    return f"{root(service)}{at.astimezone(UTC):{_STAMP}}-{kind}.json"


def verified_key(service: str, at: datetime) -> str:
    """`catalogue/genesis/verified/20260102T030405Z.json`."""
    return f"{root(service)}verified/{at.astimezone(UTC):{_STAMP}}.json"


def offsite_key(service: str) -> str:
    """What the off-site mirror holds."""
    return f"{root(service)}offsite.json"


def holding_key(service: str, place: str, host: str) -> str:
    """What one of restic's repositories was seen to hold: `holds/vault.json`; each host has one of its own, too, as
    `holds/local-primary-newyork.json`."""
    return f"{root(service)}holds/{_repository(place, host)}.json"


def holding_keys(service: str, keys: Iterable[str]) -> list[str]:
    """Those among keys."""
    return [key for key in keys if key.startswith(f"{root(service)}holds/")]


def anew(service: str) -> str:
    """The prefix of what tells of repositories that had vanished."""
    return f"{root(service)}anew/"


def anew_key(service: str, place: str, host: str) -> str:
    """That one of restic's repositories had vanished, and was begun anew."""
    return f"{anew(service)}{_repository(place, host)}.json"


def _repository(place: str, host: str) -> str:
    return f"local-{host}" if place == "local" else place


def entry_keys(keys: Iterable[str]) -> list[str]:
    """The entries among keys, the newest first."""
    return sorted((key for key in keys if _ENTRY.match(key)), key=_when, reverse=True)


def verified_keys(keys: Iterable[str]) -> list[str]:
    """The verifications among keys, the newest first."""
    return sorted((key for key in keys if _VERIFIED.match(key)), reverse=True)


def time_of(key: str) -> datetime:
    """When an entry or verification was made, by its name (UTC)."""
    return datetime.strptime(_when(key), _STAMP).replace(tzinfo=UTC)


def kind_of(key: str) -> str:
    """An entry's kind, by its name."""
    found = _ENTRY.match(key)
    return found["kind"] if found else ""


def _when(key: str) -> str:
    found = _ENTRY.match(key) or _VERIFIED.match(key)
    assert found is not None
    return found["at"]


def parse(key: str, body: bytes) -> dict[str, Any]:
    """A document with its key. Raises DataBad when it is half written or none."""
    try:
        document = json.loads(body)
        if not isinstance(document, dict) or not isinstance(document.get("version"), int):
            raise ValueError("it has no version")
    except ValueError as error:
        hint = f"the backup itself may be whole: restic snapshots shows it; fab backup makes a new one; remove {key}"
        raise DataBad(f"{key} in the vault is no catalogue document: {error}", hint=hint) from None
    return {"key": key, **document}


def parse_verification(key: str, body: bytes) -> dict[str, Any]:
    """`parse`, of a verification: what lacks its time or its verdict counts as none."""
    document = parse(key, body)
    found = [document.get("points") or [], document.get("checks") or []]
    whole = all(isinstance(document.get(name), str) for name in ("at", "verdict"))
    if not whole or not all(isinstance(one, list) and all(map(_has_a_verdict, one)) for one in found):
        raise DataBad(f"{key} in the vault is no verification", hint=f"fab verify makes a new one; remove {key}")
    return document


def _has_a_verdict(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("verdict"), str) and "says" in one


def copies(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry's copies by place; the first version of entries knew the vault's alone."""
    found: Mapping[str, Any] = entry.get("copies") or {"vault": {"snapshot": entry.get("snapshot")}}
    return found


@dataclass(frozen=True)
class Backup:
    """An entry and what is known of it since. `verified_at` None: it was never restored."""

    key: str
    at: datetime
    kind: str
    entry: Mapping[str, Any] | None
    error: str | None
    verified_at: str | None
    verdict: str | None
    where: tuple[str, ...]


def joined(
    entries: Sequence[tuple[str, Mapping[str, Any] | DataBad]],
    verifications: Sequence[Mapping[str, Any]],
    offsite: Mapping[str, Any] | None,
    holdings: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Backup]:
    """Each entry with its newest verification and its places, in the order given. `verifications`: newest first;
    `holdings`: what the repositories were last seen to hold, by key."""
    return [_join(key, found, verifications, offsite or {}, holdings or {}) for key, found in entries]


def _join(
    key: str,
    found: Mapping[str, Any] | DataBad,
    verifications: Sequence[Mapping[str, Any]],
    offsite: Mapping[str, Any],
    holdings: Mapping[str, Mapping[str, Any]],
) -> Backup:
    at, kind = time_of(key), kind_of(key)
    if isinstance(found, DataBad):
        return Backup(key, at, kind, None, found.message, None, None, ())
    verified_at, verdict = verification_of(key, verifications)
    service, host = key.split("/")[1], str(found.get("host"))
    seen = {place: holdings.get(holding_key(service, place, host)) for place in ("vault", "local")}
    where = [place for place in ("vault", "local") if _is_there(found, place, seen[place])]
    if _is_offsite(found, offsite):
        where.append("offsite")
    return Backup(key, at, kind, found, None, verified_at, verdict, tuple(where))


def _is_there(entry: Mapping[str, Any], place: str, seen: Mapping[str, Any] | None) -> bool:
    """What the repository was seen to hold counts; of a newer entry, or where nobody looked, what it says itself."""
    own = (copies(entry).get(place) or {}).get("snapshot")
    if not own or seen is None or str(entry.get("at")) > str(seen.get("listed")):
        return bool(own)
    return any(str(one).startswith(str(own)) for one in seen.get("snapshots") or ())


def _is_offsite(entry: Mapping[str, Any], offsite: Mapping[str, Any]) -> bool:
    """What the off-site vault was seen to hold counts; of a newer entry what it says itself."""
    own = (copies(entry).get("offsite") or {}).get("snapshot")
    if own and str(entry.get("at")) > str(offsite.get("listed") or ""):
        return True
    ids = tuple(str(one) for place in ("offsite", "vault") if (one := (copies(entry).get(place) or {}).get("snapshot")))
    return any(one.startswith(ids) for one in offsite.get("snapshots") or ())


def verification_of(key: str, verifications: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """(when, verdict) of the newest verification that restored this entry's own snapshot from the vault: what else may
    be restored, the replica at its transaction, or its off-site copy, says nothing of that. One that couldn't tell
    counts where none could."""
    unknown: tuple[str | None, str | None] = (None, None)
    for one in verifications:
        for point in one.get("points") or ():
            if (point.get("entry"), point.get("source")) != (key, "snapshot"):
                continue
            if point.get("verdict") in ("PASS", "FAIL"):
                return str(one.get("at")), str(point["verdict"])
            if unknown[0] is None:
                unknown = str(one.get("at")), "UNKNOWN"
    return unknown


TOLD_FOR = timedelta(days=3)


def told_still(anew: Iterable[Mapping[str, Any]], now: datetime) -> dict[str, str]:
    """Of the repositories that were begun anew: when each was, as long as that is to be told. It can't be mended: what
    was in there is gone."""
    found = {str(one.get("repository")): str(one.get("at")) for one in anew}
    since = _rfc3339(now.astimezone(UTC) - TOLD_FOR)
    return {name: at for name, at in found.items() if at >= since}


def worst_of(verification: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a verification found worst: the point or check with its "says"; None: all of it passed, or was skipped."""
    found = [*(verification.get("points") or ()), *(verification.get("checks") or ())]
    bad = [one for one in found if one["verdict"] not in ("PASS", "SKIPPED")]
    return min(bad, key=lambda one: bool(one["verdict"] != "FAIL"), default=None)


def complaint(verification: Mapping[str, Any]) -> str:
    """The same in words; "" where there is nothing to say."""
    worst = worst_of(verification)
    return f"{worst.get('what') or worst.get('name')}: {worst['says']}" if worst else ""


def summary(
    keys: Sequence[str],
    verified: Sequence[Mapping[str, Any]],
    newest: Mapping[str, Any] | None = None,
    offsite: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """When each job last succeeded, the newest verification, what the newest backup lacks, and what is wrong with the
    off-site vault. `verified`: the newest documents, newest first."""
    successes: dict[str, str | None] = {}
    for key in entry_keys(keys):
        successes.setdefault(f"backup-{kind_of(key)}", _rfc3339(time_of(key)))
    for one in verified:
        if one.get("verdict") == "UNKNOWN":
            continue  # nothing was found out: it is to be done again
        # Made is made, whatever it found: the finding is an alert of its own.
        successes.setdefault("verify", str(one["at"]))
        if one.get("checks"):
            successes.setdefault("verify-weekly", str(one["at"]))
    last = {key: verified[0].get(key) for key in ("at", "verdict", "rpo_measured_s")} if verified else None
    if last and (says := complaint(verified[0])):
        last["says"] = says
    failed = {place: copy["error"] for place, copy in copies(newest or {}).items() if (copy or {}).get("error")}
    return {
        **{"successes": successes, "verification": last},
        **{"incomplete": failed, "offsite": (offsite or {}).get("checked")},
    }


def _rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
