"""Who may serve: the table of the self-fence."""

from __future__ import annotations

import pytest

from lifeline.fence import Known, judge, valid_until
from lifeline.layout import RoleFile
from lifeline.model import Lease

ME = "primary-newyork"
PRIMARY = RoleFile("primary", 3)


def lease(holder: str = ME, epoch: int = 3, ttl: float = 30.0) -> Lease:
    return Lease("genesis", holder, epoch, ttl, 5.0, 7, "operator:x", "run")


@pytest.mark.parametrize(
    ("role", "known", "now", "kind"),
    [
        (RoleFile("standby", 3), Known(lease(), 100.0), 50.0, "idle"),
        (RoleFile("none", 3), Known(lease(), 100.0), 50.0, "idle"),
        (PRIMARY, Known(), 0.0, "wait"),  # just booted
        (PRIMARY, Known(error="no route"), 1e9, "wait"),  # a zombie that can't ask serves nothing, however long
        (PRIMARY, Known(lease(), 100.0), 99.9, "serve"),
        (PRIMARY, Known(lease(), 100.0), 100.0, "fence"),
        (PRIMARY, Known(lease(), 100.0, "no route"), 60.0, "serve"),  # a blip
        (PRIMARY, Known(lease("backup-singapore", 4), 100.0), 50.0, "fence"),  # deposed: at once
        (PRIMARY, Known(lease("backup-singapore", 4)), 0.0, "fence"),  # a zombie that learns it
        (PRIMARY, Known(lease(ME, 4), 100.0), 50.0, "fence"),  # its own next epoch: another prefix
        (PRIMARY, Known(lease(ME, 2), 100.0), 50.0, "fence"),
        (PRIMARY, Known(None, 100.0), 50.0, "wait"),  # restarted: the predecessor's deadline, nothing heard yet
        (PRIMARY, Known(None, 100.0), 100.0, "fence"),
    ],
)
def test_judgement(role: RoleFile, known: Known, now: float, kind: str) -> None:
    assert judge(role, ME, known, now).kind == kind


def test_a_renewal_counts_from_its_begin_and_ends_a_margin_early() -> None:
    assert valid_until(1000.0, lease()) == 1025.0


def test_a_released_lease_is_good_for_nothing() -> None:
    released = lease(ttl=0.0)
    assert judge(PRIMARY, ME, Known(released, valid_until(1000.0, released)), 1000.0).kind == "fence"


def test_every_reason_is_told() -> None:
    assert "backup-singapore" in judge(PRIMARY, ME, Known(lease("backup-singapore", 4)), 0.0).reason
    assert "no route" in judge(PRIMARY, ME, Known(lease(), 1.0, "no route"), 2.0).reason
