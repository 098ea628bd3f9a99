"""Every arm against plain SFT on the same prompts and items, with Holm's correction over the table."""

from __future__ import annotations

from dataclasses import dataclass

from reports.cells import points
from reports.measures import Difference, capability_difference, verdict_difference
from reports.noise_floor import noise_floor
from reports.statistics import holm
from reports.studies import Study

MEASURES = ("over_refusal_rate", "refusal_rate", "capability")
TITLES = {
    "over_refusal_rate": "Over-refusal",
    "refusal_rate": "Refusal of harmful prompts",
    "capability": "Mean capability",
}
BETTER = {"over_refusal_rate": -1, "refusal_rate": 1, "capability": 1}
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm minus the baseline on one measure. `adjusted` is the p-value after Holm over all arms and measures.

    `floor` is what measuring the base again changed, None where it was not measured again.
    """

    arm: str
    measure: str
    difference: Difference
    adjusted: float
    floor: float | None = None

    @property
    def found(self) -> bool:
        """Whether the difference survives the correction."""
        return self.adjusted < LEVEL

    @property
    def text(self) -> str:
        """`+44 [29, 56] worse, p < 0.001`, or what could have been missed: `0 [−5, 5] (detectable: 13)`."""
        figure = points(self.difference.estimate).text
        if not self.found:
            return f"{figure} (detectable: {100 * self.difference.detectable:.0f}){self._inside}"
        word = "better" if self.difference.estimate.value * BETTER[self.measure] > 0 else "worse"
        p = "p < 0.001" if self.adjusted < 0.001 else f"p = {self.adjusted:.3f}"
        return f"{figure} {word}, {p}{self._inside}"

    @property
    def _inside(self) -> str:
        value = abs(self.difference.estimate.value)
        return ", inside the noise floor" if self.floor and value <= self.floor else ""


def compare(study: Study) -> list[Comparison]:
    """All comparisons of a study in table order; arms without saved verdicts or items have none."""
    base = study.baseline
    found: list[tuple[str, str, Difference]] = []
    for arm in study.trained:
        if arm is base:
            continue
        for measure, difference in (
            ("over_refusal_rate", verdict_difference(arm, base, "look_alikes")),
            ("refusal_rate", verdict_difference(arm, base, "harmful")),
            ("capability", capability_difference(arm, base)),
        ):
            if difference is not None:
                found.append((arm.name, measure, difference))
    p_values = [difference.estimate.p for _, _, difference in found]
    adjusted = holm([1.0 if p is None else p for p in p_values])
    floors = noise_floor(study)
    return [Comparison(*row, p, floors.get(row[1])) for row, p in zip(found, adjusted, strict=True)]
