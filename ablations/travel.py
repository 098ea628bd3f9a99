"""Between the runner and a node without a common file system: a run's folder back, the over-refusing model there."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.job import CHECKPOINTS, Job, begin
from ogp.embedded import MANIFEST, is_complete, new_folder, over_refusing_folder

VARIANT = "embedded:over-refusing"


@dataclass(frozen=True)
class Luggage:
    """What every task is given: where the runner's results are and how to know them, and the model it has made."""

    mark: Path
    nonce: str
    model: Any = None
    """Reference to the packed over-refusing model, where a run needs it."""
    manifest: str = ""
    """Hashes of its files."""

    @classmethod
    def of(cls, results: Path, jobs: Sequence[Job], put: Callable[[bytes], Any]) -> Luggage:
        """Leave a mark in `results`, and `put` the model where nodes can fetch it."""
        mark, nonce = results / ".seen-by-nodes", uuid.uuid4().hex
        mark.write_text(nonce)
        wanted = {source for job in jobs for source in (job.config.model.source, job.config.evaluation.base)}
        if VARIANT not in wanted:
            return cls(mark, nonce)
        folder = over_refusing_folder()
        return cls(mark, nonce, put(pack(folder)), (folder / MANIFEST).read_text())


def sees(luggage: Luggage) -> bool:
    """Whether this machine sees the runner's results folder under the same path."""
    try:
        return luggage.mark.read_text() == luggage.nonce
    except OSError:
        return False


def pack(folder: Path) -> bytes:
    """A folder's files as an archive, without checkpoints."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, arcname=".", filter=lambda each: None if CHECKPOINTS in Path(each.name).parts else each)
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """The files of `pack` in an existing folder; nothing can get out of it."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def brought_back(packed: bytes, folder: Path) -> None:
    """Put a run's folder in the place of what the runner has of it, as a whole."""
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    old = draft.with_name(f"{draft.name}.old")
    try:
        unpack(packed, draft)
        draft.chmod(folder.stat().st_mode)
        folder.rename(old)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch_copy(job: Job, *, shared: bool) -> Iterator[Job]:
    """The job as this node executes it: in the runner's folder where it is `shared`, else in one of its own."""
    if shared:
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="ogp-", ignore_cleanup_errors=True) as scratch:
        mine = replace(job, folder=Path(scratch) / job.run_id)
        begin(mine)
        yield mine


def unpack_model(luggage: Luggage, job: Job) -> None:
    """Give this node the runner's over-refusing model: made twice, on two kinds of machines, it would not be the same.

    Errors: `ValueError` where another one is in this node's cache.
    """
    if luggage.model is None:
        return
    folder = over_refusing_folder()
    if not is_complete(folder):
        import ray

        with new_folder(folder) as draft:
            unpack(ray.get(luggage.model), draft)
            (draft / MANIFEST).unlink()
    if (folder / MANIFEST).read_text() != luggage.manifest:
        raise ValueError(
            f"node {os.uname().nodename}: its over-refusing model is not the runner's: delete {folder} there, or "
            "let OGP_CACHE name a folder that all nodes share"
        )
