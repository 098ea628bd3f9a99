"""A model while it is read and not trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def reading(model: PreTrainedModel) -> Iterator[None]:
    """Within it `model` is in evaluation mode, keeps nothing for gradients, and takes its products the fast way."""
    import torch

    from ogp.step.products import FastLinears

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), FastLinears(model).installed():
            yield
    finally:
        model.train(was_training)
