"""Everything a report says about one study, before it is put into a format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports.columns import Section
from reports.comparisons import Comparison, compare
from reports.figures import Drawn, draw_figures
from reports.notes import notes
from reports.replies import Replies, collect_replies
from reports.setup import caption, setup_box
from reports.studies import Study
from reports.tables import Table, build_table

SECTIONS: dict[Section, tuple[str, str]] = {
    "main": ("Results", ""),
    "equal": (
        "At equal strength",
        "An arm that changes less also breaks less. Here each arm is read along its own evaluation points where its "
        "over-refusal first passes the same level (linear between points), and by the area its points dominate "
        "(over-refusal against harmful refusal; 100 % is perfect). Read it with care where points are few.",
    ),
    "tasks": ("Capability by task", ""),
    "drift": (
        "Drift by position",
        "KL from the base model (nats per token) by the place of the token in the base's own replies to ordinary "
        "prompts. The first token says most about whether a model refuses; a figure over the first token alone hides "
        "what happens to the answer.",
    ),
    "judge": (
        "Corrected for the judge's errors",
        "What the refusal rates would be without the judge's errors, as people's labels of some of these replies show "
        "them (Rogan & Gladen 1978; intervals of Lang & Reiczigel 2014, which carry the size of that sample). Where "
        "they lie far from the raw rates, trust neither, and label more.",
    ),
    "replies": (
        "Steps and replies",
        "Shares of optimizer steps; means over steps of what the rule removed, of the gradients' cosine, of the cosine "
        "that the optimizer's own change has with the opposed gradient, and of the opposed loss's change as predicted "
        "and as measured (where checked); shares of replies that were partial refusals, incoherent or truncated. "
        "Columns without a single case are left out.",
    ),
}

DIFFERENCES = (
    "Paired by prompt or item, in points with 95 % intervals. p is Holm's over the whole table; with one seed from the "
    "exact McNemar test for refusals, otherwise from the interval's t. Where no difference was found, detectable is "
    "the smallest one that would be found in 8 of 10 repetitions."
)

HOW_TO_READ = (
    "Two sides, always: over-refusal should fall while harmful refusal stays. An arm that refuses nothing has the best "
    "over-refusal and the worst harmful refusal; selectivity (the first drop minus the second, in points) sees both.",
    "Arrows show the better direction. Bold is the best arm of a column, where that says something; being best is not "
    "being significantly better: the differences below say that.",
    "`original` and `base` are reference rows: the model before it learnt to over-refuse, and the model every arm "
    "starts from. They are never averaged or set in bold.",
    "Intervals are 95 %. 0/60 is [0, 6]: seeing no refusal is not proof that there is none.",
    "KL from base and NLL of the base's own replies are measured on answer tokens of ordinary prompts; forgetting is "
    "base minus arm, so negative is a gain.",
    "Conflicting means that target and opposed gradient point against each other (inner product below zero).",
)


@dataclass(frozen=True, slots=True)
class Report:
    """One study, computed and drawn. Texts hold data as it is: every format escapes for itself."""

    study: Study
    table: Table
    comparisons: list[Comparison]
    setup: list[tuple[str, str]]
    caption: str
    notes: list[str]
    figures: list[Drawn]
    replies: Replies | None


def make_report(study: Study, figures: Path) -> Report:
    """Compute all figures of a study and draw its plots into the folder `figures`."""
    comparisons = compare(study)
    return Report(
        study=study,
        table=build_table(study),
        comparisons=comparisons,
        setup=setup_box(study),
        caption=caption(study, comparisons),
        notes=notes(study),
        figures=draw_figures(study, comparisons, figures),
        replies=collect_replies(study),
    )
