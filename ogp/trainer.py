"""OGPTrainer: transformers.Trainer whose optimizer step follows two combined gradients."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ogp.batches import IGNORE, Batch, Example, Positions
from ogp.causal_lm import choose_collator
from ogp.config import MethodSettings, TrainingSettings
from ogp.distributed import begin_average, refuse_unsupported, world_size
from ogp.engines import DualEngine, Engine, ReferenceEngine, TokenCounts
from ogp.gradients import GradientPair, applied_update_products, by_layer, describe, summed_by_group
from ogp.learning_rates import depths, parameter_groups
from ogp.rules import OPPOSED, TARGET, weigh
from ogp.teacher_cache import Progress

logger = logging.getLogger(__name__)

MOST_BROKEN_STEPS = 3
"""Steps in a row with a non-finite gradient that end a run."""


class Diverged(RuntimeError):
    """Training cannot go on: its gradients are not finite any more."""


def make_training_arguments(training: TrainingSettings, output_dir: Path, *, seed: int) -> TrainingArguments:
    """The settings in transformers' terms: one log record per optimizer step, reported nowhere else.

    Under torchrun or accelerate every process takes its share of `batch_size`.
    """
    together = training.micro_batch * world_size()
    if training.batch_size % together:
        raise ValueError(
            f"`training.batch_size` {training.batch_size} cannot be shared: {world_size()} processes take "
            f"{training.micro_batch} examples (`micro_batch`) each at a time: choose a multiple of {together}"
        )
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=training.steps,
        per_device_train_batch_size=training.micro_batch,
        gradient_accumulation_steps=training.batch_size // together,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bf16",
        activation_checkpointing=training.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="steps" if training.checkpoint_every else "no",
        save_steps=max(training.checkpoint_every, 1),
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
    )


class OGPTrainer(Trainer):
    """A Trainer for {"index", "input_ids", "labels"} examples that follows `method` instead of the plain gradient.

    The model it is given is the student and, at its present weights, the teacher. Every optimizer step leaves one log
    record with, beside Trainer's own `loss`, `grad_norm` and `learning_rate`:

    train_loss_step, opposed_loss_step: mean cross-entropy and mean divergence, nats per loss-carrying token.
    cosine, norm_target, norm_opposed: of the two gradients, before anything is removed or clipped.
    removed_fraction: norm of the removed part over `norm_target`.
    projected, skipped: share of parameter groups with a removed part, and of those left alone by the noise guard.
    alignment: +1 aligned, -1 conflicting, 0 opposed gradient below the noise.
    layers: [cosine, norm_target, norm_opposed] at each depth, from embeddings to final norm and head.
    update_cosine: of the parameters' change in this step and the opposed gradient; left out where alignment is 0.
    broken: 1 where a gradient was not finite and no step was taken.
    tokens, step_seconds: tokens of the step's examples, and wall time from the first forward pass to the update.

    With `method.rule: none` nothing opposed is computed, and the names that need it are left out.

    Args:
        args: from `make_training_arguments`.
        train_dataset: each example's `index` is its position in it.
        teacher_cache_dir: shared by all runs on the same starting model and data.
        update_cosine_every: steps between two values of `update_cosine`; 0 never computes it.
        progress: told (rows done, rows in all) while the teacher cache is built.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: Sequence[Example],
        method: MethodSettings,
        training: TrainingSettings,
        teacher_cache_dir: Path,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        update_cosine_every: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self.method, self.training_settings, self.update_cosine_every = method, training, update_cosine_every
        positions = Positions(train_dataset, "answer" if method.rule == "none" else method.kl_positions)
        pad_id = getattr(processing_class, "pad_token_id", None) or 0
        collator, self.layout = choose_collator(model, positions, pad_id)
        logger.info("batches are %s", self.layout)
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            processing_class=processing_class,
            callbacks=[_Hooks(self), *(callbacks or [])],
        )
        refuse_unsupported(self)
        if method.engine == "reference" and self.accelerator.num_processes > 1:
            raise ValueError("`method.engine`: 'reference' runs in one process only: choose 'dual'")
        self.remove_callback(PrinterCallback)  # the record belongs to the caller's callbacks, not to standard output
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        depth_of = depths(model)
        self._depths = torch.tensor([depth_of[name] for name, _ in trainable])
        self.pair = GradientPair([p for _, p in trainable], self._groups())
        engine = DualEngine if method.engine == "dual" else ReferenceEngine
        self.engine: Engine = engine(
            model,
            self.pair,
            opposed=method.rule != "none",
            kl_direction=method.kl_direction,
            autocast=self.accelerator.autocast,
        )
        if isinstance(self.engine, DualEngine) and method.rule != "none":
            with args.main_process_first(local=False, desc="teacher cache"):
                self.engine.load_teacher(model, train_dataset, positions, teacher_cache_dir, progress)
        # student and teacher may reach the same hidden states by different ways, and differ by their rounding
        dtypes = {p.dtype for p in model.parameters()} | ({torch.bfloat16} if training.precision == "bf16" else set())
        self._noise = max(method.noise, *(torch.finfo(dtype).eps for dtype in dtypes))
        self._step = _Step(TokenCounts(0, 0), {})
        self._broken_in_a_row = 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer.train, with the engine's forward pass in place for as long as it lasts."""
        with self.engine.installed():
            return super().train(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], TokenCounts]:
        """The micro-batches of one optimizer step, and its loss-carrying tokens, over which both means are taken."""
        batches = list(islice(epoch_iterator, num_batches))
        sums = [[int((b["targets"] != IGNORE).sum()), len(b["targets"]), int(b["tokens"])] for b in batches]
        total = self.accelerator.reduce(torch.tensor(sums, device=device).sum(0), "sum").tolist()
        self._step = _Step(TokenCounts(*total[:2]), {"tokens": float(total[2])})
        return batches, self._step.counts

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Accumulate both gradients of one micro-batch; after the step's last one leave the update in `p.grad`."""
        model.train()
        # DDP and FSDP2 average gradients over processes, and ours are those of the mean over all of them
        counts = TokenCounts(*(count / self.accelerator.num_processes for count in self._step.counts))
        with self._hooks_of_ddp_off(model):
            losses = self.engine.accumulate(model, self._prepare_inputs(inputs), counts, self._backward(model))
        self._step.losses.append(torch.stack(losses))
        if self.accelerator.sync_gradients:
            self._combine()
        return losses.target

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with one parameter group per layer-wise learning rate; weight decay on matrices only, as in Trainer."""
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(
                model,
                self.args.learning_rate,
                self.args.weight_decay,
                set(self.get_decay_parameter_names(model)),
                self.training_settings.layer_multipliers,
                self.training_settings.layer_decay,
            )
            self.optimizer: torch.optim.Optimizer = kind(groups, **options)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's record of a step, joined by ours."""
        if "loss" in logs:
            logs |= self._step.record | {"step_seconds": time.perf_counter() - self._step.began}
        super().log(logs, start_time)

    def after_optimizer_step(self) -> None:
        """Measure the update that was applied, then forget the opposed gradient."""
        every = self.update_cosine_every
        if every and self.state.global_step % every == 0 and self._step.record.get("alignment"):
            change, product, opposed = applied_update_products(self.optimizer, self.pair).tolist()
            self._step.record["update_cosine"] = product / math.sqrt(change * opposed) if change else 0.0
        self.pair.clear()

    def _combine(self) -> None:
        losses = self.accelerator.reduce(torch.stack(self._step.losses).sum(0), "mean").tolist()
        record = self._step.record
        record["train_loss_step"] = losses[TARGET]
        if self.method.rule != "none":
            record["opposed_loss_step"] = losses[OPPOSED]
        products = self.pair.products()
        gramian = summed_by_group(products, self.pair.groups)
        self._step.broken = not bool(gramian.isfinite().all())
        record["broken"] = float(self._step.broken)
        if self._step.broken:
            self._skip_broken_step()
            return
        self._broken_in_a_row = 0
        if self.method.rule == "none":
            record["norm_target"] = float(gramian.sum(0)[TARGET, TARGET].sqrt())
            return
        m = self.method
        weights = weigh(gramian, m.rule, m.when, m.w_target, m.w_opposed, self._noise)
        self.pair.combine(weights)
        record |= describe(gramian, weights, self._noise)
        record["layers"] = by_layer(summed_by_group(products, self._depths))

    def _skip_broken_step(self) -> None:
        self.pair.drop()  # without gradients the optimizer leaves parameters and moments as they are
        self._broken_in_a_row += 1
        if self._broken_in_a_row == MOST_BROKEN_STEPS:
            raise Diverged(
                f"{MOST_BROKEN_STEPS} optimizer steps in a row had a gradient that is not finite (the last one is step "
                f"{self.state.global_step + 1}): lower `training.learning_rate`, or look for broken data or weights"
            )

    def _backward(self, model: nn.Module) -> Any:
        """The engine's `backward`. DDP synchronises one backward pass per forward pass: the last, target one.

        The opposed gradient is averaged by us while that one is under way.
        """

        def backward(loss: Tensor, *, retain_graph: bool, last: bool) -> None:
            together = last and self.accelerator.sync_gradients and isinstance(model, DistributedDataParallel)
            if not together or self.method.rule == "none":
                self.accelerator.backward(loss, retain_graph=retain_graph)
                return
            finish = begin_average([o for o in self.pair.opposed if o is not None])
            with self.accelerator.trigger_sync_in_backward(model):
                self.accelerator.backward(loss, retain_graph=retain_graph)
            finish()

        return backward

    def _hooks_of_ddp_off(self, model: nn.Module) -> AbstractContextManager[None]:
        needed = isinstance(model, DistributedDataParallel) and self.method.rule != "none"
        context: AbstractContextManager[None] = self.accelerator.no_sync(model) if needed else nullcontext()
        return context

    def _groups(self) -> list[int]:
        """Number of the group that each trainable parameter shares its projection with."""
        if self.method.granularity == "tensor":
            return list(range(len(self._depths)))
        if self.method.granularity == "global":
            return [0] * len(self._depths)
        groups: list[int] = self._depths.unique(return_inverse=True)[1].tolist()
        return groups


class _Step:
    """What is known about the optimizer step under way."""

    def __init__(self, counts: TokenCounts, record: dict[str, Any]) -> None:
        self.counts, self.record = counts, record
        self.losses: list[Tensor] = []
        self.broken = False
        self.began = time.perf_counter()


class _Hooks(TrainerCallback):
    """Calls the trainer back where Trainer has no method to override."""

    def __init__(self, trainer: OGPTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Called by Trainer once the model is wrapped: FSDP2 has put sharded parameters in the old ones' place."""
        self.trainer.pair.parameters = [p for p in self.trainer.model.parameters() if p.requires_grad]

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Called by Trainer between the optimizer's step and the learning rate's."""
        self.trainer.after_optimizer_step()
