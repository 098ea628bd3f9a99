"""The intervals, error rates and power that the verdicts rest on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ogp.gate.differences import _student
from ogp.gate.paired import PairedCounts, drop_interval, mcnemar, minimum_detectable_effect
from ogp.gate.records import MeasuredRun
from ogp.gate.rule import measure
from ogp.results import (
    Evaluation,
    Metric,
    RunResult,
)


def test_the_interval_and_the_p_value_are_the_published_ones() -> None:
    """Bentur et al. 2009 (21 children before and after transplantation, 1 and 7 discordant), as worked out in
    Fagerland, Lydersen & Laake 2014, Stat. Med. 33:2850: Tango's interval -0.517 to -0.026, exact McNemar p 0.0703."""
    assert drop_interval([PairedCounts(21, 1, 7, True)]) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(("n", "worse", "better"), [(21, 1, 7), (50, 0, 3), (120, 20, 4), (300, 1, 1), (60, 30, 29)])
def test_each_limit_is_where_the_score_test_turns(n: int, worse: int, better: int) -> None:
    """Independent oracle: the likelihood under a fixed difference, maximised numerically."""
    for limit in drop_interval([PairedCounts(n, worse, better, True)]):

        def surprise(q: float, d: float = limit) -> float:
            cells = np.array([q + d, q, 1 - 2 * q - d])
            return -float(np.array([worse, better, n - worse - better]) @ np.log(np.maximum(cells, 1e-300)))

        lowest, highest = max(0.0, -limit), (1 - limit) / 2
        q = minimize_scalar(surprise, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
        score = ((worse - better) / n - limit) / np.sqrt((2 * q + limit - limit**2) / n)
        assert abs(score) == pytest.approx(1.96, abs=2e-3)


def test_nothing_differing_is_evidence_in_proportion_to_the_items() -> None:
    for n in (10, 100, 1000):
        low, high = drop_interval([PairedCounts(n, 0, 0, True)])
        assert high == -low == pytest.approx(1.96**2 / (n + 1.96**2), abs=1e-4)


def test_swapping_the_models_mirrors_the_interval() -> None:
    parts = [PairedCounts(40, 7, 2, True), PairedCounts(90, 1.5, 3.25, False)]
    low, high = drop_interval(parts)
    mirrored = drop_interval([PairedCounts(p.n, p.better, p.worse, p.binary) for p in parts])
    assert mirrored == pytest.approx((-high, -low))


def in_memory(before: np.ndarray, after: np.ndarray) -> list[MeasuredRun]:
    """Two measured runs with these scores (tasks, items); the last task plays the harmful prompts."""
    names = [*(f"capability/{task}" for task in range(len(before) - 1)), "refusal_rate"]
    runs = []
    for run_id, table in (("a", before), ("b", after)):
        metrics = {n: Metric(value=float(s.mean()), n=len(s)) for n, s in zip(names, table, strict=True)}
        scores = {n: dict(enumerate(map(float, s))) for n, s in zip(names, table, strict=True)}
        result = RunResult.model_construct(run_id=run_id)
        final = Evaluation(step=0, split="report", final=True, metrics=metrics)
        runs.append(MeasuredRun(Path(run_id), result, final, scores, {}))
    return runs


def simulate(
    random: np.random.Generator, n: int, discordant: float, drop: float, tolerance: float, tables: int
) -> list[list[str]]:
    """Verdicts of many tables of 6 metrics and a mean with the same true drop everywhere."""
    found = []
    for _ in range(tables):
        kind = random.random((6, n))
        before = kind < (discordant + drop) / 2  # lost; won below `discordant`; the rest right for both
        won = ~before & (kind < discordant)
        runs = in_memory(~won, ~before)
        names = ["capability", *runs[0].final.metrics]
        found.append([row.verdict for row in measure(*runs, [], dict.fromkeys(names, tolerance))])
    return found


@pytest.mark.parametrize(("n", "discordant"), [(30, 0.3), (60, 0.1), (200, 0.2)])
def test_equal_models_are_called_a_regression_in_at_most_5_percent_of_tables(n: int, discordant: float) -> None:
    found = simulate(np.random.default_rng(0), n, discordant, 0.0, 0.0, 400)
    assert np.mean(["regression" in table for table in found]) <= 0.05


@pytest.mark.parametrize(("n", "discordant"), [(60, 0.05), (200, 0.06), (400, 0.2)])
def test_a_drop_of_the_whole_tolerance_seldom_passes(n: int, discordant: float) -> None:
    """Per row; that all rows pass is rarer still. 2.5 % is meant, and a score interval is not exact."""
    found = simulate(np.random.default_rng(1), n, discordant, 0.05, 0.05, 150)
    rows = np.array([table[1:] for table in found])
    assert np.mean(rows == "pass") <= 0.04
    assert np.mean([all(verdict == "pass" for verdict in table) for table in found]) <= 0.01


@pytest.mark.parametrize(("n", "discordant", "parts"), [(100, 0.2, 1), (400, 0.05, 1), (120, 0.15, 5)])
def test_power_is_as_the_minimum_detectable_effect_says(n: int, discordant: float, parts: int) -> None:
    random = np.random.default_rng(2)
    counts = [PairedCounts(n, discordant * n / 2, discordant * n / 2, True)] * parts
    drop = minimum_detectable_effect(counts)
    cells = [(discordant + drop) / 2, (discordant - drop) / 2, 1 - discordant]
    drawn = random.multinomial(n, cells, size=(1000, parts))
    seen = [drop_interval([PairedCounts(n, int(w), int(b), True) for w, b, _ in table])[0] > 0 for table in drawn]
    assert 0.75 <= np.mean(seen) <= 0.87


@pytest.mark.parametrize(
    ("n", "discordant", "drop", "parts"),
    [(40, 0.1, 0.0, 1), (60, 0.3, 0.1, 1), (120, 0.05, 0.03, 1), (120, 0.1, 0.02, 5), (400, 0.02, 0.01, 3)],
)
def test_the_printed_interval_covers_the_true_drop(n: int, discordant: float, drop: float, parts: int) -> None:
    cells = [(discordant + drop) / 2, (discordant - drop) / 2, 1 - discordant]
    drawn = np.random.default_rng(4).multinomial(n, cells, size=(1500, parts))
    bounds = [drop_interval([PairedCounts(n, int(w), int(b), True) for w, b, _ in table]) for table in drawn]
    assert np.mean([low <= drop <= high for low, high in bounds]) >= 0.935


def test_intervals_of_token_means_and_of_step_times_cover() -> None:
    """Student's t on two standard errors (independent models), and on the log ratios of steps."""
    random = np.random.default_rng(5)
    covered = []
    for _ in range(1000):
        first, second = random.normal(1.0, 0.3, 16), random.normal(1.2, 0.4, 16)
        error = np.hypot(*(x.std(ddof=1) / 4 for x in (first, second)))
        low, high = _student(float(second.mean() - first.mean()), float(error), 15)[0](0.025)
        covered.append(low <= 0.2 <= high)
        ratios = random.normal(0.1, 0.05, 8)
        low, high = _student(float(ratios.mean()), float(ratios.std(ddof=1) / np.sqrt(8)), 7)[0](0.025)
        covered.append(low <= 0.1 <= high)
    assert np.mean(covered[0::2]) >= 0.94
    assert np.mean(covered[1::2]) == pytest.approx(0.95, abs=0.02)


def test_fractional_scores_get_an_interval_that_covers() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(500):
        losses = random.uniform(-0.3, 0.5, 80)  # mean 0.1
        part = PairedCounts(80, float(losses[losses > 0].sum()), float(-losses[losses < 0].sum()), False)
        low, high = drop_interval([part])
        covered += low <= 0.1 <= high
    assert covered >= 475
