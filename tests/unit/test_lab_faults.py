"""Faults from the command line: what is typed wrong is told, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import faults


def test_the_list_names_every_fault_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main([]) == 0
    listed = capsys.readouterr().out
    assert "cut_region REGION [FROM]\n" in listed and "power_cut DROPLET\n" in listed and "'str'" not in listed


@pytest.mark.parametrize("given", [["power_cut"], ["power_cut", "a", "b"], ["cut_region"]])
def test_too_few_or_too_many_arguments(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(given) == 2
    assert f"usage: python -m lab.faults {given[0]} " in capsys.readouterr().err


def test_an_error_is_told_with_its_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faults.main(["cut_region", "nyc9"]) == 2
    assert "BadInput: no region 'nyc9'" in capsys.readouterr().err
    monkeypatch.setenv("LIFELINE_LAB", str(tmp_path))
    assert faults.main(["power_cut", "primary-newyork"]) == 3
    assert "next: fab lab.up" in capsys.readouterr().err
