"""lm-eval behind one function: what a model still knows, with a score for every item."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import logging
import math
import random
import statistics
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ogp.network import hub_reachable

if TYPE_CHECKING:  # lm_eval, torch and transformers are imported where they are used: seconds each
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASK_FOLDER = Path(__file__).parent / "tasks"
FEWSHOT_SEED = 1234  # for library tasks: simple_evaluate()'s own; evaluate() would draw other examples every time


@dataclass(frozen=True)
class TaskScore:
    """One task's score.

    `value` is the mean of `item_scores`, `stderr` its standard error sd / sqrt(n), with n - 1 in the sd (None for
    one item). `chance` is what guessing scores: 1 / choices, averaged over the items, and 0 for generated answers.
    `item_scores[i]` belongs to `item_ids[i]`, in the order of the data set, so that two models pair item by item.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    chance: float
    item_scores: list[float]
    item_ids: list[str]
    apply_chat_template: bool = False


def centered(value: float, chance: float) -> float:
    """(value - chance) / (1 - chance): 0 at chance level, 1 when everything is right, negative below chance."""
    return (value - chance) / (1 - chance)


def local_tasks() -> list[str]:
    """Names of the tasks that come with the package and need no network."""
    return sorted(path.stem for path in TASK_FOLDER.glob("*.yaml"))


def evaluate_capability(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    batch_size: int = 16,
    limit: int | None = None,
    apply_chat_template: bool = False,
    max_length: int | None = None,
) -> list[TaskScore]:
    """Score a model on local tasks (`local_tasks()`) and on tasks or groups of lm-eval's own library.

    Library tasks need the Hugging Face hub; a group comes back as one score per member. The score is the task's first
    metric that is a mean over items (accuracy, exact match), after its first filter.

    Args:
        model: a causal language model, on any device; it is not moved.
        tokenizer: its tokenizer.
        tasks: names, in the order wanted.
        batch_size: sequences per forward pass.
        limit: only the first `limit` items of each task; None for all.
        apply_chat_template: put each item into the tokenizer's chat template first.
        max_length: longest item, context and answer, in tokens; None for the model's own limit.

    Returns:
        One `TaskScore` per task. The model's modes, the tokenizer and all random states are left as they were,
        nothing is printed, and nothing is cached between calls.

    Raises:
        ValueError: unknown task, hub unreachable, `limit` below 1, an item longer than `max_length`.
        FloatingPointError: the model answers with nan or inf.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit`: {limit} is not a number of items: give 1 or more, or None for all")
    check_tasks(tasks)
    with _silent(), _undisturbed(model):
        from lm_eval import evaluate

        from ogp.evaluation.strict_language_model import StrictLanguageModel
        from ogp.step.products import FastLinears

        loaded = _load(tasks)
        language_model = StrictLanguageModel(
            pretrained=model,
            tokenizer=deepcopy(tokenizer),  # lm-eval sets its pad token and padding side
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype="float32",  # in bf16 choices tie, and the first one wins
        )
        with FastLinears(model).installed():
            results = evaluate(
                lm=language_model,
                task_dict={"tasks": loaded, "groups": {}},
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=apply_chat_template,
            )
    return [_score(name, task, results["samples"][name], apply_chat_template) for name, task in loaded.items()]


def _score(name: str, task: Any, samples: list[dict[str, Any]], apply_chat_template: bool) -> TaskScore:
    """Read one task's score from lm-eval's per-item records."""
    from lm_eval.api.metrics import mean

    metric = next((metric for metric, aggregation in task.aggregation().items() if aggregation is mean), None)
    if metric is None:
        raise ValueError(
            f"`tasks`: '{name}' has no metric that is a mean over its items (it has {', '.join(task.aggregation())}): "
            "choose a multiple-choice or exact-match task"
        )
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    scores = [float(sample[metric]) for sample in samples]
    chances = [1 / len(sample["resps"]) if task.OUTPUT_TYPE == "multiple_choice" else 0.0 for sample in samples]
    local = name in local_tasks()
    return TaskScore(
        task=name,
        metric=metric,
        value=statistics.fmean(scores),
        stderr=statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
        n=len(scores),
        chance=statistics.fmean(chances),
        item_scores=scores,
        item_ids=[sample["doc"]["id"] if local else str(sample["doc_id"]) for sample in samples],
        apply_chat_template=apply_chat_template,
    )


def check_tasks(tasks: Sequence[str]) -> None:
    """`ValueError` for a name that cannot be resolved, as far as that is known before anything slow is imported."""
    local = local_tasks()
    for name in tasks:
        if name not in local and name.startswith("ogp_"):
            raise ValueError(_unknown(name, local))
        if name not in local and not hub_reachable():
            raise ValueError(
                f"{_unknown(name, local)}. Tasks of lm-eval's own library need the Hugging Face hub, "
                "which cannot be reached: use local tasks, or go online (HF_HUB_OFFLINE unset)"
            )


def _unknown(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"`tasks`: '{name}' is not one of {', '.join(local_tasks())}; nearest: {nearest}"


def _load(tasks: Sequence[str]) -> dict[str, Any]:
    """lm-eval's task objects by name, groups and tags expanded."""
    from lm_eval.tasks import TaskManager

    local = local_tasks()
    loaded = {}
    library = None
    for name in tasks:
        if name in local:
            loaded[name] = _load_local(name)
            continue
        library = library or TaskManager()  # reads every task file of the library: 9 s
        if name not in library.all_tasks:
            raise ValueError(_unknown(name, [*local, *library.all_tasks]) + "; nor is it in lm-eval's library")
        for member_name, member in library.load([name])["tasks"].items():
            member.set_fewshot_seed(FEWSHOT_SEED)
            loaded[member_name] = member
    return loaded


def _load_local(name: str) -> Any:
    """A packaged task, its rows read here: through `datasets` they would pass a disk cache that all runs share."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    config = yaml.safe_load((TASK_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    split = config["test_split"]
    data_file = TASK_FOLDER / config.pop("dataset_kwargs")["data_files"][split]
    rows = [json.loads(line) for line in data_file.read_text(encoding="utf-8").splitlines()]
    return ConfigurableTask(config=config | {"custom_dataset": lambda **_: {split: Dataset.from_list(rows)}})


@contextlib.contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Put back every module's training mode and the random states of python, numpy and torch."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No progress bars, log lines or warnings of lm-eval: what matters in them is an error here."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
