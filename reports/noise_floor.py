"""What measuring alone changes: the base against the same model in other batches and another order."""

from __future__ import annotations

from typing import Any

from ogp.results import RunResult
from reports.measures import mean_capability
from reports.runs import METRIC_OF, SIDES, common
from reports.studies import Arm, Study

BATCHING = ("batch_size", "order_seed")  # settings of the evaluation that change its rounding and nothing else
CAPABILITY = "capability"


def reruns(study: Study) -> list[Arm]:
    """Reference rows that are the base again: all its settings but for how its prompts were batched."""
    if not study.base.results:
        return []
    return [
        arm
        for arm in study.arms
        if arm.reference
        and arm.results
        and _batching(arm) != _batching(study.base)
        and _measured(arm) == _measured(study.base)
    ]


def noise_floor(study: Study) -> dict[str, float]:
    """The largest absolute difference of a re-run from the base, by metric; `capability` is the mean over tasks.

    Empty where a study has no re-run of its base. A smaller difference between two arms may be rounding.
    """
    found: dict[str, float] = {}
    for arm in reruns(study):
        before, after = _figures(study.base.results[0]), _figures(arm.results[0])
        for name in before.keys() & after.keys():
            found[name] = max(found.get(name, 0.0), abs(after[name] - before[name]))
    return dict(sorted(found.items()))


def flipped_verdicts(study: Study) -> dict[str, tuple[int, int]]:
    """By refusal rate: the most prompts on which a re-run and the base disagree, and how many were asked."""
    found: dict[str, tuple[int, int]] = {}
    for arm in reruns(study):
        for side in SIDES:
            scores = [row.done[0].final_verdicts(side) for row in (study.base, arm)]
            known = [one for one in scores if one is not None]
            if len(known) == 2:
                values = common(known)
                count = int((values[0] != values[1]).sum())
                found[METRIC_OF[side]] = max(found.get(METRIC_OF[side], (0, 0)), (count, values.shape[1]))
    return found


def _figures(result: RunResult) -> dict[str, float]:
    average = mean_capability(result)
    mean = {} if average is None else {CAPABILITY: average[0]}
    return {name: metric.value for name, metric in result.final().metrics.items()} | mean


def _batching(arm: Arm) -> list[Any]:
    return [arm.section("evaluation").get(key) for key in BATCHING]


def _measured(arm: Arm) -> list[Any]:
    """What was measured, and on what: training settings of an untrained model say nothing."""
    settings = {key: value for key, value in arm.section("evaluation").items() if key not in BATCHING}
    return [arm.section("model"), settings, arm.section("training").get("steps")]
