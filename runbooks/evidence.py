"""Evidence: put on the chain what isn't there yet, and prove that none of it was changed or dropped.

With the operator's own keys: whoever has a host has neither, and can't write what this reads from AWS anew.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lifeline import evidence
from lifeline.errors import DataBad, LifelineError, Unproven
from lifeline.evidence import Head, Proof
from lifeline.held import DRILLS, JOURNALS
from lifeline.inventory import folder
from lifeline.journal import RUN_FINISHED, read_lines
from lifeline.layout import write_file
from lifeline.model import Inventory, Verdict
from lifeline.moments import stamp
from lifeline.store import Store
from runbooks.site import Site

OF_A_DRILL = ("report.json", "report.html", "ledger.jsonl", "journal.jsonl")
HERE = "this machine"


@dataclass(frozen=True)
class Vaults:
    """The two stores it is about."""

    vault: Store
    offsite: Store


def vaults(inventory: Inventory) -> Vaults:
    """The real ones, with the operator's keys; opens nothing yet."""
    from lifeline.vault import key_from_environment, open_store

    return Vaults(
        open_store(inventory.vault, key_from_environment("SPACES")),
        open_store(inventory.offsite, key_from_environment("AWS")),
    )


def seal(site: Site, stores: Vaults) -> list[str]:
    """Bring this machine's journals and drills into the vault, and whatever is there onto the chain."""
    brought = [key for key, path in _here(site) if _bring(stores.vault, key, path)]
    me = f"operator:{getpass.getuser()}"
    known, keys = evidence.seal(stores.vault, stores.offsite, site.inventory.service, me, site.clock.utc)
    if known.head:
        _remember(site, known.head)
    end = f"; the chain ends at entry {known.head.number}" if known.head else ""
    site.say(f"{len(brought)} documents brought into the vault, {len(keys)} newly sealed{end}.")
    site.say("  next: fab evidence verify")
    return keys


def verify(site: Site, stores: Vaults, *, as_json: bool = False) -> Proof:
    """Read the chain and all it names; DataBad if anything was changed or dropped, Unproven if it can't be told."""
    backups = site.inventory.backups
    if as_json:
        site.aside()
    try:
        proof = evidence.verify(
            *(stores.vault, stores.offsite, site.inventory.service, site.clock.utc()),
            keep_days=min(backups.vault_days, backups.offsite_days),
            remembered={HERE: _remembered(site)},
        )
    except LifelineError as error:
        proof = Proof(unknown=[f"the chain can't be read: {error.message}"])
    print(json.dumps(evidence.to_json(proof), indent=1)) if as_json else site.say(_render(proof))
    if proof.verdict is Verdict.FAIL:
        raise DataBad(
            f"the evidence was changed or dropped in {len(proof.bad)} places: {proof.bad[0]}",
            hint="who had the keys? What the off-site vault keeps of older versions: docs/evidence.md",
        )
    if proof.verdict is Verdict.UNKNOWN:
        raise Unproven(f"not known whether the evidence is whole: {proof.unknown[0]}", hint="fab evidence seal")
    if proof.head:
        _remember(site, proof.head)
    return proof


def _render(proof: Proof) -> str:
    lines = [
        f"{proof.verdict}  {proof.documents} documents in {proof.entries} entries, the newest of {proof.newest or '—'}"
    ]
    if proof.expired:
        lines.append(f"  {proof.expired} documents are past their retention and gone, as they should be")
    for mark, found in (("!", proof.bad), ("?", proof.unknown)):
        lines += [f"  {mark} {text}" for text in found[: evidence.TOLD]]
        if len(found) > evidence.TOLD:
            lines.append(f"  {mark} and {len(found) - evidence.TOLD} more; --json has all")
    if proof.verdict is Verdict.PASS and proof.head:
        lines.append(
            f"  None of them was changed or dropped. End of the chain: {proof.head.number} {proof.head.sha256}"
        )
    return "\n".join(lines)


def _here(site: Site) -> Iterator[tuple[str, Path]]:
    """This machine's finished journals and drills, by their keys."""
    for path in sorted(site.journals.glob("*.jsonl")):
        lines = read_lines(path)
        if lines and lines[-1].get("step") == RUN_FINISHED:
            yield f"{JOURNALS}{path.name}", path
    for report in sorted((site.root / "drills").glob("*/report.json")):
        if report.parent.is_symlink():
            continue
        for name in OF_A_DRILL:
            if (path := report.with_name(name)).is_file():
                yield f"{DRILLS}{report.parent.name}/{name}", path


def _bring(vault: Store, key: str, path: Path) -> bool:
    """Never over what is there: if they differ, the one that is sealed counts, and a difference is told by nobody's
    overwriting it."""
    if vault.head(key) is not None:
        return False
    vault.put(key, path.read_bytes())
    return True


def _note(site: Site) -> Path:
    return folder(site.root, site.inventory.stack) / "evidence-head.json"


def _remembered(site: Site) -> Head | None:
    try:
        return Head.parse(_note(site).read_bytes())
    except OSError:
        return None


def _remember(site: Site, head: Head) -> None:
    """The furthest end seen: a shorter chain must not make us forget a longer one."""
    known = _remembered(site)
    if known is None or head.number >= known.number:
        write_file(_note(site), json.dumps({**json.loads(head.body()), "at": stamp(site.clock.utc())}))
