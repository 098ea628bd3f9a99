"""Is a growth curve straight? seconds = a + b size + c size^2, and the last term's share of the largest step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measure import DRAWS

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Quadratic:
    """The fitted terms (seconds, per size, per size squared) and c * size^2 over the fitted time of the largest size.

    `low` and `high` bound that share: 95 % percentile bootstrap over rounds.
    """

    a: float
    b: float
    c: float
    share: float
    low: float
    high: float

    @property
    def linear(self) -> bool:
        """The quadratic term cannot be told from none."""
        return self.low <= 0 <= self.high


def quadratic_fit(sizes: Sequence[float], seconds: Sequence[Sequence[float]]) -> Quadratic:
    """Least squares of relative errors on the medians over rounds.

    Args:
        sizes: at least 4.
        seconds: [sizes][rounds]; a round's times at all sizes belong together and are drawn together.
    """
    x, samples = np.asarray(sizes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if len(x) < 4:
        raise ValueError(f"`sizes` has {len(x)} values: three terms and their noise need at least 4")
    largest = float(x.max())
    a, b, c = _terms(x / largest, np.median(samples, axis=1))
    drawn = np.random.default_rng(0).integers(samples.shape[1], size=(DRAWS, samples.shape[1]))
    shares = [_share(_terms(x / largest, np.median(samples[:, rounds], axis=1))) for rounds in drawn]
    low, high = (float(end) for end in np.quantile(shares, [0.025, 0.975]))
    return Quadratic(a, b / largest, c / largest**2, _share((a, b, c)), low, high)


def _terms(x: Array, times: Array) -> tuple[float, float, float]:
    design = np.stack([np.ones_like(x), x, x**2], axis=1) / times[:, None]
    a, b, c = np.linalg.lstsq(design, np.ones_like(x), rcond=None)[0].tolist()
    return a, b, c


def _share(terms: tuple[float, float, float]) -> float:
    return terms[2] / sum(terms)
