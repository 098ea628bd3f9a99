"""The page's figures, drawn from nothing but a record; the same record gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.measure import median_interval, ratios
from benchmarks.race import CORE
from reports.style import COLOURS, MUTED, new_figure, style

SFT, DUAL, THIRD = COLOURS[:3]
OWN = {"sft": MUTED, "dual": DUAL, "sft_ours": DUAL, "ghost": THIRD}
"""Colours of stock SFT and of ours among the competitors."""
LINEAR_AXES = ("answer_fraction",)
"""Drawn over an even scale; everything else doubles from size to size."""


def write_figures(record: dict[str, Any], folder: Path) -> None:
    """All figures as PNG."""
    drawings: dict[str, Callable[[dict[str, Any]], Figure]] = {
        "peers": peers,
        "growth-seconds": lambda record: growth(record, _seconds),
        "growth-ratios": lambda record: growth(record, _ratios),
        "head-memory": head_memory,
    }
    folder.mkdir(exist_ok=True)
    for name, draw in drawings.items():
        with style():
            buffer = BytesIO()
            draw(record).savefig(buffer, format="png", dpi=110, metadata={"Software": None}, facecolor="white")
        (folder / f"{name}.png").write_bytes(buffer.getvalue())


def peers(record: dict[str, Any]) -> Figure:
    """One panel per workload: paired ratio to stock SFT with its interval, with AdamW (full) and without (hollow)."""
    workloads = record["workloads"]
    counts = [len(workload["competitors"]) for workload in workloads.values()]
    figure = new_figure(8, 1.2 + 0.32 * sum(counts) + 0.45 * len(counts))
    panels = figure.subplots(len(counts), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for panel, (name, workload) in zip(panels, workloads.items(), strict=True):
        names = list(workload["competitors"])
        for row, competitor in enumerate(names):
            colour = OWN.get(competitor, SFT)
            for optimizer, face, shift in ((True, colour, -0.12), (False, "white", 0.16)):
                found = median_interval(ratios(workload["competitors"], competitor, "sft", optimizer=optimizer))
                panel.plot([found.low, found.high], [row + shift] * 2, color=colour, linewidth=1.5)
                panel.plot(found.median, row + shift, "o", color=colour, markerfacecolor=face, markersize=5)
        panel.axvline(1, color=MUTED, linewidth=0.8)
        panel.set(title=name, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    panels[-1].set_xlabel("step time over stock SFT; filled with AdamW, hollow without")
    return figure


def growth(record: dict[str, Any], draw: Callable[[Axes, list[dict[str, Any]]], None]) -> Figure:
    """One panel per axis of the growth measurement."""
    axes = record["growth"]
    figure = new_figure(11, 6)
    panels = figure.subplots(2, (len(axes) + 1) // 2, squeeze=False).ravel()
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    for panel, (name, axis) in zip(panels, axes.items(), strict=False):
        draw(panel, axis["points"])
        sizes = [point["size"] for point in axis["points"]]
        panel.set(title=name.replace("_", " "), xlabel=axis["label"])
        if name not in LINEAR_AXES:
            panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [f"{n // 1024:.0f}k" if (n := size) >= 8192 else f"{size:g}" for size in sizes])
        panel.xaxis.minorticks_off()
    panels[0].legend()
    return figure


def head_memory(record: dict[str, Any]) -> Figure:
    """Peak memory above the inputs: bounded by the chunk for ours, growing with tokens for all logits at once."""
    sweeps = record["head_memory"]
    figure = new_figure(8, 3.2)
    for panel, (name, sweep) in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps.items(), strict=True):
        sizes = [point["size"] for point in sweep["points"]]
        for side, colour, marker in (("all_logits", SFT, "s"), ("ours", DUAL, "o")):
            mebibytes = [point["peak_bytes"][side] / 2**20 for point in sweep["points"]]
            panel.plot(sizes, mebibytes, marker=marker, color=colour, label=side.replace("_", " "))
        panel.set(title=f"over {name}", xlabel=name, ylabel="MiB above the inputs", xscale="log")
        _log_scale(panel)
        panel.set_xticks(sizes, [f"{size // 1024}k" if size >= 8192 else str(size) for size in sizes])
        panel.xaxis.minorticks_off()
        panel.legend()
    return figure


def _seconds(panel: Axes, points: list[dict[str, Any]]) -> None:
    for side, label, colour, marker in zip(CORE, ("SFT", "dual"), (SFT, DUAL), "so", strict=True):
        found = [median_interval(point["competitors"][side]["seconds"]) for point in points]
        sizes = [point["size"] for point in points]
        panel.plot(sizes, [f.median for f in found], marker=marker, color=colour, label=label, linewidth=1.2)
        panel.fill_between(sizes, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.2, linewidth=0)
    panel.set_ylabel("seconds per step")
    _log_scale(panel)


def _log_scale(panel: Axes) -> None:
    """y by ratio, with plain numbers at 1, 2 and 5 times each power of ten."""
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _ratios(panel: Axes, points: list[dict[str, Any]]) -> None:
    sizes = [point["size"] for point in points]
    sft, dual = CORE
    found = [median_interval(ratios(point["competitors"], dual, sft)) for point in points]
    panel.plot(sizes, [f.median for f in found], "o-", color=DUAL, label="time, with AdamW")
    panel.fill_between(sizes, [f.low for f in found], [f.high for f in found], color=DUAL, alpha=0.2, linewidth=0)
    counted = [point["competitors"][dual]["flops"] / point["competitors"][sft]["flops"] for point in points]
    panel.plot(sizes, counted, "x", color=THIRD, label="FLOPs, counted")
    panel.plot(sizes, [p["expected_flop_ratio"] for p in points], "--", color=MUTED, label="FLOPs, cost model")
    panel.set(ylabel="dual over SFT", ylim=(0.9, None))
