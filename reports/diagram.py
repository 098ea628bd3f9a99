"""The two gradients of a real step as vectors: their angle and lengths, what the rule removes, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from reports.runs import Run
from reports.studies import Arm, Study
from reports.style import COLOURS, INK, MUTED, drawable

Vector = NDArray[np.float64]

TARGET, OPPOSED, APPLIED = COLOURS[0], COLOURS[1], COLOURS[2]
LONGEST, SHORTEST = 0.9, 0.3  # of the opposed gradient as drawn, in lengths of the target gradient
MOST_PANELS = 4


def typical_steps(study: Study) -> list[tuple[Arm, dict[str, Any]]]:
    """(arm, row of train.jsonl): an arm per rule, of weight nearest 1, and the median cosine of its first run."""
    found: dict[tuple[str, str], tuple[Arm, dict[str, Any]]] = {}
    for arm in sorted(study.trained, key=lambda arm: abs(float(arm.section("method").get("w_opposed", 1.0)) - 1)):
        method = arm.section("method")
        rule = str(method.get("rule")), str(method.get("when")) if method.get("rule") == "orthogonal" else ""
        known = rule[0] in ("orthogonal", "difference") and _is_plane(method)
        step = _median_step(arm.done[0]) if arm.done and known else None
        if step is not None and rule not in found:
            found[rule] = (arm, step)
    # Projections first: the diagram is about them.
    return sorted(found.values(), key=lambda pair: pair[0].section("method")["rule"] != "orthogonal")[:MOST_PANELS]


def vectors(row: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Vector]:
    """`target`, `opposed` and `applied` gradient (2,) in units of the target's length, the opposed one along x.

    Global granularity: applied = w_t target - w_o cos(target, opposed) opposed / |opposed| where the step projected.
    The opposed gradient keeps its true length here; only its drawing is bounded.
    """
    cosine, ratio = float(row["cosine"]), float(row["norm_opposed"]) / float(row["norm_target"])
    target = np.array([cosine, np.sqrt(max(0.0, 1 - cosine**2))])
    opposed = np.array([ratio, 0.0])
    w_target, w_opposed = float(method.get("w_target", 1.0)), float(method.get("w_opposed", 1.0))
    removed = opposed if method.get("rule") == "difference" else np.array([cosine, 0.0])
    applied = w_target * target - (w_opposed * removed if row.get("projected") else 0.0)
    return {"target": target, "opposed": opposed, "applied": applied}


def draw_step(ax: Axes, arm: Arm, row: Mapping[str, Any]) -> Axes:
    """One panel: target, opposed and applied gradient of the step; the removed part is dashed."""
    method = arm.section("method")
    found = vectors(row, method)
    ratio, cosine = float(found["opposed"][0]), float(row["cosine"])
    # A projection does not depend on the opposed gradient's length, so a very long or short one is drawn bounded.
    shown = ratio if method.get("rule") == "difference" else float(np.clip(ratio, SHORTEST, LONGEST))
    drawn = found | {"opposed": np.array([shown, 0.0])}
    ax.plot(*np.array([found["target"], found["applied"]]).T, color=MUTED, linewidth=1.1, linestyle=(0, (3, 2)))
    for name, colour in (("opposed", OPPOSED), ("target", TARGET), ("applied", APPLIED)):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
        ax.annotate("", drawn[name], (0, 0), arrowprops=arrow)
    same = bool(np.allclose(found["target"], found["applied"], atol=0.02))
    _name(ax, drawn["opposed"], "opposed" if shown == ratio else "opposed (not to scale)", "center")
    left, right = sorted(("target", "applied"), key=lambda name: (drawn[name][0], name))
    _name(ax, drawn[left], "target = applied" if same else left, "center" if same else "right")
    if not same:
        _name(ax, drawn[right], right, "left")
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    arc = np.radians(np.linspace(0, angle, 40))
    ax.plot(0.2 * np.cos(arc), 0.2 * np.sin(arc), color=INK, linewidth=0.8)
    middle = np.radians(angle / 2)
    ax.text(0.36 * np.cos(middle), 0.36 * np.sin(middle), f"{angle:.0f}°", ha="center", va="center", fontsize=8)
    ax.update_datalim([*drawn.values(), (0, 0)])  # arrows do not count by themselves
    ax.set_aspect("equal")
    ax.margins(x=0.2, y=0.15)
    ax.axis("off")
    ax.set_title(drawable(arm.name), fontsize=9)
    length = float(np.linalg.norm(found["applied"]))
    facts = f"step {row['step']}, cosine {cosine:.2f}\nopposed {ratio:.2f}, applied {length:.2f} (target 1)"
    ax.text(0.0, -0.05, facts, transform=ax.transAxes, fontsize=7.5, va="top", color=INK)
    return ax


def _is_plane(method: Mapping[str, Any]) -> bool:
    """Whether two gradients of the whole model decide a step: other steps have no two-dimensional picture."""
    sources = method.get("gradients") or [{"role": "opposed"}]
    opposed = isinstance(sources, list) and [isinstance(s, dict) and s.get("role") for s in sources] == ["opposed"]
    whole = method.get("granularity", "global") == "global" and method.get("space", "gradient") == "gradient"
    return opposed and whole


def _median_step(run: Run) -> dict[str, Any] | None:
    """The step in the middle of a run's cosines; skipped steps and incomplete rows do not count."""
    needed = ("cosine", "norm_target", "norm_opposed")
    complete = (row for row in run.train if all(isinstance(row.get(key), int | float) for key in needed))
    rows = [row for row in complete if not row.get("skipped") and row["norm_target"] > 0]
    return sorted(rows, key=lambda row: (row["cosine"], row["step"]))[len(rows) // 2] if rows else None


def _name(ax: Axes, tip: Vector, text: str, side: str) -> None:
    """A name above an arrow's tip, or below a flat arrow."""
    up = -10 if abs(tip[1]) < 0.1 else 8
    place = (float(tip[0]), float(tip[1]))
    ax.annotate(text, place, xytext=(0, up), textcoords="offset points", ha=side, va="center", fontsize=8)
