"""Two processes (gloo) train the model that one process trains, under DDP and FSDP2; other ways are refused.

Run as a script under torchrun this file is the worker of its own tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedDataParallelKwargs
from torch.distributed.tensor import DTensor

from ogp.config import MethodSettings, TrainingSettings
from ogp.training.distributed import refuse_unsupported, share_of_batch
from ogp.training.launch import SHARDED
from ogp.training.trainer import OGPTrainer, make_training_arguments
from tests import tiny

KEPT = {"role": "protected", "data": {"source": "embedded:harmful"}, "loss": "nll", "batch_size": 4}
ANSWERS = {"role": "protected", "data": {"source": "embedded:ordinary"}, "loss": "kl", "batch_size": 4}
ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = [
    {"kind": kind, "micro_batch": micro_batch, "checkpointing": checkpointing, "method": method}
    for kind, micro_batch, checkpointing, method in [
        ("tied", 4, False, {}),
        ("tied", 2, False, {"granularity": "layer"}),
        ("untied", 2, True, {"granularity": "tensor"}),
        ("untied", 1, False, {"rule": "difference"}),
        ("lora", 2, False, {"granularity": "layer"}),
        ("tied", 2, False, {"rule": "none"}),
        ("tied", 2, False, {"rule": "cone", "gradients": [{}, KEPT, ANSWERS], "check_every": 2, "ema": 0.5}),
        ("untied", 2, False, {"space": "update", "granularity": "layer", "check_every": 1}),
        ("tied", 2, False, {"rule": "cone", "gradients": [{}, ANSWERS], "refresh": 2}),
    ]
]


def train(case: dict[str, Any], folder: Path, wrapping: str) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights after five steps of eight examples, and their log records."""
    model = tiny.llama(tied=case["kind"] == "tied", dtype=torch.float64, layers=2)
    if case["kind"] == "lora":
        model = tiny.with_lora(model)
    method = MethodSettings.model_validate_json(json.dumps(case["method"]))
    sources = [tiny.examples(7, seed=i) for i, g in enumerate(method.gradients) if g.data is not None]
    training = TrainingSettings(
        steps=5,
        batch_size=8,
        micro_batch=case["micro_batch"],
        learning_rate=1e-2,
        weight_decay=0.1,
        gradient_checkpointing=case["checkpointing"],
    )
    args = make_training_arguments(training, folder, seed=1)
    run = OGPTrainer(model, args, tiny.examples(32), method, training, folder / "cache", sources=sources)
    run.train()
    weights = {
        name.replace("_checkpoint_wrapped_module.", ""): p.full_tensor() if wrapping == "fsdp2" else p.detach().clone()
        for name, p in run.model.named_parameters()
        if p.requires_grad
    }
    if wrapping == "fsdp2":
        assert any(isinstance(p, DTensor) for p in run.model.parameters())
    return weights, [record for record in run.state.log_history if "loss" in record]


def work(wrapping: str, folder: Path) -> None:
    """The worker: all cases in one process group."""
    results = [train(case, folder / str(i), wrapping) for i, case in enumerate(CASES)]
    if os.environ["RANK"] == "0":
        torch.save(results, folder / "results.pt")


def launch(wrapping: str, folder: Path) -> None:
    """Two workers on this machine, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, wrapping, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    if wrapping == "fsdp2":
        environment |= SHARDED
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_trains(wrapping: str, tmp_path: Path) -> None:
    launch(wrapping, tmp_path)
    results = torch.load(tmp_path / "results.pt")
    for i, (case, (weights, records)) in enumerate(zip(CASES, results, strict=True)):
        expected, expected_records = train(case, tmp_path / f"one-{i}", "none")
        assert weights.keys() == expected.keys()
        for name in weights:
            assert torch.allclose(weights[name], expected[name], rtol=0, atol=1e-9), (case, name)
        for ours, theirs in zip(records, expected_records, strict=True):
            names = ours.keys() - {"step_seconds", "epoch", "layers"}
            assert names == theirs.keys() - {"step_seconds", "epoch", "layers"}
            for ours_at, theirs_at in zip(ours.get("layers", []), theirs.get("layers", []), strict=True):
                assert ours_at == pytest.approx(theirs_at, rel=1e-4, abs=1e-9)
            assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-5, abs=1e-9)


def plain_run(tmp_path: Path, **options: Any) -> OGPTrainer:
    training = TrainingSettings(steps=1, **options)
    args = make_training_arguments(training, tmp_path, seed=0)
    return OGPTrainer(tiny.llama(), args, tiny.examples(8), MethodSettings(), training, tmp_path)


def reentrant(run: OGPTrainer) -> None:
    run.args.activation_checkpointing = True
    run.args.activation_checkpointing_kwargs = {"use_reentrant": True}


def reentrant_by_default(run: OGPTrainer) -> None:
    run.args.activation_checkpointing = True
    run.args.activation_checkpointing_kwargs = None


def first_fsdp(run: OGPTrainer) -> None:
    run.is_fsdp_enabled = True
    run.accelerator.state.fsdp_plugin = SimpleNamespace(fsdp_version=1)


def deepspeed(run: OGPTrainer) -> None:
    run.is_deepspeed_enabled = True


def data_parallel(run: OGPTrainer) -> None:
    run.args._n_gpu = 2


def bucket_view(run: OGPTrainer) -> None:
    run.accelerator.ddp_handler = DistributedDataParallelKwargs(gradient_as_bucket_view=True)


def static_graph(run: OGPTrainer) -> None:
    run.args.ddp_static_graph = True


def unused_parameters(run: OGPTrainer) -> None:
    run.args.ddp_find_unused_parameters = True


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (reentrant, "reentrant activation checkpointing"),
        (reentrant_by_default, "reentrant activation checkpointing"),
        (first_fsdp, "FSDP version 1"),
        (deepspeed, "DeepSpeed"),
        (data_parallel, "DataParallel"),
        (bucket_view, "gradient_as_bucket_view"),
        (static_graph, "ddp_static_graph"),
        (unused_parameters, "ddp_find_unused_parameters"),
    ],
)
def test_what_would_be_wrong_is_refused_with_what_to_use(change: Any, name: str, tmp_path: Path) -> None:
    run = plain_run(tmp_path)
    refuse_unsupported(run)
    change(run)
    with pytest.raises(ValueError, match=rf"{name}.*use DDP \(torchrun\) or FSDP version 2"):
        refuse_unsupported(run)


def test_checkpointing_as_we_set_it_is_allowed(tmp_path: Path) -> None:
    plain_run(tmp_path, gradient_checkpointing=True)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"`training\.batch_size` 8 cannot be shared by 3 processes.*multiple of 3"):
        make_training_arguments(TrainingSettings(batch_size=8, micro_batch=4), tmp_path, seed=0)


@pytest.mark.parametrize(("batch", "micro", "processes"), [(8, 8, 2), (8, 8, 8), (12, 4, 2), (12, 6, 4), (16, 4, 2)])
def test_a_step_sees_the_same_examples_however_many_processes_share_it(
    batch: int, micro: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    at_a_time, passes = share_of_batch(batch, micro)
    assert at_a_time <= micro
    assert at_a_time * passes * processes == batch


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
