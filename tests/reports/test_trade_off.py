"""Comparison at equal strength and the area under evaluation points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.cells import level_cell
from reports.trade_off import Path, at_level, hypervolume, kept_at_over_refusal, rates_at_kl, trade_off_area

shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6)


def test_at_level_is_linear_between_the_points_around_the_first_crossing() -> None:
    x, y = np.array([1.0, 0.6, 0.2, 0.7]), np.array([1.0, 0.8, 0.0, 0.9])
    assert at_level(x, y, 0.8) == pytest.approx(0.9)
    assert at_level(x, y, 0.4) == pytest.approx(0.4)
    assert at_level(x, y, 1.0) == pytest.approx(1.0)
    assert np.isnan(at_level(x, y, 0.1))
    assert at_level(x[::-1][:2], y[::-1][:2], 0.6) == pytest.approx(0.72)  # from 0.7 down to 0.2


def test_at_level_from_below_and_vectorised() -> None:
    kl, rate = np.array([0.0, 0.1, 0.4]), np.array([1.0, 0.8, 0.2])
    assert at_level(kl, rate, 0.25) == pytest.approx(0.5)
    many = at_level(np.tile(kl, (3, 1)), np.tile(rate, (3, 1)) * [[1], [0.5], [0]], 0.25)
    assert many == pytest.approx([0.5, 0.25, 0.0])


def test_a_faster_walk_along_the_same_line_is_the_same_at_equal_strength() -> None:
    """The reason for the comparison: an arm with twice the learning rate is not a worse method."""
    slow, fast = np.linspace(1, 0.4, 4), np.linspace(1, 0, 4)
    assert at_level(slow, slow**1, 0.5) == pytest.approx(at_level(fast, fast**1, 0.5))


@given(shares)
def test_hypervolume_equals_brute_force(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    grid = (np.arange(200) + 0.5) / 200
    dominated = (x[:, None, None] <= grid[None, :, None]) & (y[:, None, None] >= grid[None, None, :])
    assert hypervolume(x, y) == pytest.approx(dominated.any(axis=0).mean(), abs=0.011)


def test_hypervolume_ends() -> None:
    assert hypervolume(np.array([0.0]), np.array([1.0])) == 1.0
    assert hypervolume(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0


def walk(random: np.random.Generator, over: np.ndarray, kept: np.ndarray, prompts: int, spread: float = 0.0) -> Path:
    """A run whose prompts have a fixed difficulty at every point, and which as a whole is a bit harder or easier."""
    shift = spread * random.normal()
    return Path(
        (random.random(prompts) < np.clip(over + shift, 0, 1)[:, None]).astype(float),
        (random.random(prompts) < np.clip(kept + shift, 0, 1)[:, None]).astype(float),
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_at_equal_over_refusal_cover(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    over, kept = np.array([1.0, 0.8, 0.5, 0.2]), np.array([1.0, 0.95, 0.75, 0.35])
    truth = at_level(over, kept, 0.5)
    found = [kept_at_over_refusal([walk(random, over, kept, 100) for _ in range(seeds)], 0.5) for _ in range(250)]
    covered = [e.low <= truth <= e.high for e in found if e is not None and e.low is not None and e.high is not None]
    assert len(covered) > 240
    assert np.mean(covered) >= 0.91


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_the_area_cover(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    over, kept = np.array([1.0, 0.7, 0.4, 0.1]), np.array([1.0, 0.9, 0.7, 0.3])
    truth = hypervolume(over, kept)
    found = [trade_off_area([walk(random, over, kept, 100) for _ in range(seeds)]) for _ in range(250)]
    covered = [e.low <= truth <= e.high for e in found if e is not None and e.low is not None and e.high is not None]
    assert len(covered) == 250
    assert np.mean(covered) >= 0.91


def test_a_level_never_reached_has_no_value_and_one_hardly_reached_no_interval() -> None:
    random = np.random.default_rng(0)
    over, kept = np.array([1.0, 0.8, 0.6]), np.array([1.0, 0.9, 0.8])
    path = walk(random, over, kept, 100)
    assert kept_at_over_refusal([path], 0.1) is None
    barely = kept_at_over_refusal([path], float(path.over_refusal[-1].mean()))
    assert barely is not None
    assert barely.low is None


def test_one_of_three_seeds_that_reaches_the_level_says_so() -> None:
    random = np.random.default_rng(1)
    far = walk(random, np.array([1.0, 0.5, 0.0]), np.array([1.0, 0.8, 0.5]), 50)
    near = walk(random, np.array([1.0, 0.9, 0.8]), np.array([1.0, 1.0, 0.9]), 50)
    one = kept_at_over_refusal([far, near, near], 0.2)
    assert one is not None
    assert (one.low, one.over) == (None, "1 of 3 seeds")
    assert level_cell(one).text.endswith("(1 of 3 seeds)")
    two = kept_at_over_refusal([far, far, near], 0.2)
    assert two is not None
    assert two.over == "2 of 3 seeds"
    assert level_cell(None).text == "not reached"


def test_prompts_asked_only_at_the_end_are_used_there() -> None:
    over = np.array([[1.0, 1.0, np.nan, np.nan], [1.0, 0.0, 0.0, 0.0]])
    kept = np.array([[1.0, np.nan], [1.0, 1.0]])
    area = trade_off_area([Path(over, kept)])
    assert area is not None
    assert area.value == pytest.approx(0.75)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_at_equal_kl_cover(seeds: int) -> None:
    """KL is known at every point; over-refusal and kept refusals where it passes 0.3 lie between two points."""
    random = np.random.default_rng(seeds)
    over, kept, kl = np.array([1.0, 0.7, 0.4, 0.1]), np.array([1.0, 0.9, 0.7, 0.3]), np.array([0.0, 0.2, 0.6, 1.0])
    truths = [float(at_level(kl, rates, 0.3)) for rates in (over, kept)]
    covered = []
    for _ in range(250):
        paths = [replace(walk(random, over, kept, 100), kl=kl) for _ in range(seeds)]
        for estimate, truth in zip(rates_at_kl(paths, 0.3), truths, strict=True):
            assert estimate is not None
            assert estimate.low is not None
            assert estimate.high is not None
            covered.append(estimate.low <= truth <= estimate.high)
    assert np.mean(covered) >= 0.91


def test_without_kl_at_every_point_there_is_no_equal_kl() -> None:
    path = walk(np.random.default_rng(0), np.array([1.0, 0.5, 0.2]), np.array([1.0, 0.8, 0.5]), 50)
    assert rates_at_kl([path], 0.3) == (None, None)
    assert rates_at_kl([replace(path, kl=np.array([0.0, 0.1, 0.2]))], 0.3) == (None, None)
