"""The in-memory store keeps the same contract as the real ones."""

import pytest

from lifeline.store import MemoryStore
from tests.contract.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()
