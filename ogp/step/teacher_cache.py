"""What the frozen teacher says about every loss-carrying token, computed once: memory-mapped and content-addressed.

A cache is two files named after the hash of everything its content depends on: `<key>.bin`, a [rows, columns] table of
raw numbers, and `<key>.json`, its shape and digest, written last. A torn, foreign or altered table fails its digest and
is rebuilt; it is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""

FORMAT = 1


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, shapes, dtypes and bytes of named tensors, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights, key=lambda item: item[0]):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(data.shape)} {data.dtype}\n".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokens_digest(sequences: Iterable[Sequence[int]]) -> str:
    """sha256 over lists of integers; where one list ends and the next begins matters."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(torch.tensor([len(sequence), *sequence], dtype=torch.int64).numpy().data)
    return digest.hexdigest()


def cache_key(**parts: str | int | float | None) -> str:
    """Name of the cache whose content is decided by `parts`: 32 hex digits."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_or_build(
    directory: Path,
    key: str,
    rows: int,
    produce: Callable[[], Iterator[tuple[int, Tensor]]],
    progress: Progress | None = None,
) -> Tensor:
    """The table [rows, columns] of the cache `key`, memory-mapped and read only by convention.

    Args:
        directory: where caches live; made if missing.
        produce: yields (first row, [n, columns] tensor) blocks, in any order, that cover all rows; called only if
            there is no intact table.

    Raises:
        OSError: the directory cannot be written, or the disk is full.
    """
    found = _load(directory, key)
    if found is not None and len(found) == rows:
        return found
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{key}.{os.getpid()}.tmp"
    try:
        table = _fill(temporary, rows, produce(), progress)
        entry = {"shape": list(table.shape), "dtype": str(table.dtype).removeprefix("torch."), "sha256": ""}
        del table
        entry["sha256"] = _file_digest(temporary)
        os.replace(temporary, directory / f"{key}.bin")
        _write(directory / f"{key}.json", json.dumps(entry))
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    built = _load(directory, key)
    if built is None:
        raise OSError(f"the teacher cache {directory / key}.bin cannot be read back: check the disk")
    return built


def _load(directory: Path, key: str) -> Tensor | None:
    """The table, or None where it is missing, torn, altered or not described."""
    data, description = directory / f"{key}.bin", directory / f"{key}.json"
    try:
        entry = json.loads(description.read_text())
        shape, dtype = tuple(entry["shape"]), getattr(torch, entry["dtype"])
        if _file_digest(data) != entry["sha256"]:
            return None
        return torch.from_file(str(data), shared=False, size=shape[0] * shape[1], dtype=dtype).view(shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError):
        return None


def _fill(path: Path, rows: int, blocks: Iterator[tuple[int, Tensor]], progress: Progress | None) -> Tensor:
    table: Tensor | None = None
    done = 0
    for start, block in blocks:
        if table is None:
            _reserve(path, rows * block.shape[1] * block.element_size())
            size = rows * block.shape[1]
            table = torch.from_file(str(path), shared=True, size=size, dtype=block.dtype).view(rows, block.shape[1])
        table[start : start + len(block)] = block.cpu()
        done += len(block)
        if progress is not None:
            progress(done, rows)
    assert table is not None
    assert done == rows, "the blocks of a teacher cache cover its rows exactly once"
    return table


def _reserve(path: Path, size: int) -> None:
    """Take the disk space now: a full disk is an OSError here, and a crash of the process under a memory map."""
    zeros = bytes(1 << 20)
    with path.open("wb") as file:
        for left in range(size, 0, -len(zeros)):
            file.write(zeros[:left])


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Write `text` and make it and the table beside it durable before the name appears."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
