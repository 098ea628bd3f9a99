"""Where in the model the two gradients meet: their cosine at every depth and optimizer step, a panel per rule."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reports.runs import Run
from reports.studies import Arm, Study
from reports.style import drawable

MOST_PANELS = 4
SHADES = 20  # few enough for matplotlib to draw the colour bar as shapes, not as a picture


def layered_arms(study: Study) -> list[Arm]:
    """The arm of weight nearest 1 of every rule that logged its gradients by depth; projections first."""
    found: dict[tuple[str, ...], Arm] = {}
    for arm in sorted(study.trained, key=lambda arm: abs(float(arm.section("method").get("w_opposed", 1.0)) - 1)):
        method = arm.section("method")
        rule = str(method.get("rule"))
        key = (rule, str(method.get("when")) if rule == "orthogonal" else "", str(method.get("granularity", "global")))
        if key not in found and arm.done and cosines(arm.done[0]) is not None:
            found[key] = arm
    return sorted(found.values(), key=lambda arm: arm.section("method").get("rule") != "orthogonal")[:MOST_PANELS]


def cosines(run: Run) -> NDArray[np.float64] | None:
    """(depths, steps) cosine of target and opposed gradient, from the embeddings to the final norm and head.

    NaN where a step was skipped or has no figure; None for a run that logged none.
    """
    rows = [_row(row.get("layers")) for row in run.train]
    depths = {len(row) for row in rows if row is not None}
    if len(depths) != 1:
        return None
    (depth,) = depths
    columns = [
        [np.nan] * depth if found is None or row.get("skipped") else found
        for row, found in zip(run.train, rows, strict=True)
    ]
    values = np.array(columns, dtype=float).T
    return values if np.isfinite(values).any() else None


def bound(panels: Sequence[NDArray[np.float64]]) -> float:
    """The end of the colour scale that all panels share: the largest cosine, rounded up to a tenth."""
    return max(0.1, float(np.ceil(10 * max(np.nanmax(np.abs(values)) for values in panels)) / 10))


def layer_map(ax: Axes, arm: Arm, values: NDArray[np.float64], end: float) -> QuadMesh:
    """One arm's first run: steps across, depth upwards, colour is the cosine in [-end, end]."""
    steps = [row["step"] for row in arm.done[0].train]
    across = np.arange(len(steps) + 1) - 0.5 + steps[0]
    up = np.arange(len(values) + 1) - 0.5
    shades = mpl.colormaps["PuOr"].resampled(SHADES)
    mesh = ax.pcolormesh(across, up, values, cmap=shades, vmin=-end, vmax=end)
    ax.set(xlabel="optimizer step", title=drawable(arm.name))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(False)
    return mesh


def _row(layers: object) -> list[float] | None:
    """The cosines of one step; None where the row is not what the record promises."""
    if not isinstance(layers, list) or not layers:
        return None
    found = [layer[0] if isinstance(layer, list) and layer else None for layer in layers]
    return [float(value) if isinstance(value, int | float) else np.nan for value in found]
