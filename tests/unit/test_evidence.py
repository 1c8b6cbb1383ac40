"""The chain of evidence: whatever is changed, dropped, reordered or cut off is found; what can't be told is UNKNOWN."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lifeline import evidence
from lifeline.errors import DataBad, Unavailable, Unproven
from lifeline.evidence import Entry, Head, Known, Proof, entry_key, head_key, seal, verify
from lifeline.model import Verdict
from lifeline.store import MemoryStore, Object
from runbooks import evidence as runbook
from tests.unit.world import World

SERVICE = "genesis"
NOW = datetime.now(UTC)  # stores date what they hold by the real clock
KEYS = [f"journal/2026010{day}T000000Z-failover-00000{day}.jsonl" for day in range(1, 6)]


class Stores:
    """A vault with five journals, each sealed by an entry of its own; and the two things that remember the end."""

    def __init__(self, count: int = 5) -> None:
        self.vault, self.offsite = MemoryStore("vault"), MemoryStore("offsite")
        self.now, self.known = NOW, Known()
        for key in KEYS[:count]:
            self.vault.put(key, f"the journal {key}\n".encode() * 3)
            self.seal()
        self.remembered: Head | None = self.known.head

    def seal(self) -> list[str]:
        self.known, keys = seal(self.vault, self.offsite, SERVICE, "test", lambda: self.now, self.known)
        return keys

    def proof(self, keep_days: int = 365) -> Proof:
        heads = {"this machine": self.remembered}
        return verify(self.vault, self.offsite, SERVICE, self.now, keep_days=keep_days, remembered=heads)

    def rewrite(self, number: int, change: Callable[[dict[str, object]], None]) -> None:
        """An entry, by somebody who may write there."""
        raw = json.loads(self.offsite.get(entry_key(SERVICE, number)).body)
        change(raw)
        self.offsite.put(entry_key(SERVICE, number), json.dumps(raw).encode())


def without_history(stores: Stores) -> None:
    """The store forgets its versions, as after their locks: what is left must tell all the same."""
    stores.offsite._versions.clear()


@pytest.fixture
def stores() -> Stores:
    return Stores()


def test_what_is_whole_is_proved(stores: Stores) -> None:
    proof = stores.proof()
    assert (proof.verdict, proof.entries, proof.documents, proof.bad) == (Verdict.PASS, 5, 5, [])
    assert all(stores.offsite.get(key).body == stores.vault.get(key).body for key in KEYS)


def test_nothing_is_sealed_twice_and_one_entry_holds_many(stores: Stores) -> None:
    assert stores.seal() == []
    for number in range(evidence.BATCH + 1):
        stores.vault.put(f"drills/20260101T000000Z-x{number}/report.json", b"{}")
    assert len(stores.seal()) == evidence.BATCH + 1
    assert (stores.proof().verdict, stores.proof().entries) == (Verdict.PASS, 7)


TAMPERED: dict[str, tuple[Callable[[Stores], object], str]] = {
    "a journal changed off-site": (
        lambda s: s.offsite.put(KEYS[1], s.vault.get(KEYS[1]).body.replace(b"t", b"T")),
        "changed",
    ),
    "a journal changed in the vault": (lambda s: s.vault.put(KEYS[1], b"x" * 400), "the vault was changed"),
    "a journal dropped off-site": (lambda s: s.offsite.delete(KEYS[2]), "dropped"),
    "a journal dropped from the vault": (lambda s: s.vault.delete(KEYS[2]), "dropped from the vault"),
    "a journal cut off": (lambda s: s.offsite.put(KEYS[2], s.vault.get(KEYS[2]).body[:-5]), "cut off"),
    "a journal emptied": (lambda s: s.offsite.put(KEYS[2], b""), "cut off"),
    "two journals exchanged": (
        lambda s: (
            s.offsite.put(KEYS[0], s.vault.get(KEYS[1]).body),
            s.offsite.put(KEYS[1], s.vault.get(KEYS[0]).body),
        ),
        "changed",
    ),
    "an entry dropped": (lambda s: s.offsite.delete(entry_key(SERVICE, 3)), "entry 3 of the chain dropped"),
    "the first entry dropped": (lambda s: s.offsite.delete(entry_key(SERVICE, 1)), "entry 1 of the chain dropped"),
    "the last entry dropped": (lambda s: s.offsite.delete(entry_key(SERVICE, 5)), "cut off"),
    "all entries dropped": (lambda s: s.offsite.delete_all([entry_key(SERVICE, n) for n in range(1, 6)]), "cut off"),
    "an entry changed": (lambda s: s.rewrite(2, lambda raw: raw.update(by="nobody")), "doesn't follow"),
    "an entry torn": (lambda s: s.offsite.put(entry_key(SERVICE, 4), b'{"version": 1'), "can't be read"),
    "a document taken out of an entry": (
        lambda s: s.rewrite(3, lambda raw: raw.update(documents=[])),
        "doesn't follow",
    ),
    "two entries exchanged": (
        lambda s: (
            a := s.offsite.get(entry_key(SERVICE, 2)).body,
            s.offsite.put(entry_key(SERVICE, 2), s.offsite.get(entry_key(SERVICE, 3)).body),
            s.offsite.put(entry_key(SERVICE, 3), a),
        ),
        "moved",
    ),
    "an entry of another service": (lambda s: s.rewrite(5, lambda raw: raw.update(service="other")), "moved"),
    "the last entry changed": (lambda s: s.rewrite(5, lambda raw: raw.update(by="nobody")), "written anew"),
}


@pytest.mark.parametrize("history", [True, False], ids=["with versions", "without versions"])
@pytest.mark.parametrize("name", TAMPERED)
def test_whatever_was_done_to_it_is_found(stores: Stores, name: str, history: bool) -> None:
    tamper, says = TAMPERED[name]
    tamper(stores)
    if not history:
        without_history(stores)
    proof = stores.proof()
    assert proof.verdict is Verdict.FAIL
    assert any(says in line for line in proof.bad), proof.bad


def test_a_chain_written_anew_with_all_that_the_vault_remembers_is_found_by_who_saw_the_old_one(stores: Stores) -> None:
    """Somebody with a host's keys takes a journal out, and writes chain and head so that they fit."""
    forged = Stores(0)
    for key in (KEYS[0], *KEYS[2:]):
        forged.vault.put(key, stores.vault.get(key).body)
        forged.seal()
    forged.vault.put("journal/20260109T000000Z-x-000000.jsonl", b"filler")
    forged.seal()  # as long as the real one
    forged.remembered = None
    assert forged.proof().verdict is Verdict.PASS  # in itself it is whole
    forged.remembered = stores.remembered
    assert any("written anew" in line for line in forged.proof().bad)


def test_the_stores_own_versions_tell_of_an_entry_written_twice_even_with_the_same_end(stores: Stores) -> None:
    body = stores.offsite.get(entry_key(SERVICE, 2)).body
    stores.offsite.put(entry_key(SERVICE, 2), b"other")
    stores.offsite.put(entry_key(SERVICE, 2), body)
    assert any("overwritten" in line for line in stores.proof().bad)


def test_a_document_that_was_copied_twice_as_it_is_is_fine(stores: Stores) -> None:
    stores.offsite.put(KEYS[0], stores.vault.get(KEYS[0]).body)
    assert stores.proof().verdict is Verdict.PASS


def test_what_is_past_its_retention_may_be_gone_and_is_counted(stores: Stores) -> None:
    stores.now = NOW + timedelta(days=400)
    for key in KEYS[:2]:
        stores.offsite.delete(key)
        stores.vault.delete(key)
    proof = stores.proof()
    assert (proof.verdict, proof.expired) == (Verdict.PASS, 2)
    stores.offsite.put(KEYS[2], b"changed")  # what is old and still there must be as it was
    assert stores.proof().verdict is Verdict.FAIL


# -- what can't be told


def test_without_anybody_who_remembers_the_end_nothing_is_proved(stores: Stores) -> None:
    stores.vault.delete(head_key(SERVICE))
    stores.remembered = None
    proof = stores.proof()
    assert proof.verdict is Verdict.UNKNOWN and "nobody remembers" in proof.unknown[0]
    stores.vault.put(head_key(SERVICE), b"{torn")
    assert stores.proof().verdict is Verdict.UNKNOWN


def test_no_evidence_is_no_proof() -> None:
    assert Stores(0).proof().verdict is Verdict.UNKNOWN


def test_documents_that_nobody_sealed_for_a_day_are_told(stores: Stores) -> None:
    stores.vault.put("journal/20260106T000000Z-dns-000006.jsonl", b"x")
    assert stores.proof().verdict is Verdict.PASS
    stores.now = NOW + timedelta(hours=25)
    proof = stores.proof()
    assert proof.verdict is Verdict.UNKNOWN and "1 documents have no entry" in proof.unknown[0]


class Broken(MemoryStore):
    """Doesn't answer for keys that begin so."""

    def __init__(self, like: MemoryStore, prefix: str) -> None:
        super().__init__("broken")
        self._objects, self._versions, self.prefix = like._objects, like._versions, prefix

    def get(self, key: str) -> Object:
        if key.startswith(self.prefix):
            raise Unavailable("the store doesn't answer")
        return super().get(key)


@pytest.mark.parametrize("prefix", ["journal/", "evidence/"])
@pytest.mark.parametrize("which", ["vault", "offsite"])
def test_what_cant_be_read_is_unknown_and_never_whole(stores: Stores, which: str, prefix: str, tmp_path: Path) -> None:
    setattr(stores, which, Broken(getattr(stores, which), prefix))
    site = World(tmp_path).process()
    with pytest.raises(Unproven):
        runbook.verify(site, runbook.Vaults(stores.vault, stores.offsite))


def test_what_is_known_to_be_wrong_outweighs_what_isnt_known(stores: Stores) -> None:
    stores.offsite.delete(entry_key(SERVICE, 2))
    stores.vault = Broken(stores.vault, "journal/")
    assert stores.proof().verdict is Verdict.FAIL


# -- writing


class Racing(MemoryStore):
    """Somebody else writes the entry just before."""

    def __init__(self) -> None:
        super().__init__("offsite")
        self.races = 0

    def put_if_absent(self, key: str, body: bytes) -> str:
        if self.races:
            self.races -= 1
            theirs = Entry.parse(body)
            super().put_if_absent(key, Entry(SERVICE, theirs.number, theirs.previous, theirs.at, "them", ()).body())
        return super().put_if_absent(key, body)


def test_of_two_writers_one_is_first_and_the_other_comes_behind() -> None:
    stores = Stores(0)
    stores.offsite = Racing()
    stores.offsite.races = 3
    stores.vault.put(KEYS[0], b"x")
    assert stores.seal() == [KEYS[0]]
    assert (stores.proof().verdict, stores.proof().entries) == (Verdict.PASS, 4)
    stores.offsite.races = 99
    stores.vault.put(KEYS[1], b"x")
    with pytest.raises(Unavailable):
        stores.seal()


def test_one_that_stopped_half_way_is_gone_on_with() -> None:
    stores = Stores(2)
    stores.vault.put(KEYS[2], b"x")
    stores.offsite.put(KEYS[2], b"x")  # copied, and its entry not yet written
    stores.known = Known()  # and nothing remembered
    assert stores.seal() == [KEYS[2]]
    assert stores.proof().verdict is Verdict.PASS


def test_what_was_remembered_is_read_back_and_of_another_vault_isnt(stores: Stores) -> None:
    note = json.loads(json.dumps(evidence.noted(stores.known, "there")))
    assert evidence.recalled(note, "there") == stores.known
    assert evidence.recalled(note, "elsewhere") == evidence.recalled(None, "there") == Known()
    assert evidence.recalled({"where": "there", "head": {}}, "there") == Known()


def test_sealing_asks_little_when_nothing_is_new(stores: Stores) -> None:
    before = stores.offsite.asked.copy()
    stores.seal()
    assert stores.offsite.asked - before == {"ListObjectsV2": 1}


def test_a_broken_chain_is_gone_on_with_and_stays_broken(stores: Stores) -> None:
    stores.offsite.put(entry_key(SERVICE, 5), b"torn")
    stores.vault.put("journal/20260106T000000Z-dns-000006.jsonl", b"x")
    stores.known = Known()
    assert "journal/20260106T000000Z-dns-000006.jsonl" in stores.seal()
    assert stores.proof().verdict is Verdict.FAIL


# -- the verbs


def test_the_verbs_bring_seal_prove_and_remember(tmp_path: Path) -> None:
    site, stores = World(tmp_path).process(), runbook.Vaults(MemoryStore(), MemoryStore())
    site.journals.mkdir(parents=True)
    finished = json.dumps({"step": "run finished", "verdict": "PASS"})
    (site.journals / "20260101T000000Z-failover-aaaaaa.jsonl").write_text(f"{finished}\n")
    (site.journals / "20260101T000001Z-failover-bbbbbb.jsonl").write_text('{"step": "run started"}\n')
    drill = site.root / "drills" / "20260101T000000Z-complete-failure"
    drill.mkdir(parents=True)
    for name in ("report.json", "report.html", "exchange.db"):
        (drill / name).write_text("{}")
    (drill.parent / "latest").symlink_to(drill.name)
    assert sorted(runbook.seal(site, stores)) == [
        "drills/20260101T000000Z-complete-failure/report.html",
        "drills/20260101T000000Z-complete-failure/report.json",
        "journal/20260101T000000Z-failover-aaaaaa.jsonl",
    ]
    assert runbook.verify(site, stores).verdict is Verdict.PASS
    # The end is remembered on this machine: cutting off chain and head in both stores doesn't help.
    stores.offsite.delete(entry_key("genesis", 1))
    stores.vault.delete(head_key("genesis"))
    with pytest.raises(DataBad, match="this machine has seen entry 1"):
        runbook.verify(site, stores)


def test_a_journal_that_was_changed_here_doesnt_replace_the_one_in_the_vault(tmp_path: Path) -> None:
    site, stores = World(tmp_path).process(), runbook.Vaults(MemoryStore(), MemoryStore())
    site.journals.mkdir(parents=True)
    path = site.journals / "20260101T000000Z-failover-aaaaaa.jsonl"
    path.write_text('{"step": "run finished"}\n')
    runbook.seal(site, stores)
    path.write_text('{"step": "run finished", "verdict": "PASS"}\n')
    assert runbook.seal(site, stores) == []
    assert runbook.verify(site, stores).verdict is Verdict.PASS
