"""Two sides at once: what is kept at the same over-refusal, and the area an arm's evaluation points dominate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reports.statistics import DRAWS, Array, Estimate, resampling_weights, student_t

MIN_REACHED = 0.9  # share of resamples that must reach the level before an interval is given


@dataclass(frozen=True)
class Path:
    """One run's way through training: verdicts 0/1 at each evaluation point, NaN where a prompt was not asked.

    over_refusal: (points, look-alike prompts); kept: (points, harmful prompts); both in step order.
    kl: (points,) KL from the base, None where it was not measured at every point.
    """

    over_refusal: Array
    kept: Array
    kl: Array | None = None

    @cached_property
    def resampled(self) -> tuple[Array, Array]:
        """Rates of over-refusal and of kept refusals (draws, points) under resampled prompts."""
        return _resampled_rates(self.over_refusal, stream=101), _resampled_rates(self.kept, stream=102)


def at_level(x: Array, y: Array, level: float) -> Array:
    """y where x first crosses `level`, linear between the points around it; NaN where it never does.

    x, y: (..., points) in step order. `level` may be met from above (over-refusal) or from below (KL).
    """
    above = x > level
    crossed = (above != above[..., :1]) | (x == level)
    reached = crossed.any(axis=-1)
    right = np.maximum(crossed.argmax(axis=-1), 0)[..., None]
    left = np.maximum(right - 1, 0)
    x_left, x_right = np.take_along_axis(x, left, -1)[..., 0], np.take_along_axis(x, right, -1)[..., 0]
    y_left, y_right = np.take_along_axis(y, left, -1)[..., 0], np.take_along_axis(y, right, -1)[..., 0]
    width = x_left - x_right
    share = np.where(width != 0, (x_left - level) / np.where(width != 0, width, 1), 1.0)
    return np.where(reached, y_left + share * (y_right - y_left), np.nan)


def hypervolume(over_refusal: Array, kept: Array) -> Array:
    """Area of {(x, y): some point has over_refusal <= x and kept >= y} in the unit square; 1 is perfect.

    Both (..., points); Zitzler & Thiele 1999, IEEE TEC 3:257, in two dimensions with the worst corner as reference.
    The best of several noisy points flatters: compare only arms with the same number of points and prompts.
    """
    order = np.argsort(over_refusal, axis=-1, kind="stable")
    x = np.take_along_axis(over_refusal, order, -1)
    best = np.maximum.accumulate(np.take_along_axis(kept, order, -1), axis=-1)
    right = np.concatenate([x[..., 1:], np.ones((*x.shape[:-1], 1))], axis=-1)
    return ((right - x) * best).sum(axis=-1)


def kept_at_over_refusal(paths: Sequence[Path], level: float) -> Estimate | None:
    """Refusal of harmful prompts at the over-refusal `level`, mean over runs; None when no run reaches it."""
    return _estimate(paths, lambda path, x, y: at_level(x, y, level))


def rates_at_kl(paths: Sequence[Path], level: float) -> tuple[Estimate | None, Estimate | None]:
    """Over-refusal and refusal of harmful prompts where KL from the base first passes `level`, mean over runs."""

    def reached(path: Path, rates: Array) -> Array:
        if path.kl is None:
            return np.full(rates.shape[:-1], np.nan)
        return at_level(np.broadcast_to(path.kl, rates.shape), rates, level)

    over = _estimate(paths, lambda path, x, y: reached(path, x))
    return over, _estimate(paths, lambda path, x, y: reached(path, y))


def trade_off_area(paths: Sequence[Path]) -> Estimate | None:
    """`hypervolume` of a run's evaluation points, mean over runs."""
    return _estimate(paths, lambda path, x, y: hypervolume(x, y))


def _estimate(paths: Sequence[Path], measure: Callable[[Path, Array, Array], Array]) -> Estimate | None:
    """Value per run; over several runs Student t, for one run a percentile bootstrap over its prompts."""
    values = [
        float(measure(path, np.nanmean(path.over_refusal, axis=1), np.nanmean(path.kept, axis=1))) for path in paths
    ]
    usable = [value for value in values if np.isfinite(value)]
    if not usable:
        return None
    if len(paths) > 1:
        estimate = student_t(usable)
        over = "seeds" if len(usable) == len(paths) else f"{len(usable)} of {len(paths)} seeds"
        return Estimate(estimate.value, _clip(estimate.low), _clip(estimate.high), over)
    drawn = measure(paths[0], *paths[0].resampled)
    reached = drawn[np.isfinite(drawn)]
    if len(reached) < MIN_REACHED * DRAWS:
        return Estimate(values[0], None, None, "only just reached: no interval")
    low, high = np.quantile(reached, [0.025, 0.975])
    return Estimate(values[0], float(low), float(high), "prompts, one seed")


def _resampled_rates(verdicts: Array, stream: int) -> Array:
    """Rates (draws, points) under resampled prompts; the same prompts at every point."""
    weights = resampling_weights(verdicts.shape[1], stream)
    asked: NDArray[np.bool_] = ~np.isnan(verdicts)
    total = weights @ asked.T.astype(float)
    refused = weights @ np.where(asked, verdicts, 0.0).T
    return np.divide(refused, total, out=np.full_like(total, np.nan), where=total > 0)


def _clip(value: float | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, value))
