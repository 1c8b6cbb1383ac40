"""What all unit tests share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No unit test cuts the power, so none can tell a file that reached the disk from one that the kernel holds, and to
    wait for the disk is much of what simulated days of a keeper cost. The campaign of kills (lab/kills) does cut it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
