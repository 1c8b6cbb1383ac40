"""State files: tier, positions and open orders as JSON, for people and for the backup.  The database is the truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .store import Store


def write_state(store: Store, folder: Path) -> None:
    """Write tier.json, positions.json and orders.json, each replaced atomically and only when it changed."""
    folder.mkdir(parents=True, exist_ok=True)
    documents: dict[str, Any] = {
        "tier": store.tier(),
        "positions": {"cash_cents": store.cash(), "lots": store.positions()},
        "orders": [
            {"client_order_id": order.client_order_id, "symbol": order.symbol, "side": order.side, "qty": order.qty}
            for order in store.pending()
        ],
    }
    for name, document in documents.items():
        _replace(folder / f"{name}.json", json.dumps({"epoch": store.epoch, name: document}, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_suffix(".new")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
