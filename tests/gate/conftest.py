"""Three runs of equal models, for every test of the gate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gate_runs import SIDES, TASKS, write_run


@pytest.fixture(scope="session")
def equal_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of equal models, written once: every write forces the disk."""
    folder = tmp_path_factory.mktemp("equal")
    for name in ("base", "new", "floor"):
        write_run(folder / name, TASKS, SIDES)
    return folder


@pytest.fixture
def baseline(equal_runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(equal_runs, tmp_path, dirs_exist_ok=True)
    return tmp_path / "base"
