"""How figures look: size, type, and a colour and marker for every arm, told apart without colour vision too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from ogp.results import write_atomic
from reports.escape import visible
from reports.studies import Arm, Study

INK = "#1f2329"  # text and axes; the HTML page replaces these two by its own colours
PAPER = "#fefefe"  # halo behind labels
MUTED = "#8a8f98"
# Okabe & Ito 2008 without black and yellow (too light for lines): distinct under the common colour blindnesses.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES: tuple[object, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (7, 2)), (0, (2, 1)))

LONGEST_NAME = 40

_SETTINGS: Any = {  # matplotlib types its keys since 3.11 only
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters everywhere
    "text.parse_math": False,  # names come from data: a dollar sign is a dollar sign
    "svg.hashsalt": "ogp",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Look:
    """An arm's appearance, the same in every figure of a study."""

    colour: str
    marker: str
    dashes: object
    filled: bool


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(text: str) -> str:
    """Text for a figure: one line, not too long, and only characters the font has."""
    line = " ".join(visible(text).split())
    short = line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"
    return "".join(character if ord(character) in _glyphs() else "□" for character in short)


@contextmanager
def style() -> Iterator[None]:
    """Settings of all figures; nothing outside the block changes."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a report
        mpl.rcParams.update(_SETTINGS)
        yield


def looks(study: Study) -> dict[str, Look]:
    """Colour says which rule an arm uses, marker and dashes which arm of that rule; references are hollow and grey.

    In a study of one rule or two, where that would say little, every arm has the next colour.
    """
    families = list(dict.fromkeys(_family(arm) for arm in study.trained))
    members: dict[str, int] = {}
    found: dict[str, Look] = {}
    for number, arm in enumerate(study.arms):
        family = _family(arm)
        member = members[family] = members.get(family, -1) + 1
        place = 0 if arm.reference else families.index(family)
        colour = COLOURS[(place if len(families) > 2 else number) % len(COLOURS)]
        marker = MARKERS[(member + 2 * place) % len(MARKERS)]
        dashes = DASHES[member % len(DASHES)]
        found[arm.name] = Look(MUTED if arm.reference else colour, marker, dashes, not arm.reference)
    return found


def _family(arm: Arm) -> str:
    """What arms of one colour share: the rule and, for a projection, when it is applied."""
    if arm.reference:
        return "reference"
    method = arm.section("method")
    when = method.get("when") if method.get("rule") == "orthogonal" else ""
    return f"{method.get('rule')} {when}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches; made without pyplot, so that no display and no global state is involved."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name` as PNG, SVG and PDF; the same figure gives the same bytes."""
    written = []
    for suffix, metadata in (
        ("png", {"Software": None}),
        ("svg", {"Date": None, "Creator": None, "Format": None, "Type": None}),
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    ):
        buffer = BytesIO()
        paper = "white" if suffix != "svg" else "none"
        figure.savefig(buffer, format=suffix, dpi=170, metadata=metadata, facecolor=paper)
        path = folder / f"{name}.{suffix}"
        write_atomic(path, buffer.getvalue())
        written.append(path)
    return written
