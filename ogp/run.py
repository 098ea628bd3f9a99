"""One experiment from settings to result: the table of contents of the library."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ogp.config import EvaluationSettings, ModelSettings, RunConfig
from ogp.config_files import to_yaml
from ogp.data import Pair, load_prompts
from ogp.embedded import ModelError, cache_dir, original_model
from ogp.evaluation import measure
from ogp.evaluation.drift import BaseReplies, base_replies
from ogp.evaluation.judges import find_judge
from ogp.evaluation.select import look
from ogp.identity import commit, library_versions, model_key, run_id
from ogp.models import load_model
from ogp.over_refusing import make_over_refusing
from ogp.pairs import load_pairs, side_prompts
from ogp.results import (
    COMPLETIONS,
    CONFIG,
    ITEMS,
    RESULT,
    SELECT,
    SELECT_COMPLETIONS,
    Evaluation,
    RunResult,
    write_atomic,
    write_lines,
    write_record,
)
from ogp.runs.progress import Progress
from ogp.step.products import PRODUCTS
from ogp.training.checkpoints import CHECKPOINTS
from ogp.training.distributed import choose_device, refuse_together, world_size
from ogp.training.early_stopping import BEST
from ogp.training.stages import train
from ogp.training.trainer import Diverged
from ogp.training.training_data import training_examples
from ogp.training.training_record import TrainingRecord


def prepare(config: RunConfig) -> None:
    """Make, once, what runs share: the embedded models that `config` starts from or measures against."""
    if config.model.source == "embedded:original":
        original_model()
    if "embedded:over-refusing" in (config.model.source, config.evaluation.base):
        make_over_refusing()


def run_experiment(config: RunConfig, folder: Path, *, halved: bool = False) -> RunResult:
    """Train, evaluate and record one run in `folder`; `result.json` is written last and marks the run as finished.

    `halved` executes it with half the examples per forward pass; the run stays the same one, and its record says so.

    Errors: `ModelError`, `DataError`, `ConfigError` for what the user has to mend; a diverged run is a result
    with `status: diverged`, not an error.
    """
    started = time.monotonic()
    planned, config = config, config.halved() if halved else config
    if config.training.steps:
        refuse_together(config.training, config.evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    steps = config.training.all_steps
    progress = Progress(folder, steps)
    find_judge(config.evaluation.judge)  # a misspelt judge is found before training, not after
    write_atomic(folder / CONFIG, to_yaml(planned))
    choose_device()
    torch.manual_seed(config.seed)
    model, tokenizer = _living(config.model, progress)
    examples = training_examples(config, model, tokenizer) if config.training.steps else []
    progress.at("base replies")
    base = _base_replies(config, model, tokenizer, progress)

    record = TrainingRecord(config, folder, progress, tokenizer, base)
    status, message = "done", ""
    try:
        if examples:
            trained = train(config, model, tokenizer, examples, record, folder, progress)
            if trained is not model:  # it was sharded, and this is a whole one
                model = _beating(trained, progress)
        progress.at("evaluating", steps)
        measured = _final(config, model, tokenizer, base, progress)
        _look_at_select(config, model, tokenizer, progress, folder)
    except (Diverged, FloatingPointError) as error:
        status, message, measured = "diverged", str(error), measure.Measured()

    completions = [
        *record.completions,
        *({"step": steps, "final": True, **r} for r in measured.completions),
    ]
    write_lines(folder / COMPLETIONS, completions)
    write_lines(folder / ITEMS, measured.items)
    final = Evaluation(step=steps, split=config.evaluation.split, final=True, metrics=measured.metrics)
    result = RunResult(
        run_id=run_id(planned),
        study=config.study,
        arm=config.arm,
        seed=config.seed,
        status=status,
        message=message,
        config=planned.model_dump(mode="json"),
        judge=find_judge(config.evaluation.judge).label,
        decoding=f"greedy, at most {config.evaluation.max_new_tokens} new tokens",
        evaluations=(*record.evaluations, final) if measured.metrics else tuple(record.evaluations),
        training=record.summary(),
        peak_memory_bytes=_peak_memory(),
        seconds=time.monotonic() - started,
        halved=halved,
        environment=environment(),
    )
    write_record(folder / RESULT, result)
    for unneeded in (CHECKPOINTS, BEST):  # several times the model's size, and of no more use
        shutil.rmtree(folder / unneeded, ignore_errors=True)
    record.finish(measured.metrics)
    return result


def _living(settings: ModelSettings, progress: Progress) -> tuple[Any, Any]:
    """The model, each of whose forward passes is a sign of life, and its tokenizer."""
    model, tokenizer = load_model(settings)
    if not _finite(model):
        raise ModelError(f"`model.source`: {settings.source}: it holds weights that are not finite: get it again")
    return _beating(model, progress), tokenizer


def _beating(model: Any, progress: Progress) -> Any:
    model.register_forward_pre_hook(lambda *_: progress.beat())
    return model


def _base_replies(config: RunConfig, model: Any, tokenizer: Any, progress: Progress) -> BaseReplies | None:
    """The replies drift is measured on: of the starting model, or of `evaluation.base` where that is another one."""
    settings = config.evaluation
    prompts = side_prompts(settings, "ordinary", settings.split, settings.drift_prompts)
    if not prompts:
        return None
    source = settings.base or config.model.source
    if source != config.model.source:
        model, tokenizer = _living(config.model.model_copy(update={"source": source, "lora": None}), progress)
    return base_replies(
        model,
        tokenizer,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        cache=cache_dir() / "base-replies",
        model_key=f"{model_key(source)} {config.model.dtype} {torch.get_num_threads()} threads, {PRODUCTS}",
    )


def _final(
    config: RunConfig, model: Any, tokenizer: Any, base: BaseReplies | None, progress: Progress
) -> measure.Measured:
    """The full evaluation: both refusal sides, ordinary prompts, drift, validation loss, capabilities."""
    if not _finite(model):
        raise FloatingPointError("non-finite weights after training")  # they would score 1.0 where the gold is option 0
    settings = config.evaluation
    limits = {"look_alikes": settings.look_alikes, "harmful": settings.harmful, "ordinary": settings.ordinary}
    rows = measure.complete_sides(
        model, tokenizer, settings, split=settings.split, limits=limits, heartbeat=progress.beat
    )
    progress.at("capabilities")
    metrics: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    if settings.tasks:
        metrics, items = measure.capability_metrics(model, tokenizer, settings)
    progress.at("drift")
    if base is not None:
        metrics |= measure.drift_metrics(model, base, settings)
    held_out = _held_out(settings)
    if held_out:
        metrics["validation_loss"] = measure.validation_loss(
            model,
            tokenizer,
            held_out,
            batch_size=settings.batch_size,
            max_tokens=config.data.max_tokens,
            order_seed=settings.order_seed,
        )
    judged = measure.judge_completions(rows, settings.judge)
    return measure.Measured(measure.refusal_metrics(judged) | metrics, judged, items)


def _look_at_select(config: RunConfig, model: Any, tokenizer: Any, progress: Progress, folder: Path) -> None:
    """Leave `select.json` for whoever chooses among arms; it is no part of the result, which is what is reported."""
    settings = config.evaluation
    if settings.select_prompts:
        found, rows = look(model, tokenizer, settings, prompts=settings.select_prompts, heartbeat=progress.beat)
        write_lines(folder / SELECT_COMPLETIONS, rows)
        write_atomic(folder / SELECT, json.dumps({"judge": find_judge(settings.judge).label} | found, indent=1))


def _held_out(settings: EvaluationSettings) -> list[Pair]:
    """Pairs for the validation loss: the project's select families, which nothing is reported on."""
    if settings.validation_from is not None:
        return load_pairs(settings.validation_from)[: settings.validation_pairs]
    rows = load_prompts("look_alikes", "select", settings.validation_pairs)
    return [Pair(row.prompt, row.answer or "") for row in rows]


def _finite(model: torch.nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def environment() -> dict[str, str]:
    """What a figure needs beside it: versions, threads, device, commit. No host name, no path."""
    return {
        "python": platform.python_version(),
        **library_versions(),
        "threads": str(torch.get_num_threads()),
        "products": PRODUCTS,
        **({"processes": str(world_size())} if world_size() > 1 else {}),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})",
        "commit": commit(),
    }


def _peak_memory() -> int:
    """Largest resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
