"""Which figures a study has, at which size, under which name, and the words that describe each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports import plots
from reports.comparisons import MEASURES, TITLES, Comparison
from reports.diagram import draw_step, typical_steps
from reports.layers import bound, cosines, layer_map, layered_arms
from reports.maps import forgetting_map, grid_map, grids
from reports.measures import few_arms, mean, mean_capability, rate, tasks
from reports.studies import Study
from reports.style import looks, new_figure, save, style

CURVES = (
    (
        "training",
        "Training losses",
        "Loss on the target answers, and KL from the teacher (the opposed loss), at every optimizer step.",
        (("train_loss_step", "target loss"), ("opposed_loss_step", "opposed loss: KL (nats)")),
    ),
    (
        "cosine",
        "Angle between the two gradients, and how much of the target gradient was removed",
        "Below zero the gradients are conflicting, above zero aligned.",
        (("cosine", "cosine of target and opposed gradient"), ("removed_fraction", "removed fraction")),
    ),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure. `values` are its numbers in words, for those who cannot see it."""

    name: str
    title: str
    description: str
    figure: Figure
    values: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure on disk. `title` and `description` are its caption; `alternative` is for those who cannot see it."""

    name: str
    title: str
    description: str
    alternative: str
    files: tuple[Path, ...]


def draw_figures(study: Study, comparisons: list[Comparison], folder: Path) -> list[Drawn]:
    """Draw every figure the study has data for into `folder`."""
    few = few_arms(study)
    left_out = f" {len(study.trained) - len(few.trained)} arms are left out." if few is not study else ""
    drawn = []
    with style():
        for picture in _pictures(few, comparisons):
            files = save(picture.figure, folder, f"{study.name}-{picture.name}")
            description = picture.description + left_out
            alternative = f"{picture.title}. {description} {picture.values}".rstrip()
            drawn.append(Drawn(picture.name, picture.title, description, alternative, tuple(files)))
    return drawn


def _pictures(study: Study, comparisons: list[Comparison]) -> Iterator[Picture]:
    if any(rate(arm, "over_refusal_rate") for arm in study.arms):
        yield _trade_off(study, "trade_off", "Over-refusal against refusal of harmful prompts", "refusal_rate")
    if any(tasks(result) for result in study.results):
        yield _trade_off(study, "trade_off_capability", "Over-refusal against mean capability", "capability")
    shown = [one for one in comparisons if one.arm in {arm.name for arm in study.trained}]
    if shown:
        yield _forest(study, shown)
    if any(run.train for arm in study.trained for run in arm.done):
        yield from _curves(study)
    yield from _layers(study)
    yield from _vectors(study)
    if any(tasks(result) for result in study.results):
        yield _forgetting(study)
    yield from _grids(study)
    if any(result.training.seconds_per_step is not None for result in study.results):
        yield _cost(study)


def _trade_off(study: Study, name: str, title: str, kept: str) -> Picture:
    figure = new_figure(7.6, 5.4)
    plots.trade_off(figure.subplots(), study, looks(study), kept)
    parts = []
    for arm in study.arms:
        x = rate(arm, "over_refusal_rate")
        y = rate(arm, kept) if kept == "refusal_rate" else mean(arm, mean_capability)
        if x is not None and y is not None:
            parts.append(f"{arm.name} {100 * x.value:.0f} % and {100 * y.value:.0f} %")
    description = "Each point is an arm with its 95 % intervals; up and left is better."
    if kept == "refusal_rate":
        description += " Faint lines lead from the base through the arm's evaluations; dotted: equal selectivity."
    return Picture(name, title, description, figure, "Over-refusal and what is kept: " + "; ".join(parts) + ".")


def _forest(study: Study, shown: list[Comparison]) -> Picture:
    measures = [measure for measure in MEASURES if any(one.measure == measure for one in shown)]
    figure = new_figure(8.6, 1.3 + 0.27 * len({one.arm for one in shown}))
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)
    for ax, measure in zip(axes[0], measures, strict=True):
        plots.forest(ax, shown, looks(study), measure, study.baseline.name)
    return Picture(
        "forest",
        f"Paired differences from {study.baseline.name}",
        "Bars are 95 % intervals. Filled and starred: still different after Holm's correction over all arms and "
        "measures (p < 0.05)." + _floor_text(shown),
        figure,
        "; ".join(f"{one.arm}, {one.measure}: {one.text}" for one in shown) + ".",
    )


def _floor_text(shown: list[Comparison]) -> str:
    floors = {one.measure: one.floor for one in shown if one.floor is not None}
    parts = [f"{TITLES[measure].lower()} {100 * floor:.1f}" for measure, floor in floors.items()]
    return f" Grey: noise floor, the base measured again ({', '.join(parts)} points)." if parts else ""


def _curves(study: Study) -> Iterator[Picture]:
    seen = looks(study)
    for name, title, description, keys in CURVES:
        names = [
            arm.name
            for arm in study.trained
            if any(plots.is_logged(row, key) for run in arm.done for row in run.train for key, _ in keys)
        ]
        if names:
            figure = new_figure(8.6, 3.4 + 0.2 * -(-len(names) // 4))
            for ax, (key, label) in zip(figure.subplots(1, 2), keys, strict=True):
                plots.training_curve(ax, study, seen, key, label)
            figure.legend(handles=plots.handles(names, seen), loc="outside lower center", ncols=4)
            yield Picture(name, title, description, figure)


def _layers(study: Study) -> Iterator[Picture]:
    arms = layered_arms(study)
    panels = [found for arm in arms if (found := cosines(arm.done[0])) is not None]
    if panels:
        figure = new_figure(1.6 + 2.1 * max(2, len(panels)), 3.8)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        end = bound(panels)
        meshes = [layer_map(*one, end) for one in zip(axes, arms, panels, strict=True)]
        axes[0].set_ylabel("depth: embeddings to head")
        scale = figure.colorbar(meshes[0], ax=list(axes), aspect=30, pad=0.02)
        scale.set_label("conflicting ← cosine → aligned")
        scale.outline.set_visible(False)
        yield Picture(
            "layers",
            "Cosine of target and opposed gradient by layer",
            "One run of each rule; depth 0 is the embeddings, the last the final norm and head. A global projection "
            "takes the same share of the opposed gradient off every layer, whatever the layer's own angle is. Steps "
            "below noise are left blank.",
            figure,
            "; ".join(f"{arm.name}: {_extremes(found)}" for arm, found in zip(arms, panels, strict=True)) + ".",
        )


def _extremes(values: NDArray[np.float64]) -> str:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a depth without any figure
        means = np.nanmean(values, axis=1)
    low, high = int(np.nanargmin(means)), int(np.nanargmax(means))
    return f"mean cosine from {means[low]:.2f} at depth {low} to {means[high]:.2f} at depth {high}"


def _vectors(study: Study) -> Iterator[Picture]:
    steps = typical_steps(study)
    if steps:
        columns = min(2, len(steps))
        rows = -(-len(steps) // 2)
        figure = new_figure(4.3 * columns, 2.7 * rows)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for ax, (arm, row) in zip(axes, steps, strict=False):
            draw_step(ax, arm, row)
        for ax in axes[len(steps) :]:
            ax.axis("off")
        yield Picture(
            "vectors",
            "What each rule does to the target gradient",
            "The plane of the two gradients at the step with the median cosine of one run per rule, drawn from its "
            "real angle and norms; dashed is what was removed. The update goes against the applied gradient.",
            figure,
            "; ".join(f"{arm.name}: cosine {row['cosine']:.2f} at step {row['step']}" for arm, row in steps) + ".",
        )


def _forgetting(study: Study) -> Picture:
    columns = len({task for result in study.results for task in tasks(result)})
    figure = new_figure(2.6 + 0.85 * columns, 1.2 + 0.27 * len(study.arms))
    forgetting_map(figure.subplots(), study)
    description = "Base minus arm in points; positive (red) has lost. Numbers are in the table of tasks."
    return Picture("forgetting", "Forgetting by task", description, figure)


def _grids(study: Study) -> Iterator[Picture]:
    found = grids(study)
    if found:
        figure = new_figure(3.4 * max(2, len(found)), 3.2)
        for ax, (title, values) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            grid_map(ax, values, title)
        yield Picture(
            "grid",
            "Weight and learning rate",
            "Harmful refusal minus over-refusal in points; blue is better.",
            figure,
        )


def _cost(study: Study) -> Picture:
    figure = new_figure(7.2, 4.2)
    plots.cost(figure.subplots(), study, looks(study))
    return Picture("cost", "Cost beside quality", "Seconds per optimizer step and what they buy.", figure)
