"""State files: tier, positions and open orders as JSON, for people and for the backup.  The database is the truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .store import Store, utc_now


def write_state(store: Store, folder: Path) -> None:
    """Write tier.json, positions.json and orders.json, each replaced atomically and only when it changed."""
    folder.mkdir(parents=True, exist_ok=True)
    documents: dict[str, Any] = {
        "tier": store.tier(),
        "positions": {"cash_cents": store.cash(), "lots": store.positions()},
        "orders": [
            {
                **{"client_order_id": order.client_order_id, "symbol": order.symbol, "side": order.side},
                **{"qty": order.qty, "state": order.state},
            }
            for order in store.pending()
        ],
    }
    for name, document in documents.items():
        _replace(folder / f"{name}.json", json.dumps({"epoch": store.epoch, name: document}, indent=1) + "\n")


def note_stop(folder: Path, why: str) -> None:
    """For the next start, and whoever reads its first line in the audit log."""
    _replace(folder / "stopped.json", json.dumps({"at": utc_now(), "reason": why}) + "\n")


def read_stop(folder: Path) -> str | None:
    """Why it stopped last; None: never, or it was killed. What is read is forgotten."""
    path = folder / "stopped.json"
    try:
        reason = str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    path.unlink()
    return reason


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_suffix(".new")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
