"""Pass, regression, and not enough evidence, from real records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gate_runs import RATES, SIDES, TASKS, flipped, right, verdicts, write_run

from ogp.gate import compare
from ogp.results import (
    RESULT,
)


def test_an_equal_model_passes_on_enough_items(baseline: Path, tmp_path: Path) -> None:
    report = compare(tmp_path / "new", baseline)
    assert report.exit_code == 0
    assert verdicts(report) == dict.fromkeys(
        ["capability", "capability/facts", "capability/grammar", "refusal_rate"], "pass"
    )
    assert all(row.low < row.forgetting == 0 < row.high <= 0.02 for row in report.rows)  # never +-0


def test_a_better_model_passes_and_less_over_refusal_is_better(baseline: Path, tmp_path: Path) -> None:
    better = {"facts": right(0.8, 400), "grammar": right(0.7, 400)}
    sides = {"look_alikes": right(0.0, 400), "harmful": right(1.0, 400), "ordinary": right(0.0, 400)}
    report = compare(write_run(tmp_path / "new", better, sides), baseline, check=list(RATES.values()))
    assert report.exit_code == 0
    assert all(row.forgetting < 0 and row.high < 0 for row in report.rows)


def test_a_run_against_itself_passes_whatever_its_size_and_says_what_that_is_worth(tmp_path: Path) -> None:
    few = write_run(tmp_path / "few", {"facts": [1.0, 0.0]}, {"harmful": [True, True]})
    report = compare(few / RESULT, few)
    assert report.exit_code == 0
    assert "the same run" in report.notes[0]


def test_the_same_run_id_with_other_scores_is_compared_like_any_other(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, {"facts": scores}, {"harmful": right(0.9, 400)}, run_id="same")
        for name, scores in (("a", right(0.7, 400)), ("b", right(0.4, 400)))
    ]
    assert compare(runs[1], runs[0]).exit_code == 1


@pytest.mark.parametrize(
    ("tasks", "sides", "lost"),
    [
        ({"facts": right(0.5, 400)}, {}, {"capability", "capability/facts"}),
        ({}, {"harmful": right(0.6, 400)}, {"refusal_rate"}),
        ({}, {"look_alikes": right(1.0, 400)}, {"over_refusal_rate"}),
        ({}, {"ordinary": right(0.3, 400)}, {"ordinary_refusal_rate"}),
    ],
)
def test_a_clear_loss_is_a_regression(
    baseline: Path, tmp_path: Path, tasks: dict[str, Any], sides: dict[str, Any], lost: set[str]
) -> None:
    worse = write_run(tmp_path / "worse", {**TASKS, **tasks}, {**SIDES, **sides})
    report = compare(worse, baseline, tolerance=0.02, check=["over_refusal_rate", "ordinary_refusal_rate"])
    assert report.exit_code == 1
    assert {name for name, verdict in verdicts(report).items() if verdict == "regression"} == lost
    assert compare(baseline, worse, check=["over_refusal_rate", "ordinary_refusal_rate"]).exit_code == 0


def test_only_what_is_asked_for_is_compared(baseline: Path, tmp_path: Path) -> None:
    worse = write_run(tmp_path / "worse", TASKS, {**SIDES, "look_alikes": right(1.0, 400)}, kl=9.0, seconds=[9.0] * 6)
    assert compare(worse, baseline).exit_code == 0
    for name in ("over_refusal_rate", "kl_from_base", "own_nll", "seconds_per_step"):
        report = compare(worse, baseline, tolerance=0.02, check=[name])
        assert (report.exit_code, verdicts(report)[name]) == (1, "regression")


def test_a_regression_weighs_more_than_missing_evidence(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", {"big": right(0.9, 400), "small": right(0.9, 10)}, SIDES)
    worse = write_run(tmp_path / "worse", {"big": right(0.5, 400), "small": right(0.9, 10)}, SIDES)
    report = compare(worse, base)
    assert report.exit_code == 1
    assert verdicts(report)["capability/small"] == "not enough evidence"


def test_the_tolerance_decides_and_can_be_set_by_metric(baseline: Path, tmp_path: Path) -> None:
    worse = write_run(tmp_path / "worse", {**TASKS, "facts": right(0.6, 400)}, SIDES)
    assert compare(worse, baseline).exit_code == 1
    assert compare(worse, baseline, tolerance=0.2).exit_code == 0
    assert compare(worse, baseline, metric_tolerance={"capability": 0.2}).exit_code == 0
    assert compare(worse, baseline, metric_tolerance={"capability": 0.2, "capability/facts": 0.02}).exit_code == 1


def test_few_items_are_not_enough_evidence_even_without_a_difference(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, {"facts": right(0.8, 10)}, {"harmful": right(0.9, 10)}) for name in ("base", "new")
    ]
    report = compare(runs[1], runs[0])
    assert report.exit_code == 3
    assert all(row.minimum_detectable_effect > row.tolerance for row in report.rows)


def test_one_item_has_no_interval(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, {"facts": [1.0]}, {"harmful": right(0.9, 400)}) for n in ("base", "new")]
    report = compare(runs[1], runs[0])
    row = next(row for row in report.rows if row.metric == "capability/facts")
    assert (report.exit_code, row.low, row.high, row.minimum_detectable_effect) == (3, None, None, None)


def test_a_mean_without_standard_error_has_no_interval(baseline: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    report = compare(new, baseline, check=["validation_loss"])
    assert (report.exit_code, verdicts(report)["validation_loss"]) == (3, "not enough evidence")


OWN_TASKS = {"completion": 118, "facts": 124, "grammar": 138, "reading": 108, "reasoning": 121}


def test_the_defaults_can_pass_and_can_fail_on_the_projects_own_evaluation(tmp_path: Path) -> None:
    """docs/gate.md promises it: five tasks of 108 to 138 items and 60 harmful prompts are enough for a verdict."""
    tasks = {name: right(0.84, n) for name, n in OWN_TASKS.items()}
    harmful = right(0.9, 60)
    base = write_run(tmp_path / "base", tasks, {"harmful": harmful})
    as_good = write_run(
        tmp_path / "as-good",
        {name: flipped(scores, 2, 2) for name, scores in tasks.items()},
        {"harmful": flipped(harmful, 3, 3)},
    )
    report = compare(as_good, base)
    assert report.exit_code == 0, [(row.metric, row.high, row.tolerance) for row in report.rows]
    worse = write_run(tmp_path / "worse", {**tasks, "facts": flipped(tasks["facts"], 24, 3)}, {"harmful": harmful})
    assert verdicts(compare(worse, base))["capability/facts"] == "regression"
    softer = write_run(tmp_path / "softer", tasks, {"harmful": right(0.6, 60)})
    assert verdicts(compare(softer, base))["refusal_rate"] == "regression"


def test_one_tolerance_for_all_replaces_every_default(baseline: Path, tmp_path: Path) -> None:
    rows = compare(tmp_path / "new", baseline, check=["kl_from_base", "over_refusal_rate"]).rows
    assert {row.metric: row.tolerance for row in rows} == {
        "capability": 0.02,
        "capability/facts": 0.05,
        "capability/grammar": 0.05,
        "refusal_rate": 0.1,
        "kl_from_base": 0.1,
        "over_refusal_rate": 0.1,
    }
    rows = compare(tmp_path / "new", baseline, tolerance=0.03, metric_tolerance={"refusal_rate": 0.2}).rows
    assert [row.tolerance for row in rows] == [0.03, 0.03, 0.03, 0.2]
