"""Runs in processes of their own that something really happens to: killed at a chosen moment, out of memory or room.

The processes come from a fork server that has loaded the libraries once. What is injected is a function of this module
that patches, in the victim only, the moment at which the fault strikes; the fault itself is the real one.
"""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ogp.config import RunConfig
from ogp.config_files import to_yaml, validate
from tests.reliability.studies import EVALUATION

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["ogp.run", "peft", "tests.reliability.victims"])
WEIGHTS = "weights.sha256"

Injection = Callable[[], None]


def tiny(model: Path, *, evaluation: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    """Five steps on a tiny model, a checkpoint after every one; no capability tasks."""
    settings = {
        "model": {"source": str(model)},
        "training": {"steps": 5, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3, "checkpoint_every": 1}
        | training,
        "evaluation": EVALUATION | {"curve_steps": [2], "curve_prompts": 1} | (evaluation or {}),
    }
    return validate(RunConfig, settings, "test")


def nothing() -> None:
    """No fault."""


def train(config: RunConfig, folder: Path, inject: Injection = nothing, *arguments: str) -> int:
    """Exit code of `ogp train` on `config`, negative where a signal ended it; its output is in `folder`/log."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder.parent / f"{folder.name}.yaml"
    settings.write_text(to_yaml(config))
    environment = {name: value for name, value in os.environ.items() if name in ("OGP_CACHE", "LC_ALL", "TZ")}
    process = SERVER.Process(target=_victim, args=(settings, folder, inject, arguments, environment))
    process.start()
    process.join()
    print(log_of(folder))  # shown where a test fails
    assert process.exitcode is not None
    return process.exitcode


def _victim(
    settings: Path, folder: Path, inject: Injection, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    import torch

    from ogp import run
    from ogp.cli import main
    from ogp.step.teacher_cache import weights_digest

    os.environ.update(environment)
    torch.set_num_threads(1)
    log = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    evaluate = run._final

    def final(config: RunConfig, model: Any, *rest: Any) -> Any:
        (folder.parent / f"{folder.name}.{WEIGHTS}").write_text(weights_digest(model.named_parameters()))
        return evaluate(config, model, *rest)

    run._final = final  # type: ignore[assignment]
    inject()
    sys.exit(main(["train", str(settings), "--out", str(folder), *arguments]))


def weights_of(folder: Path) -> str:
    """Digest of the weights a finished run was evaluated with."""
    return (folder.parent / f"{folder.name}.{WEIGHTS}").read_text()


def log_of(folder: Path) -> str:
    """What the run printed."""
    return (folder.parent / f"{folder.name}.log").read_text()


# Injections -----------------------------------------------------------------------------------------------------------


def die() -> None:
    """SIGKILL, from outside as far as the process can tell."""
    os.kill(os.getpid(), signal.SIGKILL)


def strike(owner: Any, name: str, fault: Callable[[], None], *, at: int = 1, after: bool = False) -> None:
    """Let `fault` happen when `owner.name` is called for the `at`-th time, before or after it does its work."""
    original, calls = getattr(owner, name), [0]

    def struck(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at and not after:
            fault()
        value = original(*args, **kwargs)
        if calls[0] == at and after:
            fault()
        return value

    setattr(owner, name, struck)


def killed_at_step(step: int) -> None:
    """In the middle of an optimizer step: both gradients are there, the update is not."""
    from ogp.training.trainer import OGPTrainer

    strike(OGPTrainer, "_combine", die, at=step)


def killed_in_checkpoint(folder: Path, number: int, moment: str) -> None:
    """While the `number`-th checkpoint is written."""
    from transformers import Trainer

    from ogp.training import checkpoints

    match moment:
        case "weights half written":
            strike(Trainer, "save_model", partial(_half_a_file, folder, "model.safetensors"), at=number, after=True)
        case "no optimizer yet":
            strike(Trainer, "_save_optimizer_and_scheduler", die, at=number)
        case "not sealed yet":
            strike(checkpoints, "write_manifest", die, at=number)
        case "older one not deleted yet":
            strike(checkpoints, "write_manifest", die, at=number, after=True)


def _half_a_file(folder: Path, name: str) -> None:
    newest = max(folder.glob(f"checkpoints/*/{name}"), key=lambda path: path.stat().st_mtime_ns)
    os.truncate(newest, newest.stat().st_size // 2)
    die()


def killed_after_result() -> None:
    """The result is written, nothing after it."""
    from ogp import run

    strike(run, "write_record", die, after=True)


def limited_memory(extra: int) -> None:
    """The process may take `extra` bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra,) * 2)


def returns_early(step: int) -> None:
    """Trainer ends without an error at `step`, as it does where its data loader runs dry."""
    from ogp.training.training_record import TrainingRecord

    original = TrainingRecord.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        control.should_training_stop |= state.global_step == step

    TrainingRecord.on_step_end = stop  # type: ignore[method-assign]


def disk_filled(folder: Path, moment: str) -> None:
    """At the named moment somebody takes all the room that is left."""
    from transformers import Trainer

    from ogp import run
    from ogp.training.training_record import TrainingRecord

    fill = partial(fill_disk, folder)
    match moment:
        case "before a checkpoint":
            strike(TrainingRecord, "on_step_end", fill, at=2)
        case "inside a checkpoint":
            strike(Trainer, "_save_optimizer_and_scheduler", fill, at=2)
        case "at a log line":
            strike(TrainingRecord, "on_log", fill, at=2)
        case "at the result":
            strike(run, "_peak_memory", fill)


def fill_disk(folder: Path) -> None:
    """Leave no byte."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017


def elsewhere() -> None:
    """Another time zone, and a clock that is set back by a minute whenever somebody looks at it."""
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    clock = itertools.count(2e9, -60)
    time.time = lambda: next(clock)  # type: ignore[assignment]


def nan_planted(where: str) -> None:
    """A number that is none, in the starting weights, in the gradient of every step, or in the last step's update."""
    import torch

    from ogp import run
    from ogp.training.trainer import OGPTrainer

    def spoil(tensor: torch.Tensor) -> None:
        with torch.no_grad():
            tensor[0] = torch.nan

    match where:
        case "starting weights":
            load = run.load_model

            def load_spoilt(*args: Any) -> Any:
                model, tokenizer = load(*args)
                spoil(next(model.parameters()))
                return model, tokenizer

            run.load_model = load_spoilt
        case "gradients":
            combine = OGPTrainer._combine

            def combine_spoilt(self: Any) -> None:
                spoil(self.gradients.parameters[0].grad)
                combine(self)

            OGPTrainer._combine = combine_spoilt  # type: ignore[method-assign]
        case "last update":
            measure = OGPTrainer.after_optimizer_step

            def measure_spoilt(self: Any) -> None:
                measure(self)
                if self.state.global_step == self.args.max_steps - 1:
                    spoil(next(self.model.parameters()))

            OGPTrainer.after_optimizer_step = measure_spoilt  # type: ignore[method-assign]
