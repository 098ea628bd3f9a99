"""Early stopping by what a run is for: refusals of harmful prompts kept, over-refusal gone, on the select families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from ogp.config import RunConfig
from ogp.evaluation.select import look
from ogp.results import write_atomic
from ogp.runs.progress import Progress

LOOKS = "early_stopping.json"
BEST = "best"
WEIGHTS = "best.safetensors"


class EarlyStopping(TrainerCallback):
    """Looks every few steps, keeps the weights of the best look on the disk, and stops when patience is over.

    Best is the largest score of `look`; of equal ones the earlier step. The looks are in `early_stopping.json` of the
    run's folder.
    """

    def __init__(self, config: RunConfig, folder: Path, tokenizer: Any, progress: Progress) -> None:
        assert config.training.early_stopping is not None
        self._settings, self._evaluation = config.training.early_stopping, config.evaluation
        self._folder, self._tokenizer, self._progress = folder / BEST, tokenizer, progress
        self._record = folder / LOOKS
        self.looks: list[dict[str, float]] = []
        self.stopped = False
        """Whether patience ended the training before its last step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the looks of steps that will be made again."""
        if state.global_step and self._record.exists():
            looks = json.loads(self._record.read_text())
            self.looks = [each for each in looks if each["step"] <= state.global_step]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look, keep, stop."""
        if state.global_step % self._settings.every and state.global_step != state.max_steps:
            return
        self._progress.at("looking at the select split", state.global_step)
        best = max((each["score"] for each in self.looks), default=float("-inf"))
        found, _ = look(
            model, self._tokenizer, self._evaluation, prompts=self._settings.prompts, heartbeat=self._progress.beat
        )
        self.looks.append({"step": state.global_step} | found)
        if found["score"] > best:
            self._keep(model)
        write_atomic(self._record, json.dumps(self.looks, indent=1))
        self.stopped = self._looks_since_best() >= self._settings.patience
        control.should_training_stop |= self.stopped  # the last step has set it already
        control.should_save = control.should_save and not self.stopped  # resumed from here it would train on

    def restore_best(self, model: Any) -> None:
        """Put the weights of the best look back; their file stays until the run is done, which may yet be resumed."""
        kept = load_file(self._folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])

    def _looks_since_best(self) -> int:
        scores = [each["score"] for each in self.looks]
        return len(scores) - 1 - scores.index(max(scores))

    def _keep(self, model: Any) -> None:
        self._folder.mkdir(exist_ok=True)
        draft = self._folder / f"{WEIGHTS}.tmp"
        trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, draft)
        draft.replace(self._folder / WEIGHTS)
