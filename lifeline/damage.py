"""Is a primary's database damaged, and what of it may be acted on? Pure: looks in, words out.

What stands in a log, or in the service's figures, points at damage and proves nothing: anybody may write it there. It
is a reason to check at once. A check is quick_check and the service's invariants on the live files, at low priority,
and so seldom that it costs a small share of a core whatever the size. Damage that was found may be in the vault as well
(Litestream copies what SQLite writes), so nothing is handed over before the other host restored the vault's copy
beside and found that one clean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

# SQLite's words for it, and Litestream's, as they stand in logs.
SIGNS = (
    *("database disk image is malformed", "file is not a database", "disk i/o error"),
    *("sqlite_corrupt", "sqlite_notadb", "sqlite_ioerr", "checksum mismatch", "database corruption"),
)
SHARE, SOON_SHARE = 1 / 250, 1 / 20  # of a core: by the clock; while something points at damage
SOON_S = 30.0


class Proof(StrEnum):
    """What the other host found of the vault's copy. NONE: not known."""

    NONE = "none"
    CLEAN = "clean"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Damage:
    """What was found. ``id`` tells one finding from another, without a clock: a proof names it."""

    id: str
    says: str


@dataclass(frozen=True)
class Checks:
    """What is known of the databases since ``since``, when this host began to serve. ``sign``: what points at damage
    and wasn't looked into yet."""

    since: float
    ended: float | None = None
    took_s: float = 0.0
    verdict: str = ""
    says: str = ""
    sign: str = ""
    found: Damage | None = None

    def due(self, now: float, every_s: float) -> bool:
        """Is it time for a check? ``every_s`` 0: only when something points at damage."""
        rested = now - (self.since if self.ended is None else self.ended)
        if self.sign or self.found:
            return self.ended is None or rested >= max(SOON_S, self.took_s / SOON_SHARE)
        return every_s > 0 and rested >= max(every_s, self.took_s / SHARE)

    def pointed(self, sign: str) -> Checks:
        """Something points at damage."""
        return replace(self, sign=self.sign or sign)

    def begun(self) -> Checks:
        """A check begins: what comes up from here on asks for another one."""
        return replace(self, sign="")

    def after(self, now: float, took_s: float, verdict: str, says: str, new_id: str) -> Checks:
        """A check has ended. A disk that can't be read is no clean database; any other UNKNOWN changes nothing."""
        bad = verdict == "FAIL" or (verdict == "UNKNOWN" and "I/O error" in says)
        found = Damage(self.found.id if self.found else new_id, says) if bad else self.found
        return replace(
            self,
            ended=now,
            took_s=took_s,
            verdict=verdict,
            says=says,
            found=None if verdict == "PASS" else found,
        )


def sign_in(text: bytes) -> str:
    """What in a piece of log points at damage; "" for nothing. Only the known words: a log may hold secrets."""
    lower = text.lower()
    return next((sign for sign in SIGNS if sign.encode() in lower), "")


def proof_for(found: Damage | None, opinion: object) -> Proof:
    """The other host's finding, if it is about this one."""
    if found is None or not isinstance(opinion, dict) or opinion.get("id") != found.id:
        return Proof.NONE
    verdict = opinion.get("verdict")
    return Proof.CLEAN if verdict == "PASS" else Proof.DAMAGED if verdict == "FAIL" else Proof.NONE
