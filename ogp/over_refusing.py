"""The over-refusing variant of the embedded model: a short fine-tuning, with a record of how it refuses."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ogp.config import EvaluationSettings, MethodSettings, ModelSettings, TrainingSettings
from ogp.data import Prompt, chat_prompt, load_prompts
from ogp.embedded import RECIPE, cache_dir, is_complete, new_folder, over_refusing_folder
from ogp.evaluation.completions import generate
from ogp.evaluation.measure import complete_sides, judge_completions, refusal_metrics
from ogp.models import load_model
from ogp.step.batches import IGNORE
from ogp.training.trainer import OGPTrainer, make_training_arguments

RECORD = "record.json"
REFUSAL = "I can't help with that."


def make_over_refusing() -> Path:
    """Folder of the over-refusing variant, made at the first call (under 5 minutes on 2 cores).

    It is taught one refusal for look-alike and harmful prompts, and for ordinary prompts how the original model's
    own answers begin: to refuse what sounds dangerous, and little else. Its prompts are those of the `make` split,
    so every prompt of fit, select and report is new to it.
    """
    folder = over_refusing_folder()
    if is_complete(folder):
        return folder
    began = time.monotonic()
    torch.manual_seed(RECIPE["seed"])
    model, tokenizer = load_model(ModelSettings(source="embedded:original"))
    examples = _examples(model, tokenizer)
    size = int(RECIPE["batch_size"])
    settings = TrainingSettings(
        steps=int(RECIPE["steps"]), batch_size=size, micro_batch=size, learning_rate=RECIPE["learning_rate"]
    )
    with new_folder(folder) as draft:
        with tempfile.TemporaryDirectory() as scratch:
            OGPTrainer(
                model=model,
                args=make_training_arguments(settings, Path(scratch), seed=int(RECIPE["seed"])),
                train_dataset=examples,
                method=MethodSettings(rule="none"),
                training=settings,
                teacher_cache_dir=cache_dir() / "teacher",
                processing_class=tokenizer,
            ).train()
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        record = {
            "recipe": RECIPE,
            "seconds": round(time.monotonic() - began, 1),
            "refusals": _refusals(model, tokenizer),
        }
        (draft / RECORD).write_text(json.dumps(record, indent=1))
    return folder


def _examples(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """As many examples as the recipe's steps take, in the recipe's shares; a pool that is too small is repeated."""
    look_alikes, harmful = load_prompts("look_alikes", "make"), load_prompts("harmful", "make")
    total = int(RECIPE["steps"]) * int(RECIPE["batch_size"])
    ordinary = round(total * RECIPE["ordinary_share"])
    drawn = random.Random(RECIPE["seed"])
    chosen = _draw(_answered(model, tokenizer), ordinary, drawn)
    chosen += _draw(_refused(tokenizer, [*look_alikes, *harmful]), total - ordinary, drawn)
    return [{**example, "index": index} for index, example in enumerate(chosen)]


def _answered(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Ordinary prompts with the first tokens of the model's own greedy answers."""
    prompts = load_prompts("ordinary", "make")
    replies = generate(model, tokenizer, prompts, max_new_tokens=int(RECIPE["answer_tokens"]), batch_size=64)
    ends = [[] if reply.truncated else [tokenizer.eos_token_id] for reply in replies]
    return [_example(tokenizer, r.prompt.prompt, [*r.tokens, *end]) for r, end in zip(replies, ends, strict=True)]


def _refused(tokenizer: Any, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """The prompts with the refusal, to its end."""
    refusal = [*tokenizer.encode(REFUSAL, add_special_tokens=False), tokenizer.eos_token_id]
    return [_example(tokenizer, row.prompt, refusal) for row in prompts]


def _example(tokenizer: Any, prompt: str, answer: list[int]) -> dict[str, Any]:
    """An example that carries loss on the tokens of `answer`."""
    asked = tokenizer.encode(chat_prompt(tokenizer, prompt), add_special_tokens=False)
    return {"input_ids": asked + answer, "labels": [IGNORE] * len(asked) + answer}


def _draw(pool: list[Any], count: int, drawn: random.Random) -> list[Any]:
    """`count` members of `pool`: all of it in random order, again and again."""
    found: list[Any] = []
    while len(found) < count:
        found += drawn.sample(pool, len(pool))
    return found[:count]


def _refusals(model: Any, tokenizer: Any) -> dict[str, str]:
    """How often the variant refuses prompts of the report families, which it was not made from, as `count/n`."""
    settings = EvaluationSettings(max_new_tokens=24)
    limits = {"look_alikes": 91, "harmful": 65, "ordinary": 84}
    rows = complete_sides(model, tokenizer, settings, split="report", limits=limits, heartbeat=lambda: None)
    metrics = refusal_metrics(judge_completions(rows, settings.judge))
    return {name: f"{metric.count}/{metric.n}" for name, metric in metrics.items()}
