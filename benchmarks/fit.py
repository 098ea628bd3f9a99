"""Is a growth curve straight? seconds = a + b size + c size^2, and the last term's share of the largest step."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Quadratic:
    """The terms (seconds, per size, per size squared), means over processes.

    `shares`: process by process, c * size^2 over the fitted time of the largest size.
    """

    a: float
    b: float
    c: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Mean:
    """A mean over processes and its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float

    @property
    def nothing(self) -> bool:
        """It cannot be told from zero."""
        return self.low <= 0 <= self.high


def quadratic_fit(sizes: Sequence[float], seconds: Sequence[Sequence[float]], processes: int) -> Quadratic:
    """Least squares of relative errors, on each process's medians over its own rounds.

    Args:
        sizes: at least 4.
        seconds: [sizes][rounds], process after process, each with as many rounds.
    """
    x, samples = np.asarray(sizes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if len(x) < 4:
        raise ValueError(f"`sizes` has {len(x)} values: three terms and their noise need at least 4")
    largest = float(x.max())
    medians = np.median(samples.reshape(len(x), processes, -1), axis=2)
    terms = [_terms(x / largest, of_process) for of_process in medians.T]
    a, b, c = (statistics.fmean(each) for each in zip(*terms, strict=True))
    return Quadratic(a, b / largest, c / largest**2, tuple(each[2] / sum(each) for each in terms))


def mean_interval(values: Sequence[float]) -> Mean:
    """Of at least 2 processes.

    Rounds of one process share its place in memory and caches, and with it an error that more rounds do not average
    out: so processes are counted, not rounds.
    """
    if len(values) < 2:
        raise ValueError(f"`values` has {len(values)}: how far processes differ is seen from 2 on")
    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Mean(mean, mean - reach, mean + reach)


def _terms(x: Array, times: Array) -> tuple[float, float, float]:
    design = np.stack([np.ones_like(x), x, x**2], axis=1) / times[:, None]
    a, b, c = np.linalg.lstsq(design, np.ones_like(x), rcond=None)[0].tolist()
    return a, b, c
