"""The noise floor: re-runs of the baseline widen the margin, and stand in for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gate_runs import SIDES, TASKS, flipped, reasons, right, write_run

from ogp.gate import compare


def test_a_drop_inside_the_noise_floor_is_no_regression_and_one_beyond_it_is(baseline: Path, tmp_path: Path) -> None:
    def run(name: str, lost: int, **options: Any) -> Path:
        return write_run(tmp_path / name, {**TASKS, "facts": flipped(TASKS["facts"], lost, 0)}, SIDES, **options)

    noisy = run("floor", 40, settings={"evaluation": {"batch_size": 3}})
    drop, larger = run("drop", 32), run("larger", 100)
    assert compare(drop, baseline).exit_code == 1
    report = compare(drop, baseline, floor=[baseline, noisy])
    row = next(row for row in report.rows if row.metric == "capability/facts")
    assert (report.exit_code, row.verdict, row.noise_floor) == (0, "pass", pytest.approx(0.1))
    assert compare(larger, baseline, floor=[noisy]).exit_code == 1


def test_the_noise_floor_does_not_stand_in_for_items(tmp_path: Path) -> None:
    """5 items and a re-run that flips one of them: 0.2 of noise must not wave a drop of 0.2 through."""
    sides = {"harmful": right(0.9, 400)}
    base = write_run(tmp_path / "base", {"facts": [1, 1, 1, 1, 0]}, sides)
    rerun = write_run(tmp_path / "floor", {"facts": [1, 1, 1, 0, 0]}, sides)
    new = write_run(tmp_path / "new", {"facts": [0, 1, 1, 1, 0]}, sides)
    assert compare(new, base, floor=[rerun]).exit_code == 3


def test_a_floor_run_must_be_the_baselines_model(baseline: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", TASKS, SIDES, settings={"seed": 1})
    assert "the baseline's model again" in reasons(compare(baseline, baseline, floor=[other]))
    untrained = [
        write_run(tmp_path / name, TASKS, SIDES, steps=0, settings={"seed": seed})
        for seed, name in enumerate(("untrained", "again"))
    ]
    assert compare(untrained[0], untrained[0], floor=[untrained[1]]).exit_code == 0  # no step, so no seed
