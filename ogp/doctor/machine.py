"""The machine: versions, device, threads, memory, disk."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from ogp.doctor.finding import Finding, size
from ogp.embedded import cache_dir

RUN_MEMORY = 8 << 30  # bytes: the most a run of the embedded model may take
CACHE_SPACE = 4 << 30  # bytes: embedded models, teacher states, base replies
RUN_SPACE = 2 << 30  # bytes: a checkpoint of the embedded model with its optimizer's moments, and the records
SHOWN = ("ogp", "torch", "transformers", "accelerate", "peft", "lm-eval", "wandb")


def versions() -> Iterator[Finding]:
    """Python, every required package against its allowed range, and the extra for clusters."""
    from packaging.requirements import Requirement  # every installer brings it

    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    found, wrong = {}, []
    try:
        needed = [Requirement(text) for text in ["ogp", *(requires("ogp") or ())]]
    except PackageNotFoundError:
        needed = [Requirement("ogp")]
    for each in needed:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            found[each.name] = version(each.name)
        except PackageNotFoundError:
            wrong.append(f"{each.name} is not installed")
            continue
        if not each.specifier.contains(found[each.name], prereleases=True):
            wrong.append(f"{each.name} is {found[each.name]}, needed is {each.specifier}")
    if wrong:
        yield Finding("problem", "packages", "; ".join(wrong), "run `make setup`, or `pip install -e .`")
    else:
        yield Finding("ok", "packages", ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found))
    if find_spec("ray") is None:
        yield Finding("ok", "ray", "not installed; only several machines need it: `pip install 'ogp[cluster]'`")
    else:
        yield Finding("ok", "ray", version("ray"))


def device() -> Iterator[Finding]:
    """The GPUs torch can use, or why it uses none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("problem", "device", f"torch does not load: {error}", "install it again: `make setup`")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found = f"{torch.cuda.get_device_name(index)}, {size(free)} of {size(total)} free (CUDA {torch.version.cuda})"
        if free < total / 2:
            yield Finding("note", "device", found, "another process uses this GPU: `nvidia-smi` shows which")
        else:
            yield Finding("ok", "device", found)
    if torch.cuda.is_available():
        return
    cards = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if cards:
        remedy = "see `nvidia-smi` (driver) and CUDA_VISIBLE_DEVICES"
        if torch.version.cuda is None:
            remedy = "this torch is built without CUDA: install its CUDA build"
        yield Finding("note", "device", f"{cards} GPUs that torch cannot use, so the CPU", remedy)
    else:
        yield Finding("ok", "device", f"CPU only, {torch.backends.cpu.get_cpu_capability()}")


def threads() -> Iterator[Finding]:
    """Cores this process may use, and settings that make it use more."""
    cores, chosen = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    found, remedy = f"{cores} cores of {os.cpu_count()}, OMP_NUM_THREADS {chosen or 'unset'}", ""
    with contextlib.suppress(OSError, ValueError):
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # "max 100000" without a limit
        if int(limit) < cores * int(period):
            found += f", CPU time for {int(limit) / int(period):.1f} cores"
            remedy = f"give `--workers` at most {max(1, int(limit) // int(period))}: more runs wait for each other"
    if chosen and (not chosen.isdigit() or int(chosen) > cores):
        remedy = f"set OMP_NUM_THREADS to at most {cores}, or unset it"
    yield Finding("note" if remedy else "ok", "threads", found, remedy)


def memory() -> Iterator[Finding]:
    """Free memory, and how many runs fit side by side."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # "max" without a limit
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    fit = f"{size(free)} free, {free // RUN_MEMORY} runs of at most {size(RUN_MEMORY)} fit side by side"
    if free < RUN_MEMORY:
        yield Finding("problem", "memory", fit, "end other programs, or use a machine with more")
    else:
        yield Finding("ok", "memory", fit)


def disk(results: Path) -> Iterator[Finding]:
    """Free space, and the right to write, where the cache and the results are or would be made."""
    for topic, folder, need, remedy in (
        ("cache folder", cache_dir(), CACHE_SPACE, "set OGP_CACHE to another folder"),
        ("results folder", results.absolute(), RUN_SPACE, "give another folder with --results"),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                free = shutil.disk_usage(there).free
        except OSError as error:
            yield Finding("problem", topic, f"{folder}: {error.strerror or error}", remedy)
            continue
        if free < need:
            found = f"{folder}: {size(free)} free, needed are {size(need)}"
            yield Finding("problem", topic, found, f"make room, or {remedy}")
        else:
            yield Finding("ok", topic, f"{folder}: {size(free)} free")
