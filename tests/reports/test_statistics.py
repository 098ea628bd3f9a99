"""Intervals cover what they promise, tests hold their level, and every formula agrees with an independent source."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import (
    clustered_wilson,
    hierarchical_bootstrap,
    holm,
    mcnemar,
    minimum_detectable_effect,
    minimum_detectable_paired_effect,
    student_t,
    wilson,
)

rates = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(rates)
def test_wilson_equals_scipy(rate: tuple[int, int]) -> None:
    count, n = rate
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert wilson(count, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_of_no_refusal_is_not_certain() -> None:
    assert wilson(0, 40) == pytest.approx((0.0, 0.0876), abs=1e-4)
    assert wilson(0, 40)[0] == 0.0
    assert wilson(40, 40)[1] == 1.0


@pytest.mark.parametrize(("count", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="`count`"):
        wilson(count, n)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [40, 100])
def test_wilson_covers_exactly_summed(p: float, n: int) -> None:
    counts = np.arange(n + 1)
    bounds = np.array([wilson(int(count), n) for count in counts])
    covered = (bounds[:, 0] <= p) & (p <= bounds[:, 1])
    assert stats.binom.pmf(counts, n, p)[covered].sum() > 0.91


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_student_t_covers_95_percent(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    estimates = [student_t(values) for values in random.normal(1.0, 2.0, (3000, seeds))]
    covered = np.mean([e.low <= 1.0 <= e.high for e in estimates if e.low is not None and e.high is not None])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval() -> None:
    estimate = student_t([0.4])
    assert (estimate.value, estimate.low, estimate.high) == (0.4, None, None)
    assert "one seed" in estimate.over


def verdicts(random: np.random.Generator, seeds: int, shift: float, prompt: float, seed: float, noise: float):
    """(repetitions, 2 arms, seeds, 60 prompts) refusals of two arms on the same prompts; only the first is shifted."""
    shape = (300, 2, seeds, 60)
    latent = prompt * random.normal(size=(300, 1, 1, 60)) + noise * random.normal(size=shape)
    latent += seed * random.normal(size=(300, 2, seeds, 1)) * (seeds > 1)
    latent[:, 0] += shift
    return (latent > 0).astype(float)


# Prompt-to-prompt, seed-to-seed and residual spread: residual only, mixed, nearly all from the seeds.
SPREADS = [(1.0, 0.0, 1.0), (1.0, 0.3, 0.5), (0.5, 0.8, 0.5)]


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("seeds", "promised"), [(1, 0.93), (3, 0.90), (5, 0.92)])
def test_hierarchical_bootstrap_covers(seeds: int, promised: float, spread: tuple[float, float, float]) -> None:
    random = np.random.default_rng(7)
    many = verdicts(random, 40, 0.5, *spread) if seeds > 1 else verdicts(random, 1, 0.5, spread[0], 0.0, spread[2])
    truth = (many[:, 0] - many[:, 1]).mean()
    pairs = verdicts(random, seeds, 0.5, *spread)
    found = [hierarchical_bootstrap([pair[0] - pair[1]]) for pair in pairs]
    covered = np.mean([e.low <= truth <= e.high for e in found if e.low is not None and e.high is not None])
    assert covered >= promised
    assert {e.over for e in found} == ({"prompts x seeds"} if seeds > 1 else {"prompts, one seed"})


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (1 / 3, 1 / 3, 1 / 3)])
@pytest.mark.parametrize(("seeds", "promised"), [(1, 0.93), (3, 0.90)])
def test_sums_of_parts_cover_as_selectivity_and_mean_capability_need_it(
    seeds: int, promised: float, weights: tuple[float, ...]
) -> None:
    """Selectivity is one part minus another, mean capability the mean of its tasks; all parts share the seeds."""
    random = np.random.default_rng(9)
    spread = (1.0, 0.3 if seeds > 1 else 0.0, 0.7)
    shifts = (0.8, -0.4, 0.2)[: len(weights)]
    many = [verdicts(random, 40 if seeds > 1 else 1, shift, *spread) for shift in shifts]
    truth = sum(w * (m[:, 0] - m[:, 1]).mean() for w, m in zip(weights, many, strict=True))
    drawn = [verdicts(random, seeds, shift, *spread) for shift in shifts]
    found = [hierarchical_bootstrap([d[i, 0] - d[i, 1] for d in drawn], weights) for i in range(300)]
    covered = np.mean([e.low <= truth <= e.high for e in found if e.low is not None and e.high is not None])
    assert covered >= promised


def test_hierarchical_bootstrap_rarely_finds_what_is_not_there() -> None:
    pairs = verdicts(np.random.default_rng(3), 3, 0.0, 1.0, 0.3, 0.5)
    p_values = [hierarchical_bootstrap([pair[0] - pair[1]]).p for pair in pairs]
    assert np.mean([p is not None and p < 0.05 for p in p_values]) < 0.08


@pytest.mark.parametrize(
    ("seeds", "spread", "promised"),
    [*((seeds, spread, 0.92) for seeds in (2, 3, 5) for spread in SPREADS[:2]), (3, SPREADS[2], 0.83)],
)
def test_clustered_wilson_covers(seeds: int, spread: tuple[float, float, float], promised: float) -> None:
    random = np.random.default_rng(11)
    truth = verdicts(random, 40, -1.0, *spread)[:, 0].mean()
    bounds = [clustered_wilson(pair[0] > 0.5) for pair in verdicts(random, seeds, -1.0, *spread)]
    assert np.mean([low <= truth <= high for low, high in bounds]) >= promised


def test_pooling_identical_seeds_adds_no_certainty() -> None:
    one = np.random.default_rng(0).random((1, 60)) < 0.3
    low, high = clustered_wilson(np.repeat(one, 3, axis=0))
    alone = clustered_wilson(one)
    assert alone == wilson(int(one.sum()), 60)
    assert high - low >= 0.99 * (alone[1] - alone[0])
    assert clustered_wilson(np.zeros((3, 60), dtype=bool)) == wilson(0, 60)


def test_no_differences_are_not_certainty() -> None:
    estimate = hierarchical_bootstrap([np.zeros((1, 60))])
    assert estimate.value == 0
    assert estimate.low is not None
    assert estimate.low < -0.02
    assert estimate.p == pytest.approx(1.0)


def test_parts_add_up_and_the_same_data_give_the_same_interval() -> None:
    random = np.random.default_rng(5)
    first, second = random.choice([-1.0, 0.0, 1.0], (2, 3, 60))
    both = hierarchical_bootstrap([first, second], [-1.0, 1.0])
    assert both.value == pytest.approx(second.mean() - first.mean())
    assert both == hierarchical_bootstrap([first, second], [-1.0, 1.0])
    with pytest.raises(ValueError, match="seeds"):
        hierarchical_bootstrap([first, second[:2]])


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_equals_scipy(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_equals_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        ranked = sorted(p_values)
        steps = [min(1.0, (len(ranked) - i) * value) for i, value in enumerate(ranked) if value <= p]
        assert q == pytest.approx(max(steps))
        assert q >= p


def test_holm_keeps_the_family_wise_error() -> None:
    p_values = np.random.default_rng(1).random((4000, 12))
    assert np.mean([min(holm(list(row))) < 0.05 for row in p_values]) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("n", "rate"), [(60, 0.5), (60, 0.95), (250, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(n: int, rate: float) -> None:
    effect = minimum_detectable_effect(n, rate)
    random = np.random.default_rng(2)
    first = random.binomial(n, rate, 4000)
    second = random.binomial(n, rate - effect if rate > 0.5 else rate + effect, 4000)
    pooled = (first + second) / (2 * n)
    z = abs(first - second) / n / np.sqrt(2 * pooled * (1 - pooled) / n)
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(("n", "discordant"), [(60, 0.3), (250, 0.2)])
def test_the_detectable_paired_difference_is_found_four_times_in_five(n: int, discordant: float) -> None:
    effect = minimum_detectable_paired_effect(n, discordant)
    wins, losses = (discordant + effect) / 2, (discordant - effect) / 2
    drawn = np.random.default_rng(4).multinomial(n, [wins, losses, 1 - wins - losses], 4000)
    z = (drawn[:, 0] - drawn[:, 1]) / np.sqrt(np.maximum(drawn[:, 0] + drawn[:, 1], 1))
    assert np.mean(abs(z) > 1.96) == pytest.approx(0.8, abs=0.06)


def test_more_prompts_find_smaller_differences() -> None:
    for effect in (
        [minimum_detectable_effect(n, 0.5) for n in (10, 60, 1000)],
        [minimum_detectable_paired_effect(n, 0.2) for n in (10, 60, 1000)],
    ):
        assert effect == sorted(effect, reverse=True)
    assert minimum_detectable_paired_effect(1, 0.1) == 1.0
    with pytest.raises(ValueError, match="`n`"):
        minimum_detectable_effect(0, 0.5)
