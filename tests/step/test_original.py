"""The original's arithmetic, step by step, against a straightforward loop written from its description alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from ogp.config import MethodSettings, TrainingSettings
from ogp.config_files import ConfigError, load_config
from ogp.training.trainer import OGPTrainer, make_training_arguments
from tests import tiny

COMMON = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 8, "tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": None},
    "qwen2": {"tie_word_embeddings": True},
}
MULTIPLIERS = (0.25, 0.5, 0.75, 1.0)
RATE, STEPS, DECAY = 1e-3, 4, 0.01


def made(family: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(COMMON | FAMILIES[family]))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)


def bucket(name: str) -> int:
    """Where the script files a parameter: embeddings first, quarters of the layers, everything else last."""
    if "embed_tokens" in name:
        return 0
    if "layers." in name:
        return int(name.split("layers.")[1].split(".")[0])  # four layers: a bucket each
    return 3


def loop(model: Any, batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One record per step: losses, dot, square, share, and the weights after it."""
    teacher = copy.deepcopy(model).eval()
    groups: list[dict[str, Any]] = []
    for place, factor in enumerate(MULTIPLIERS):
        for decayed in (True, False):  # transformers never decays norms
            members = [p for n, p in model.named_parameters() if bucket(n) == place and ("norm" not in n) == decayed]
            if members:
                groups.append({"params": members, "lr": RATE * factor, "weight_decay": DECAY if decayed else 0.0})
    optimizer = torch.optim.AdamW(groups, fused=True)  # the kernel transformers takes
    schedule = get_scheduler("linear", optimizer, 0, STEPS)
    longest = max(len(e["input_ids"]) for batch in batches for e in batch)
    found = []
    model.train()
    for batch in batches:
        ids = torch.tensor([e["input_ids"] + [0] * (longest - len(e["input_ids"])) for e in batch])
        mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in batch])
        labels = torch.tensor([e["labels"] + [-100] * (longest - len(e["labels"])) for e in batch])
        optimizer.zero_grad()
        output = model(input_ids=ids, attention_mask=mask, labels=labels)
        output.loss.backward(retain_graph=True)
        target = [p.grad.clone() for p in model.parameters()]
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = teacher(input_ids=ids, attention_mask=mask).logits
        log_p, q = F.log_softmax(output.logits, -1), F.softmax(wanted, -1)
        F.kl_div(log_p, q, reduction="batchmean").backward()
        opposed = [p.grad.clone() for p in model.parameters()]
        dot: Any = sum((t.view(-1) * o.view(-1)).sum() for t, o in zip(target, opposed, strict=True))
        square: Any = sum((o.view(-1) ** 2).sum() for o in opposed)
        share = dot / square if square > 1e-9 else torch.zeros_like(dot)
        for p, t, o in zip(model.parameters(), target, opposed, strict=True):
            p.grad = 1.0 * t - 1.0 * (share * o)
        optimizer.step()
        schedule.step()
        found.append(
            {
                "loss": output.loss.item(),
                "square": square.item(),
                "share": share.item(),
                "weights": {n: p.detach().clone() for n, p in model.named_parameters()},
            }
        )
    return found


def original(model: Any, folder: Path, **training: Any) -> tuple[OGPTrainer, list[list[dict[str, Any]]], list[Any]]:
    """A trainer with the original's engine, the batches it will draw, and the weights after each of its steps."""
    examples = tiny.examples(10)
    method = MethodSettings(engine="original", kl_positions="all", check_every=0)
    chosen: dict[str, Any] = {"steps": STEPS, "batch_size": 4, "micro_batch": 4, "learning_rate": RATE}
    chosen |= {"weight_decay": DECAY, "max_grad_norm": 0.0, "layer_multipliers": MULTIPLIERS}
    settings = TrainingSettings(**(chosen | training))
    args = make_training_arguments(settings, folder / "checkpoints", seed=3)
    run = OGPTrainer(model, args, examples, method, settings, folder / "cache")
    drawn: list[list[dict[str, Any]]] = []
    after: list[Any] = []
    collate = run.data_collator
    run.data_collator = lambda batch: (drawn.append(list(batch)), collate(batch))[1]
    finish = run.after_optimizer_step
    run.after_optimizer_step = lambda: (  # type: ignore[method-assign]
        after.append({n: p.detach().clone() for n, p in model.named_parameters()}),
        finish(),
    )[1]
    return run, drawn, after


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_is_the_scripts(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    run, drawn, after = original(made(family, dtype), tmp_path)
    run.train()
    start = {n: p.detach().clone() for n, p in made(family, dtype).named_parameters()}
    expected = loop(made(family, dtype), drawn[:STEPS])
    logged = [row for row in run.state.log_history if "loss" in row]
    # bfloat16: one rounding of a weight is 2^-8 of it; a step may land on the neighbour
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for step, (row, wanted, weights) in enumerate(zip(logged, expected, after, strict=True)):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=tolerance)
        moved = torch.cat([(wanted["weights"][n] - start[n]).float().flatten() for n in start]).norm()
        apart = torch.cat([(wanted["weights"][n] - weights[n]).float().flatten() for n in start]).norm()
        assert apart <= tolerance * moved, f"step {step}"
    assert any(row["share"] != 0 for row in expected), "something was projected"


def test_bfloat16_noise_is_projected_at_step_0_where_the_default_leaves_it(tmp_path: Path) -> None:
    """At step 0 student and teacher are equal: exactly zero in float32, rounding noise above 1e-9 in bfloat16."""
    shares = {}
    for dtype in (torch.float32, torch.bfloat16):
        run, drawn, _ = original(made("llama", dtype), tmp_path / str(dtype), steps=1)
        run.train()
        (first,) = loop(made("llama", dtype), drawn[:1])
        (row,) = [row for row in run.state.log_history if "loss" in row]
        assert row["projected"] == float(first["share"] != 0)
        shares[dtype] = first["square"]
    assert shares[torch.float32] <= 1e-9 < shares[torch.bfloat16]


@pytest.mark.parametrize(
    "other",
    [
        "method.kl_positions=answer",
        "method.rule=difference",
        "method.when=aligned",
        "method.granularity=layer",
        "method.kl_direction=reverse",
        "method.space=update",
        "model.lora={rank: 2}",
        "training.micro_batch=2",
    ],
)
def test_nothing_else_is_called_original(other: str) -> None:
    fixed = ["method.engine=original", "method.kl_positions=all", "method.check_every=0"]
    load_config(None, fixed)
    with pytest.raises(ConfigError, match="`engine`: original"):
        load_config(None, [*fixed, other])
