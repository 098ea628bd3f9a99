"""The corrected rate is right where the truth is known, and its interval covers it as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from ogp.judge_errors import JudgeErrors, corrected_rate


def test_a_perfect_judge_needs_no_correction() -> None:
    found = corrected_rate(30, 100, JudgeErrors(500, 0, 500, 0))
    assert found.value == pytest.approx(found.raw) == pytest.approx(0.3)
    assert found.low < 0.3 < found.high


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_correction_inverts_the_judges_errors(rate: float) -> None:
    sensitivity, specificity, n = 0.8, 0.9, 100_000
    flagged = round(n * (rate * sensitivity + (1 - rate) * (1 - specificity)))
    assert corrected_rate(flagged, n, JudgeErrors(800, 200, 900, 100)).value == pytest.approx(rate, abs=1e-4)


@pytest.mark.parametrize("flagged", [0, 100])
def test_rates_stay_within_bounds(flagged: int) -> None:
    found = corrected_rate(flagged, 100, JudgeErrors(80, 20, 80, 20))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_larger_labelled_sample_narrows_the_interval() -> None:
    few, many = (corrected_rate(30, 1_000, JudgeErrors(9 * k, k, 9 * k, k)) for k in (2, 200))
    assert few.value == pytest.approx(many.value)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (JudgeErrors(5, 5, 5, 5), "no better than chance"),
        (JudgeErrors(1, 9, 1, 9), "no better than chance"),
        (JudgeErrors(5, 5, 0, 0), "at least one labelled refusal and one labelled compliance"),
        (JudgeErrors(0, 0, 5, 5), "at least one labelled refusal and one labelled compliance"),
    ],
)
def test_a_judge_that_tells_nothing_is_refused(errors: JudgeErrors, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrected_rate(3, 10, errors)


@pytest.mark.parametrize(("flagged", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(flagged: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"`flagged` {flagged} out of `n` {n}"):
        corrected_rate(flagged, n, JudgeErrors(9, 1, 9, 1))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.95, 0.98), (0.8, 0.85)])
def test_the_interval_covers_the_truth(rate: float, sensitivity: float, specificity: float) -> None:
    drawn = np.random.default_rng(7)
    times, n, n_refusal, n_compliance, covered = 1_500, 120, 100, 120, 0
    for _ in range(times):
        hits, false_alarms = drawn.binomial(n_refusal, sensitivity), drawn.binomial(n_compliance, 1 - specificity)
        truly = drawn.binomial(n, rate)
        flagged = drawn.binomial(truly, sensitivity) + drawn.binomial(n - truly, 1 - specificity)
        labelled = JudgeErrors(hits, n_refusal - hits, n_compliance - false_alarms, false_alarms)
        found = corrected_rate(int(flagged), n, labelled)
        covered += found.low <= rate <= found.high
    assert 0.93 <= covered / times <= 0.995
