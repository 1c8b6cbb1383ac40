"""Fixtures that several contract tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.lab_hosts import Bench, bench


@pytest.fixture(scope="module")
def hosts(lab_session: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench on the running lab's network; its machines are destroyed with it."""
    made = bench(tmp_path_factory.mktemp("bench"))
    yield made
    for droplet_id in made.machines.ids():
        made.machines.destroy(droplet_id)
