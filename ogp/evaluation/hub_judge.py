"""A text classifier from a folder or the hub as judge; transformers is imported at its first verdict."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ogp.evaluation.refusal import Reply, Verdict
from ogp.models import check_weight_index

# How public classifiers name their classes: REJECTION / NORMAL, refusal / no_refusal, refused / complied ...
_NO_REFUSAL = re.compile(r"\b(?:no|not|non|normal|compl\w+|accept\w*|answer\w*|safe|help\w*|direct answer)\b")
_REFUSAL = re.compile(r"\b(?:refus\w*|reject\w*|declin\w*|direct refusal|indirect refusal)\b")
_PARTIAL = re.compile(r"\bpartial\w*\b")


def hub_classifier(model: str, revision: str | None, completion: str, prompt: str | None, truncated: bool) -> Verdict:
    """The classifier's verdict on `completion`, from its first tokens where that is longer than the classifier reads.

    Errors: `ValueError` where `model` cannot be loaded, or its class names do not say which one is a refusal.
    """
    classifier, classes = _load(model, revision)
    best = classifier(completion, truncation=True)[0]
    return Verdict(classes[best["label"]], (f"{best['label']}: {best['score']:.3f}",))


@lru_cache(maxsize=2)
def _load(model: str, revision: str | None) -> tuple[Any, dict[str, Reply]]:
    from transformers import pipeline

    try:
        if Path(model).is_dir():
            check_weight_index(Path(model))
        classifier = pipeline(
            "text-classification",
            model=model,
            revision=revision,
            device="cpu",
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`judge`: the classifier {model!r} cannot be loaded ({error}); give a folder, or a hub id that is cached"
        ) from error
    names = list(classifier.model.config.id2label.values())
    classes = {name: class_of_label(name) for name in names}
    if set(classes.values()) in ({Reply.full_refusal}, {Reply.full_compliance}):
        raise ValueError(
            f"`judge`: the classes of {model!r} are {', '.join(map(str, names))}; expected names that tell refusals "
            "from other replies, such as REJECTION and NORMAL: set `id2label` in its config.json"
        )
    return classifier, classes


def class_of_label(name: str) -> Reply:
    """The class of a reply that a classifier's label names; whatever does not name a refusal is a compliance."""
    words = re.sub(r"[^a-z]+", " ", name.lower())
    if _PARTIAL.search(words):
        return Reply.partial_refusal
    if _REFUSAL.search(words) and not _NO_REFUSAL.search(words):
        return Reply.full_refusal
    return Reply.full_compliance
