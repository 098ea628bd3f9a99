"""Arms read at the same over-refusal, or the same drift: otherwise a lower learning rate looks like a better method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ogp.results import Side
from reports.runs import Run, Scores
from reports.statistics import Array, Estimate
from reports.studies import Arm, Study
from reports.trade_off import Path, kept_at_over_refusal, rates_at_kl, trade_off_area

LEVELS = (0.5, 0.25, 0.1)
CURVE_KL = "curve_kl"  # KL from base on the few prompts that every evaluation of a run shares
FEWEST_POINTS = 3  # a straight line between start and end is no curve


@dataclass(frozen=True, slots=True)
class EqualStrength:
    """One arm: refusal of harmful prompts at each of `LEVELS`, area under its points, and two rates at equal KL."""

    kept: tuple[Estimate | None, ...]
    area: Estimate
    at_kl: tuple[Estimate | None, Estimate | None]  # over-refusal, refusal of harmful prompts


def equal_strength(arm: Arm, study: Study, kl: float | None) -> EqualStrength | None:
    """The arm's values at equal strength; None without saved verdicts of at least three evaluation points."""
    paths = [path for run in arm.done if (path := _path(run, study.base)) is not None]
    if arm.reference or not paths or len(paths) < len(arm.done):
        return None
    area = trade_off_area(paths)
    if area is None:
        return None
    at_kl = (None, None) if kl is None else rates_at_kl(paths, kl)
    return EqualStrength(tuple(kept_at_over_refusal(paths, level) for level in LEVELS), area, at_kl)


def shared_kl(study: Study) -> float | None:
    """A KL from the base that three of four arms reach: the lower quartile of the arms' final values."""
    final = [
        float(np.mean([result.final().metrics[CURVE_KL].value for result in arm.results]))
        for arm in study.trained
        if arm.results and all(CURVE_KL in result.final().metrics for result in arm.results)
    ]
    return float(np.quantile(final, 0.25)) if final else None


def _path(run: Run, base: Arm) -> Path | None:
    """A run's verdicts at its evaluation points, the base in front where the run has not evaluated step 0."""
    points = sorted({(step, final) for _, step, final in run.verdicts})
    sides: dict[Side, list[Scores]] = {"look_alikes": [], "harmful": []}
    for side, found in sides.items():
        if base.done and not any(step == 0 for step, _ in points):
            start = base.done[0].final_verdicts(side)
            found += [] if start is None else [start]
        found += [run.verdicts[side, *point] for point in points if (side, *point) in run.verdicts]
    over, kept = sides["look_alikes"], sides["harmful"]
    if len(over) != len(kept) or len(over) < FEWEST_POINTS:
        return None
    kl = _kl(run, len(over))
    return Path(_matrix(over), _matrix(kept), kl)


def _kl(run: Run, points: int) -> Array | None:
    """KL from the base at the path's points; the base in front, where it was put there, is at 0."""
    assert run.result is not None
    found = [e.metrics[CURVE_KL].value for e in run.result.evaluations if CURVE_KL in e.metrics]
    if len(found) not in (points - 1, points):
        return None
    return np.array([0.0] * (points - len(found)) + found)


def _matrix(points: Sequence[Scores]) -> Array:
    """(points, prompts asked at any of them), NaN where a prompt was not asked."""
    ids = {name: column for column, name in enumerate(sorted({name for point in points for name in point.ids}))}
    found = np.full((len(points), len(ids)), np.nan)
    for row, point in enumerate(points):
        found[row, [ids[name] for name in point.ids]] = point.values
    return found
