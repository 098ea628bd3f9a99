"""The judge against people on a study's own replies, and refusal rates corrected for its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ogp.judge_errors import CorrectedRate, JudgeErrors, corrected_rate
from ogp.results import Side
from reports.measures import rate
from reports.runs import METRIC_OF, SIDES
from reports.studies import Arm, Study


def judge_errors(study: Study) -> dict[Side, JudgeErrors]:
    """The judge's errors on this study's labelled replies, by side; replies that people call partial are left out.

    A side whose labels are all of one kind cannot show both errors: it gets those of all sides together.
    """
    if not study.labels:
        return {}
    verdicts: dict[tuple[str, str, str], bool] = {
        (run.planned.run_id, side, prompt): bool(verdict)
        for arm in study.arms
        for run in arm.done
        for side in SIDES
        if (scores := run.final_verdicts(side)) is not None
        for prompt, verdict in zip(scores.ids, scores.values, strict=True)
    }
    counts = Counter(
        (label.side, label.label, verdicts[label.run_id, label.side, label.id])
        for label in study.labels
        if (label.run_id, label.side, label.id) in verdicts
    )

    def errors(sides: Sequence[str]) -> JudgeErrors:
        def count(label: str, refused: bool) -> int:
            return sum(counts[side, label, refused] for side in sides)

        return JudgeErrors(
            count("refusal", True), count("refusal", False), count("compliance", False), count("compliance", True)
        )

    found: dict[Side, JudgeErrors] = {}
    for side in SIDES:
        own = errors((side,))
        chosen = own if own.refusals and own.compliances else errors(SIDES)
        if chosen.refusals and chosen.compliances:
            found[side] = chosen
    return found


def corrected(arm: Arm, side: Side, errors: JudgeErrors | None) -> CorrectedRate | None:
    """An arm's refusal rate behind the judge's errors; None without labels, or where the judge tells nothing.

    n is that of one seed: further seeds answer the same prompts.
    """
    found = rate(arm, METRIC_OF[side])
    if found is None or errors is None:
        return None
    n = found.n / len(arm.results)
    try:
        return corrected_rate(found.value * n, n, errors)
    except ValueError:  # no better than chance on this sample: the raw rate stands alone, and a note says so
        return None
