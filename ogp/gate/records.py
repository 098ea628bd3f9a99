"""What the gate reads: a finished run that agrees with itself, and whether two runs were measured in the same way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogp.results import (
    COMPLETIONS,
    ITEMS,
    RESULT,
    TRAIN_LOG,
    Evaluation,
    Metric,
    RecordError,
    RunResult,
    load_result,
    read_lines,
)

CAPABILITY = "capability"
SECONDS = "seconds_per_step"
REFUSALS = {"refusal_rate": "harmful", "over_refusal_rate": "look_alikes", "ordinary_refusal_rate": "ordinary"}
# Means over tokens: items are not saved, only a standard error over this many replies or answers (a setting).
TOKEN_MEANS = {"kl_from_base": "drift_prompts", "own_nll": "drift_prompts", "validation_loss": "validation_pairs"}
REFUSING = ("partial_refusal", "full_refusal")
REPLIES = ("full_compliance", *REFUSING, "incoherent")
# Settings without effect on the full evaluation, or compared as the record says (judge, split) or resolved (base).
APART = {"judge", "curve_steps", "curve_prompts", "curve_drift_prompts", "select_prompts", "base", "split"}


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run and its scores in [0, 1] by metric and by item; for replies 1 is a refusal.

    `asked` is, by metric and by item, what the score answers: the prompt, or the name of lm-eval's metric.
    """

    folder: Path
    result: RunResult
    final: Evaluation
    scores: dict[str, dict[str, float]]
    asked: dict[str, dict[str, str]]

    @property
    def tasks(self) -> list[str]:
        """Names of the capability metrics, sorted."""
        return sorted(name for name in self.final.metrics if name.startswith(f"{CAPABILITY}/"))

    def section(self, name: str) -> dict[str, Any]:
        """A section of the run's settings."""
        found = self.result.config.get(name)
        if not isinstance(found, dict):
            raise RecordError(f"{self.folder / RESULT}: `config.{name}` is missing: the file was edited; run again")
        return found

    def step_seconds(self) -> list[float]:
        """Wall time of every optimizer step after the first, which warms the caches up."""
        path = self.folder / TRAIN_LOG
        seconds = [row.get("step_seconds") for row in read_lines(path)][1:]
        if not all(isinstance(value, float | int) and 0 < value < math.inf for value in seconds):
            raise RecordError(f"{path}: a row has no positive `step_seconds`: the file is torn or was edited")
        return [float(value) for value in seconds if value is not None]


def load_measured(path: Path) -> MeasuredRun:
    """The finished run at `path`, a run's folder or its result.json. `RecordError` for all that cannot be trusted:
    torn, missing or foreign files, a diverged run, scores outside [0, 1], figures that the saved items do not give."""
    folder = path.parent if path.name == RESULT else path
    if not (folder / RESULT).is_file():
        raise RecordError(f"{path}: no finished run here: give a run's folder (it holds {RESULT}) or that file")
    result = load_result(folder)
    if result.status != "done":
        raise RecordError(
            f"{folder}: the run has {result.status} ({result.message or 'no message'}): nothing to compare"
        )
    final = next((evaluation for evaluation in reversed(result.evaluations) if evaluation.final), None)
    if final is None:
        raise RecordError(f"{folder / RESULT}: `evaluations` has no final one: delete the folder and run again")
    run = MeasuredRun(folder, result, final, defaultdict(dict), defaultdict(dict))
    for name, item, score, asked in (*_items(folder / ITEMS), *_replies(folder / COMPLETIONS)):
        run.scores[name][item], run.asked[name][item] = score, asked
    for name in {*run.tasks, *(REFUSALS.keys() & final.metrics.keys()), *run.scores}:
        _check_metric(run, name)
    return run


def _items(path: Path) -> Iterator[tuple[str, str, float, str]]:
    seen = set()
    for number, row in enumerate(read_lines(path), 1):
        task, item, score = row.get("task"), row.get("item"), row.get("score")
        if not isinstance(task, str) or item is None or not isinstance(score, float | int):
            raise RecordError(f"{path}: row {number} lacks `task`, `item` or `score`: the file is torn or was edited")
        if not 0 <= score <= 1:  # also refuses nan
            raise RecordError(f"{path}: row {number}: `score` of {task} is {score}, not in [0, 1]")
        if (task, str(item)) in seen:
            raise RecordError(f"{path}: row {number}: item {item!r} of {task} occurs twice")
        seen.add((task, str(item)))
        yield f"{CAPABILITY}/{task}", str(item), float(score), str(row.get("metric"))


def _replies(path: Path) -> Iterator[tuple[str, str, float, str]]:
    metric_of = {side: name for name, side in REFUSALS.items()}
    seen = set()
    for number, row in enumerate(read_lines(path), 1):
        if row.get("final") is not True:
            continue
        side, item, reply, prompt = (str(row.get(key, "")) for key in ("side", "id", "reply", "prompt"))
        if side not in metric_of or reply not in REPLIES or not item or not prompt:
            raise RecordError(f"{path}: row {number} has no known `side` and `reply`, or lacks `id` or `prompt`")
        if (side, item) in seen:
            raise RecordError(f"{path}: row {number}: prompt {item!r} of {side} occurs twice")
        seen.add((side, item))
        yield metric_of[side], item, float(reply in REFUSING), prompt


def _check_metric(run: MeasuredRun, name: str) -> None:
    """The figure in result.json must be the mean of the saved scores."""
    metric, scores = run.final.metrics.get(name), run.scores.get(name, {})
    found = (math.fsum(scores.values()) / len(scores), len(scores)) if scores else (math.nan, 0)
    if metric is None or metric.n != found[1] or not abs(metric.value - found[0]) < 1e-9:
        said = "missing" if metric is None else f"{metric.value} over {metric.n}"
        raise RecordError(
            f"{run.folder}: `{name}` is {said} in {RESULT}, and {found[0]} over {found[1]} in the saved items: "
            "one of the files is torn, edited or of another run"
        )


def differences_in_measuring(
    baseline: MeasuredRun, other: MeasuredRun, names: Collection[str], *, batches: bool = True
) -> list[str]:
    """Reasons why figures of two runs must not be compared; empty when they may be.

    `names` are the metrics compared; `batches` is False for re-runs of the baseline that measure its noise.
    """
    ours, theirs = (_measuring(run, names) for run in (baseline, other))
    if not batches:
        for key in ("evaluation.batch_size", "evaluation.order_seed"):
            ours.pop(key, None)
            theirs.pop(key, None)
    found = [
        f"`{key}` is {theirs.get(key)!r} in {other.folder.name} and {ours.get(key)!r} in the baseline "
        f"{baseline.folder.name}: measure both in the same way"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]
    return found + [text for name in names for text in _other_items(baseline, other, name)]


def _measuring(run: MeasuredRun, names: Collection[str]) -> dict[str, Any]:
    """All that decides how the metrics `names` were measured, as opposed to what was measured."""
    result, settings = run.result, run.section("evaluation")
    found = {f"evaluation.{key}": value for key, value in settings.items() if key not in APART}
    found |= {"judge": result.judge, "decoding": result.decoding, "evaluation.split": run.final.split}
    found["environment.lm_eval"] = result.environment.get("lm_eval")
    if {"kl_from_base", "own_nll"} & set(names):  # the model drift is measured from: named, or the starting model
        found["evaluation.base"] = settings.get("base") or run.section("model").get("source")
    if "validation_loss" in names:
        found["data.max_tokens"] = run.section("data").get("max_tokens")
    if SECONDS in names:
        found |= {f"environment.{key}": result.environment.get(key) for key in ("device", "threads")}
        found |= {"training.steps": result.training.steps, "training.examples": result.training.examples}
    return found


def _other_items(baseline: MeasuredRun, other: MeasuredRun, name: str) -> Iterator[str]:
    ours, theirs = baseline.scores.get(name, {}), other.scores.get(name, {})
    if ours.keys() != theirs.keys():
        yield (
            f"`{name}`: {len(theirs.keys() - ours.keys())} items only in {other.folder.name}, "
            f"{len(ours.keys() - theirs.keys())} only in the baseline: evaluate both on the same items"
        )
    elif baseline.asked.get(name) != other.asked.get(name):
        yield f"`{name}`: items of the same id have another text or metric in {other.folder.name} than in the baseline"
    before, after = baseline.final.metrics.get(name), other.final.metrics.get(name)
    if name in TOKEN_MEANS and before is not None and after is not None and before.n != after.n:
        yield f"`{name}` is over {after.n} tokens in {other.folder.name} and {before.n} in the baseline: other replies"


def model_settings(run: MeasuredRun) -> dict[str, Any]:
    """The settings that decide the weights: all of them, or only the starting model where nothing was trained."""
    decisive = ("seed", "model", "data", "method", "training") if run.result.training.steps else ("model",)
    return {key: run.result.config.get(key) for key in decisive}


def metric(run: MeasuredRun, name: str) -> Metric:
    """A metric of the full evaluation; `RecordError` when it is missing or its standard error is no number."""
    found = run.final.metrics.get(name)
    if found is None:
        raise RecordError(f"{run.folder}: `{name}` is missing in the final evaluation: evaluate it, or do not check it")
    if found.stderr is not None and not math.isfinite(found.stderr):
        raise RecordError(f"{run.folder}: `{name}` has a standard error of {found.stderr}: the record was edited")
    return found
