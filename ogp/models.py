"""A run's starting model and tokenizer: embedded, from a folder, or from the hub; safetensors only, no remote code."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ogp.config import ModelSettings
from ogp.embedded import ModelError, is_complete, original_model, over_refusing_folder
from ogp.hub import on_hub, require
from ogp.network import hub_address, hub_reachable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def model_folder(source: str) -> Path | None:
    """The local folder behind `source`, made if it is `embedded:original`; None for a hub id."""
    if source == "embedded:original":
        return original_model()
    if source == "embedded:over-refusing":
        folder = over_refusing_folder()
        if not is_complete(folder):
            raise ModelError("`model.source`: the over-refusing variant is not made yet: run `ogp prepare` first")
        return folder
    if source.startswith("embedded:"):
        raise ModelError(f"`model.source`: {source!r} is not one of embedded:original, embedded:over-refusing")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if not on_hub(source):
        raise ModelError(
            f"`model.source`: folder {source!r} does not exist: give a model folder or a hub id like org/name"
        )
    return None


def load_model(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode, with LoRA adapters if asked for, and its tokenizer (left padding, for generation).

    Errors: `ModelError` or `HubError` with what to do when the model is not there, not safetensors, gated, or the hub
    is away.
    """
    folder = model_folder(settings.source)
    if folder is None:
        require("model", settings.source, settings.revision)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = str(folder) if folder else settings.source
    offline = folder is not None or not hub_reachable()
    try:
        if folder is not None:
            check_weight_index(folder)
        tokenizer = AutoTokenizer.from_pretrained(
            where,
            revision=settings.revision,
            local_files_only=offline,
            padding_side="left",
            trust_remote_code=False,  # without a word, transformers asks on a terminal whether to run a model's code
        )
        model = AutoModelForCausalLM.from_pretrained(
            where,
            revision=settings.revision,
            local_files_only=offline,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise ModelError(_why_not(settings.source, folder, offline, error)) from error
    if folder is None and settings.revision is None:
        commit = getattr(model.config, "_commit_hash", None)
        logger.warning("`model.revision` is not pinned: %s is at commit %s now", settings.source, commit)
    if tokenizer.eos_token is None:
        raise ModelError(f"`model.source`: the tokenizer of {settings.source!r} has no end-of-sequence token: set one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if settings.lora is not None:
        model = _with_adapters(model, settings)
    if torch.cuda.is_available():
        model = model.cuda()
    return model.eval(), tokenizer


def check_weight_index(folder: Path) -> None:
    """Weights that are split over several files all lie in `folder`: transformers opens whatever path its index names.

    Errors: `ValueError` with the index and the name. Source of the weakness: CVE-2026-75104.
    """
    for index in sorted(folder.glob("*.index.json")):
        content = json.loads(index.read_bytes())
        names = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names, dict):
            raise ValueError(f"{index.name} has no weight_map")
        for name in names.values():
            if not isinstance(name, str) or name in {"", "..", "."} or Path(name).name != name:
                raise ValueError(f"{index.name} names {name!r}, which is no file of the folder")


def _with_adapters(model: PreTrainedModel, settings: ModelSettings) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    assert settings.lora is not None
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=0.0,  # with dropout, teacher and student would differ at step 0
        target_modules="all-linear",
    )
    return get_peft_model(model, adapters)


def _why_not(source: str, folder: Path | None, offline: bool, error: Exception) -> str:
    first_line = (str(error).strip().split("\n") or [""])[0][:200]
    if folder:
        remedy = "the folder needs config.json, tokenizer files and model.safetensors"
    elif offline:
        remedy = f"the local hub cache holds only a part of it: run `hf download {source}` where there is a network"
    else:
        remedy = (
            f"check its files and the revision at {hub_address()}/{source}; only safetensors weights are accepted, "
            "and no code of the repository is run"
        )
    return f"`model.source`: cannot load {source!r}: {remedy} ({first_line})"
