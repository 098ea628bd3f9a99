"""Which ways to use several devices keep two gradients of one forward pass exact, and which are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule


def world_size() -> int:
    """Processes that train together, as torchrun and accelerate announce them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def begin_average(tensors: list[Tensor]) -> Callable[[], None]:
    """Start averaging `tensors` over all processes, in place; the returned function waits for the end."""
    works = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]

    def finish() -> None:
        for work in works:
            work.wait()
        if tensors:
            torch._foreach_div_(tensors, distributed.get_world_size())

    return finish


def reshard(model: nn.Module) -> None:
    """Free the whole parameters that FSDP2 keeps at hand after a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def refuse_unsupported(trainer: Any) -> None:
    """ValueError, before any work, where a second backward pass would be wrong or impossible, with what to use instead.

    Args:
        trainer: a transformers.Trainer, constructed and not yet started.
    """
    args, accelerator = trainer.args, trainer.accelerator
    checkpointing = args.activation_checkpointing_kwargs or {}
    plugin = accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    handler = accelerator.ddp_handler
    refused = {
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP version 1": plugin is not None and plugin.fsdp_version != 2,
        "DataParallel (several GPUs in one process)": args.n_gpu > 1,
        "DDP with `gradient_as_bucket_view`": handler is not None and handler.gradient_as_bucket_view,
        "DDP with `ddp_find_unused_parameters`": args.ddp_find_unused_parameters is not False,
        "DDP with `ddp_static_graph`": bool(args.ddp_static_graph),
        "reentrant activation checkpointing": args.activation_checkpointing
        and checkpointing.get("use_reentrant") is not False,
    }
    for what, found in refused.items():
        if found:
            raise ValueError(
                f"{what} cannot run two exact backward passes over one forward pass: use DDP (torchrun) or FSDP "
                "version 2, with the arguments of `make_training_arguments`"
            )
    if plugin is not None:
        if plugin.cpu_ram_efficient_loading and accelerator.num_processes > 1:
            raise ValueError(
                "FSDP's `cpu_ram_efficient_loading` leaves all but one process without weights, and so without a "
                "teacher: set it to false"
            )
        # without a synchronisation per micro-batch FSDP2 adds the two losses' gradients into one buffer
        accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
