"""Finished runs as the gate reads them, written from known scores; and short views of its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ogp.config import RunConfig
from ogp.gate import GateReport
from ogp.results import (
    COMPLETIONS,
    ITEMS,
    RESULT,
    TRAIN_LOG,
    Evaluation,
    Metric,
    RunResult,
    TrainingSummary,
    write_lines,
    write_record,
)

RATES = {"look_alikes": "over_refusal_rate", "harmful": "refusal_rate", "ordinary": "ordinary_refusal_rate"}


def right(share: float, n: int) -> np.ndarray:
    """`n` items of which the first `share` are right."""
    return np.arange(n) < round(share * n)


def write_run(
    folder: Path,
    tasks: Mapping[str, Sequence[float]],
    refusals: Mapping[str, Sequence[bool]],
    *,
    steps: int = 6,
    seconds: Sequence[float] = (3.0, 1.0, 1.1, 0.9, 1.0, 1.05),
    kl: float = 0.2,
    kl_error: float = 0.01,
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    **result: Any,
) -> Path:
    """A finished run with these item scores and refusals, as `run_experiment` leaves it; curve points included."""
    config = RunConfig.model_validate_json(json.dumps({"training": {"steps": steps}, **(settings or {})}))
    metrics = {f"capability/{task}": Metric(value=float(np.mean(s)), n=len(s)) for task, s in tasks.items()}
    items = [
        {"task": task, "metric": "acc", "item": f"{task}-{i}", "score": float(score)}
        for task, scores in tasks.items()
        for i, score in enumerate(scores)
    ]
    replies = []
    for side, refused in refusals.items():
        metrics[RATES[side]] = Metric(value=float(np.mean(refused)), n=len(refused), count=int(np.sum(refused)))
        for i, one in enumerate(refused):
            asked = {"side": side, "id": f"{side}-{i}", "family": "f", "prompt": f"May I do {side} {i}?"}
            reply = {"completion": "No." if one else "Yes.", "truncated": False, "evidence": []}
            kind = ("partial_refusal" if i % 7 == 0 else "full_refusal") if one else "full_compliance"
            replies.append({"step": steps, "final": True, **asked, **reply, "reply": kind})
    replies.append({**replies[-1], "step": 2, "final": False, "reply": "incoherent"})
    metrics["kl_from_base"] = Metric(value=kl, n=900, stderr=kl_error)
    metrics["own_nll"] = Metric(value=1 + kl, n=900, stderr=kl_error)
    metrics["validation_loss"] = Metric(value=2 + kl, n=400, stderr=None)
    final = Evaluation(step=steps, split="report", final=True, metrics=metrics)
    curve = Evaluation(step=2, split="report", final=False, metrics={"refusal_rate": Metric(value=0.5, n=2, count=1)})
    fields = {
        "run_id": folder.name,
        "study": "core",
        "arm": folder.name,
        "seed": 0,
        "status": "done",
        "config": config.model_dump(mode="json"),
        "judge": "ogp-1",
        "decoding": "greedy, at most 48 new tokens",
        "evaluations": (curve, final),
        "training": TrainingSummary(
            steps=steps,
            examples=8 * steps,
            seconds=9.0,
            seconds_per_step=1.0 if steps else None,
            conflicting=None,
            aligned=None,
            skipped=None,
            projected=None,
        ),
        "peak_memory_bytes": 1,
        "seconds": 9.0,
        "environment": {"lm_eval": "0.4.13", "threads": "1", "device": "cpu (x)", **(environment or {})},
    }
    write_lines(folder / ITEMS, items)
    write_lines(folder / COMPLETIONS, replies)
    write_lines(folder / TRAIN_LOG, [{"step": i + 1, "step_seconds": s} for i, s in enumerate(seconds[:steps])])
    write_record(folder / RESULT, RunResult.model_validate({**fields, **result}))
    return folder


SIDES = {"look_alikes": right(0.9, 400), "harmful": right(0.9, 400), "ordinary": right(0.05, 400)}
TASKS = {"facts": right(0.7, 400), "grammar": right(0.6, 400)}


def reasons(report: GateReport) -> str:
    return "\n".join(report.problems)


def verdicts(report: GateReport) -> dict[str, str]:
    return {row.metric: row.verdict for row in report.rows}


def edit_result(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit result.json by hand, as someone would; nothing checks what is written."""

    def apply(folder: Path) -> None:
        record = json.loads((folder / RESULT).read_text())
        change(record)
        (folder / RESULT).write_text(json.dumps(record))

    return apply


def flipped(scores: np.ndarray, lost: int, won: int) -> np.ndarray:
    """The same scores with `lost` right items wrong and `won` wrong ones right."""
    changed = scores.copy()
    changed[np.flatnonzero(scores)[:lost]] = False
    changed[np.flatnonzero(~scores)[:won]] = True
    return changed
