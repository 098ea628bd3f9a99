"""What a row of a table says: an arm's rates, means and differences, each with what its interval rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ogp.results import RunResult, Side
from reports.runs import METRIC_OF, Run, Scores, common
from reports.statistics import (
    Array,
    Estimate,
    clustered_wilson,
    hierarchical_bootstrap,
    mcnemar,
    minimum_detectable_paired_effect,
    student_t,
    wilson,
)
from reports.studies import Arm, Study

CAPABILITY = "capability/"
MOST_ARMS = 24  # more cannot be told apart in a figure or compared by eye


@dataclass(frozen=True, slots=True)
class Rate:
    """Refusals `count` out of `n` verdicts (prompts x seeds), with a 95 % interval that knows that prompts repeat."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """count / n."""
        return self.count / self.n


@dataclass(frozen=True, slots=True)
class Difference:
    """Arm minus another arm on the same prompts; `detectable` is what could have been found in 8 of 10 repetitions."""

    estimate: Estimate
    n: int
    discordant: float
    detectable: float


def rate(arm: Arm, name: str) -> Rate | None:
    """Counts of `name` pooled over the arm's seeds; None when no run has counted it.

    The interval comes from the saved verdicts; without them (or for a rate that is no verdict) from the prompts of
    one seed, because further seeds answer the same prompts.
    """
    metrics = [result.final().metrics[name] for result in arm.results if name in result.final().metrics]
    counted = [(metric.count, metric.n) for metric in metrics if metric.count is not None]
    if not counted:
        return None
    count, n = sum(c for c, _ in counted), sum(m for _, m in counted)
    side = next((side for side, metric_name in METRIC_OF.items() if metric_name == name), None)
    verdicts = _stacked(arm.done, lambda run: run.final_verdicts(side)) if side else None
    if verdicts is not None and verdicts.size == n:
        low, high = clustered_wilson(verdicts > 0.5)
    else:
        one_seed = n / len(counted)
        low, high = wilson(count / n * one_seed, one_seed)
    return Rate(count, n, low, high)


def mean(arm: Arm, value: Callable[[RunResult], tuple[float, float | None] | None]) -> Estimate | None:
    """Mean over seeds of `value(result) -> (value, stderr)` with Student t; one seed: +- 1.96 stderr over items."""
    found = [pair for pair in map(value, arm.results) if pair is not None]
    if not found:
        return None
    if len(found) > 1:
        return student_t([value for value, _ in found])
    centre, stderr = found[0]
    if stderr is None:
        return Estimate(centre, None, None, "one seed: no interval")
    return Estimate(centre, centre - 1.96 * stderr, centre + 1.96 * stderr, "items, one seed")


def metric(name: str) -> Callable[[RunResult], tuple[float, float | None] | None]:
    """Reads one metric of the full evaluation."""

    def read(result: RunResult) -> tuple[float, float | None] | None:
        found = result.final().metrics.get(name)
        return None if found is None else (found.value, found.stderr)

    return read


def tasks(result: RunResult) -> list[str]:
    """Names of the capability tasks of the full evaluation, sorted."""
    return sorted(name.removeprefix(CAPABILITY) for name in result.final().metrics if name.startswith(CAPABILITY))


def centered(result: RunResult) -> tuple[float, float | None] | None:
    """Mean over tasks of (accuracy - chance) / (1 - chance), and its stderr over items; None in older results."""
    return _mean_over_tasks(result, "centered_accuracy/")


def mean_capability(result: RunResult) -> tuple[float, float | None] | None:
    """Mean over tasks, and its stderr over items: sqrt(sum stderr^2) / tasks."""
    return _mean_over_tasks(result, CAPABILITY)


def _mean_over_tasks(result: RunResult, prefix: str) -> tuple[float, float | None] | None:
    metrics = result.final().metrics
    found = [metrics[name] for name in sorted(metrics) if name.startswith(prefix)]
    if not found:
        return None
    errors = [one.stderr for one in found if one.stderr is not None]
    stderr = float(np.sqrt(np.sum(np.square(errors)))) / len(found) if len(errors) == len(found) else None
    return float(np.mean([one.value for one in found])), stderr


def pairs(arm: Arm, other: Arm) -> list[tuple[Run, Run]]:
    """Runs of both arms with the same seed. A reference row has no training seed: its run pairs with every seed."""
    of_seed = {run.planned.seed: run for run in other.done}
    if other.reference and other.done:
        return [(run, of_seed.get(run.planned.seed, other.done[0])) for run in arm.done]
    return [(run, of_seed[run.planned.seed]) for run in arm.done if run.planned.seed in of_seed]


def verdict_difference(arm: Arm, other: Arm, side: Side) -> Difference | None:
    """Refusal rate of `arm` minus that of `other` on the prompts both answered; one seed: exact McNemar test."""
    part = _paired(arm, other, lambda run: run.final_verdicts(side))
    if part is None:
        return None
    estimate = hierarchical_bootstrap([part])
    if len(part) == 1:
        p = mcnemar(int((part > 0).sum()), int((part < 0).sum()))
        estimate = Estimate(estimate.value, estimate.low, estimate.high, estimate.over, p)
    return _difference(estimate, [part])


def capability_difference(arm: Arm, other: Arm, only: str | None = None) -> Difference | None:
    """Mean capability of `arm` minus that of `other` over the items both answered, every task weighing the same."""
    if not arm.results or not other.results:
        return None
    names = sorted(set(tasks(arm.results[0])) & set(tasks(other.results[0]))) if only is None else [only]
    parts = [_paired(arm, other, _items_of(task)) for task in names]
    usable = [part for part in parts if part is not None]
    if not usable or len(usable) < len(parts) or len({len(part) for part in usable}) > 1:
        return None
    return _difference(hierarchical_bootstrap(usable, [1 / len(usable)] * len(usable)), usable)


def selectivity(arm: Arm, base: Arm) -> Estimate | None:
    """Drop in over-refusal minus drop in refusal of harmful prompts, both against the base; 1 is perfect."""
    over = _paired(arm, base, lambda run: run.final_verdicts("look_alikes"))
    harmful = _paired(arm, base, lambda run: run.final_verdicts("harmful"))
    if over is not None and harmful is not None and len(over) == len(harmful):
        return hierarchical_bootstrap([over, harmful], [-1.0, 1.0])
    rates = [rate(row, name) for name in ("over_refusal_rate", "refusal_rate") for row in (base, arm)]
    before_over, after_over, before_harmful, after_harmful = rates
    if not (before_over and after_over and before_harmful and after_harmful):
        return None
    value = (before_over.value - after_over.value) - (before_harmful.value - after_harmful.value)
    return Estimate(value, None, None, "no saved verdicts: no interval")


def few_arms(study: Study) -> Study:
    """The study with references, baseline and at most `MOST_ARMS` arms: those that tell the two sides apart best."""
    if len(study.trained) <= MOST_ARMS:
        return study

    def apart(arm: Arm) -> float:
        over, harmful = rate(arm, "over_refusal_rate"), rate(arm, "refusal_rate")
        return -2.0 if over is None or harmful is None else harmful.value - over.value

    best = {arm.name for arm in sorted(study.trained, key=apart, reverse=True)[:MOST_ARMS]}
    baseline = study.baseline.name
    return replace(study, arms=tuple(a for a in study.arms if a.reference or a.name in best or a.name == baseline))


def _difference(estimate: Estimate, parts: Sequence[Array]) -> Difference:
    n = sum(part.shape[1] for part in parts)  # other seeds are no other prompts
    discordant = float(np.mean(np.concatenate([part.ravel() for part in parts]) != 0))
    return Difference(estimate, n, discordant, minimum_detectable_paired_effect(n, discordant))


def _items_of(task: str) -> Callable[[Run], Scores | None]:
    return lambda run: run.items.get(task)


def _stacked(runs: Sequence[Run], read: Callable[[Run], Scores | None]) -> NDArray[np.float64] | None:
    """Scores (runs, ids) on the ids all runs have; None when a run has none or nothing is shared."""
    found = [scores for scores in map(read, runs) if scores is not None]
    if not runs or len(found) < len(runs):
        return None
    values = common(found)
    return values if values.size else None


def _paired(arm: Arm, other: Arm, read: Callable[[Run], Scores | None]) -> Array | None:
    """Differences (seeds, ids) on ids that all runs of both arms have."""
    matched = pairs(arm, other)
    both = _stacked([run for pair in matched for run in pair], read)
    return None if both is None else both[0::2] - both[1::2]
