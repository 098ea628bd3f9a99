"""The hub of models and data sets: is it there, and may we? Light, so that a run that cannot start says so at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from ogp.config import ModelSettings, PairsSettings, RunConfig
from ogp.network import hub_address, hub_reachable

Kind = Literal["model", "dataset"]


class HubError(ValueError):
    """Something on the hub that cannot be had; the text says what to do."""


def on_hub(source: str) -> bool:
    """Whether `source` is the id of something on the hub: not embedded, no file or folder, no path."""
    looks_local = source.startswith((".", "/", "~", "embedded:")) or source.count("/") > 1
    return not (looks_local or source.endswith((".jsonl", ".json")) or Path(source).exists())


def check_sources(config: RunConfig) -> None:
    """`HubError` for the first model or data set of `config` that is neither here nor to be had from the hub."""
    parts: list[BaseModel] = [config.model, config.evaluation]
    if config.training.steps:
        parts += [config.data, config.method]
    wanted = dict.fromkeys(each for part in parts for each in sources(part))
    if config.evaluation.base is not None:
        wanted[("model", config.evaluation.base, None)] = None
    for kind, source, revision in wanted:
        if on_hub(source):
            require(kind, source, revision)


def require(kind: Kind, source: str, revision: str | None = None) -> None:
    """`HubError` unless `source` is in the local hub cache or the hub lets us have it."""
    obstacle = _refusal(kind, source) if hub_reachable() else _missing(kind, source, revision)
    if obstacle:
        raise HubError(f"`{'model' if kind == 'model' else 'data'}.source`: {source!r} {obstacle}")


def sources(settings: BaseModel) -> Iterator[tuple[Kind, str, str | None]]:
    """(kind, source, revision) of every model and data set in `settings`, at any depth."""
    if isinstance(settings, ModelSettings):
        yield "model", settings.source, settings.revision
    elif isinstance(settings, PairsSettings):
        yield "dataset", settings.source, settings.revision
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, BaseModel):
                yield from sources(each)


def _missing(kind: Kind, source: str, revision: str | None) -> str | None:
    """What to do about something that is not in the local cache while the hub is away."""
    from huggingface_hub import constants, try_to_load_from_cache

    if kind == "model" and isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
        return None
    if kind == "dataset" and _prepared(Path(constants.HF_HUB_CACHE), Path(constants.HF_HOME) / "datasets", source):
        return None
    fetch = f"hf download {source}" + (" --repo-type dataset" if kind == "dataset" else "")
    instead = (
        "give the folder's path, or use embedded:over-refusing"
        if kind == "model"
        else "give the path of a .jsonl file with the same columns"
    )
    return (
        f"is not in the local hub cache, and the hub cannot be reached: run `{fetch}` where there is a network "
        f"(HF_HUB_OFFLINE unset), or {instead}"
    )


def _prepared(hub_cache: Path, home: Path, source: str) -> bool:
    """Whether a data set was downloaded, or made ready by `datasets`, which spells names its own way."""
    if (hub_cache / f"datasets--{source.replace('/', '--')}").is_dir():
        return True
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", home))
    return any(_letters(path.name) == _letters(source) for path in prepared.glob("*___*"))


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _refusal(kind: Kind, source: str) -> str | None:
    """What to do about something the hub does not hand out; None where it does, or does not say."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    hub = hub_address().rstrip("/")
    page = f"{hub}/{'datasets/' if kind == 'dataset' else ''}{source}"
    try:
        HfApi(endpoint=hub).auth_check(source, repo_type=kind)
    except GatedRepoError:
        return f"is gated: accept its licence at {page} and set HF_TOKEN to a token of the account that did"
    except RepositoryNotFoundError:
        return f"is not on the hub, or private: check the id at {page}; for a private one set HF_TOKEN"
    except (HfHubHTTPError, OSError):
        return None
    return None
