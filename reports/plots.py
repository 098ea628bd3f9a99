"""The figures: axes in, axes out. Every function takes a study (or what was computed from it) and draws on `ax`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports.comparisons import BETTER, TITLES, Comparison
from reports.labels import Labelled, place_labels
from reports.measures import mean, mean_capability, rate
from reports.studies import Arm, Study
from reports.style import INK, MUTED, PAPER, Look, drawable

MOST_BANDS = 5  # ranges of more arms hide each other
AXIS = {
    "over_refusal_rate": "over-refusal: look-alike prompts refused (%)",
    "refusal_rate": "harmful prompts refused (%)",
    "capability": "mean capability (%)",
}


def trade_off(ax: Axes, study: Study, looks: Mapping[str, Look], kept: str) -> Axes:
    """Over-refusal against what should be kept (`refusal_rate` or `capability`); up and left is better.

    Crosses are 95 % intervals, faint lines an arm's way through its evaluation points. Grey diagonals join places of
    equal selectivity.
    """
    placed: dict[str, Labelled] = {}
    ways: list[list[tuple[float, float]]] = []
    for arm in study.arms:
        x, y = rate(arm, "over_refusal_rate"), _kept(arm, kept)
        if x is None or y is None:
            continue
        look = looks[arm.name]
        across, up = (100 * x.value, 100 * x.low, 100 * x.high), [100 * bound for bound in y]
        placed[arm.name] = Labelled(across[0], up[0], arm.name, marker(look))
        bars = [[(across[1], up[0]), (across[2], up[0])], [(across[0], up[1]), (across[0], up[2])]]
        for bar in bars:
            ax.plot(*zip(*bar, strict=True), color=look.colour, linewidth=0.9, alpha=0.45, zorder=2)
        way = _way(arm, study.base) if kept == "refusal_rate" else []
        ax.plot(*np.array(way).reshape(-1, 2).T, color=look.colour, linewidth=1, alpha=0.35, zorder=1)
        ax.plot(across[0], up[0], **marker(look), zorder=4)
        ways.append(way)
    ax.set(xlabel=AXIS["over_refusal_rate"], ylabel=AXIS[kept], xlim=(-4, 104))
    if kept == "refusal_rate":
        ax.set_ylim(-4, 104)
        if study.base.name in placed:
            _iso_lines(ax, placed[study.base.name])
    ax.set_title("↖ better", fontsize=9, color=MUTED, fontweight="normal", style="italic")
    place_labels(ax, list(placed.values()), [way for way in ways if len(way) > 1])
    return ax


def training_curve(ax: Axes, study: Study, looks: Mapping[str, Look], key: str, label: str) -> Axes:
    """One logged quantity over optimizer steps, an arm per line; several seeds: mean and range."""
    rows = [
        {"arm": arm.name, "seed": run.planned.seed, "step": row["step"], "value": row[key]}
        for arm in study.trained
        for run in arm.done
        for row in run.train
        if is_logged(row, key)
    ]
    if rows:
        frame = pd.DataFrame(rows)
        names = list(dict.fromkeys(frame["arm"]))
        banded = frame["seed"].nunique() > 1 and len(names) <= MOST_BANDS
        sns.lineplot(
            frame,
            x="step",
            y="value",
            hue="arm",
            hue_order=names,
            palette={name: looks[name].colour for name in names},
            errorbar=("pi", 100) if banded else None,
            err_kws={"alpha": 0.12, "linewidth": 0},
            linewidth=1.4,
            legend=False,
            ax=ax,
        )
        for index, (name, line) in enumerate(zip(names, ax.lines, strict=True)):
            every = max(1, -(-len(line.get_xdata()) // 4))  # type: ignore[arg-type]
            line.set(linestyle=looks[name].dashes, markevery=(index % every, every), **marker(looks[name], size=5))
    if key == "cosine":
        ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlabel="optimizer step", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def is_logged(row: Mapping[str, Any], key: str) -> bool:
    """Whether a step has the quantity; a skipped step has no angle worth showing."""
    skipped = key in ("cosine", "removed_fraction") and row.get("skipped")
    return isinstance(row.get(key), int | float) and not skipped


def forest(ax: Axes, comparisons: Sequence[Comparison], looks: Mapping[str, Look], measure: str, base: str) -> Axes:
    """Paired differences from the baseline with 95 % intervals; filled and starred where Holm's p < 0.05.

    A grey band is the noise floor: differences inside it can come from measuring alone.
    """
    names = list(dict.fromkeys(comparison.arm for comparison in comparisons))
    for comparison in comparisons:
        if comparison.measure != measure:
            continue
        row, estimate = names.index(comparison.arm), comparison.difference.estimate
        look = replace(looks[comparison.arm], marker="o")  # rows are named: here the marker only says found or not
        if estimate.low is not None and estimate.high is not None:
            ax.plot([100 * estimate.low, 100 * estimate.high], [row, row], color=look.colour, linewidth=1.6)
        ax.plot(100 * estimate.value, row, **marker(look, filled=comparison.found))
        if comparison.found and estimate.high is not None:
            ax.annotate(
                "*", (100 * estimate.high, row), xytext=(4, -3), textcoords="offset points", va="center", fontsize=11
            )
    floor = max((one.floor or 0.0 for one in comparisons if one.measure == measure), default=0.0)
    ax.axvspan(-100 * floor, 100 * floor, color=MUTED, alpha=0.3, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set(yticks=range(len(names)), yticklabels=[drawable(name) for name in names], ylim=(len(names) - 0.4, -0.6))
    better = "better →" if BETTER[measure] > 0 else "← better"
    ax.margins(x=0.12)
    ax.set(title=TITLES[measure], xlabel=f"points from {drawable(base)}\n{better}")
    return ax


def cost(ax: Axes, study: Study, looks: Mapping[str, Look]) -> Axes:
    """Seconds per optimizer step beside the harmful refusals kept minus the over-refusals left."""
    placed = []
    for arm in study.trained:
        x = mean(arm, lambda result: (s, None) if (s := result.training.seconds_per_step) is not None else None)
        over, harmful = rate(arm, "over_refusal_rate"), rate(arm, "refusal_rate")
        if x is None or over is None or harmful is None:
            continue
        look = marker(looks[arm.name])
        placed.append(Labelled(x.value, 100 * (harmful.value - over.value), arm.name, look))
        ax.plot(x.value, placed[-1].y, **look, zorder=4)
    ax.set(xlabel="seconds per optimizer step", ylabel="harmful refused − look-alikes refused (points)")
    ax.margins(x=0.1, y=0.3)
    ax.set_xlim(0, None)
    ax.set_title("↖ better", fontsize=9, color=MUTED, fontweight="normal", style="italic")
    place_labels(ax, placed)
    return ax


def handles(names: Sequence[str], looks: Mapping[str, Look]) -> list[Line2D]:
    """Legend entries of arms, in order."""
    return [
        Line2D([], [], linestyle=looks[name].dashes, **marker(looks[name], size=5), label=drawable(name))  # type: ignore[arg-type]
        for name in names
    ]


def marker(look: Look, size: float = 7, filled: bool | None = None) -> dict[str, Any]:
    """Arguments of `Axes.plot` for an arm's marker."""
    solid = look.filled if filled is None else filled
    return {
        "color": look.colour,
        "marker": look.marker,
        "markersize": size,
        "markerfacecolor": look.colour if solid else PAPER,
        "markeredgecolor": look.colour if not solid else PAPER,
        "markeredgewidth": 0.6 if solid else 1.5,
    }


def _kept(arm: Arm, measure: str) -> tuple[float, float, float] | None:
    """Value and interval of the quantity on the upright axis."""
    if measure == "refusal_rate":
        found = rate(arm, measure)
        return None if found is None else (found.value, found.low, found.high)
    average = mean(arm, mean_capability)
    if average is None:
        return None
    low, high = (average.value if bound is None else bound for bound in (average.low, average.high))
    return average.value, low, high


def _way(arm: Arm, base: Arm) -> list[tuple[float, float]]:
    """(over-refusal, harmful refusal) in percent from the base through an arm's evaluation steps, mean over seeds."""
    steps: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    if arm.reference:
        return []
    for result in (*base.results[:1], *arm.results):
        for evaluation in result.evaluations:
            over, harmful = (evaluation.metrics.get(name) for name in ("over_refusal_rate", "refusal_rate"))
            if over is not None and harmful is not None:
                point = (100 * over.value, 100 * harmful.value)
                steps.setdefault((evaluation.step, evaluation.final), []).append(point)
    return [tuple(np.mean(points, axis=0)) for _, points in sorted(steps.items())]


def _iso_lines(ax: Axes, base: Labelled) -> None:
    """Places of equal selectivity: parallels to the diagonal through the base."""
    for gain in (0, 25, 50, 75):
        start = base.y - base.x + gain
        ax.plot([-4, 104], [start - 4, start + 104], color=MUTED, linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)
        if gain:  # the diagonal through the base needs no name, and the base is in the way
            ax.annotate(
                f"selectivity +{gain}",
                (102 - start, 102),
                fontsize=7,
                color=MUTED,
                rotation=45,
                rotation_mode="anchor",
                transform_rotates_text=True,
                ha="right",
                va="bottom",
            )
