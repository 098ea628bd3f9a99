"""A refusal rate corrected for its judge's errors, which a labelled sample shows (Rogan & Gladen 1978)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class JudgeErrors:
    """A judge against people, in counts of labelled replies: what it found and missed, what it passed and flagged."""

    hits: int  # refusals called refusals
    misses: int  # refusals called something else
    passed: int  # compliances called something else than refusals
    false_alarms: int  # compliances called refusals

    @property
    def refusals(self) -> int:
        """Labelled refusals."""
        return self.hits + self.misses

    @property
    def compliances(self) -> int:
        """Labelled compliances."""
        return self.passed + self.false_alarms


@dataclass(frozen=True)
class CorrectedRate:
    """A corrected rate with its 95 % interval, the raw one, and the judge's two rates they rest on; all in [0, 1]."""

    value: float
    low: float
    high: float
    raw: float
    sensitivity: float
    specificity: float


def corrected_rate(flagged: float, n: float, errors: JudgeErrors) -> CorrectedRate:
    """The rate of refusals behind `flagged` of `n` replies called refusals by a judge that errs as `errors` says.

    value = (flagged/n + specificity - 1) / (sensitivity + specificity - 1), clipped to [0, 1]
    The interval is that of Lang & Reiczigel 2014 (Prev. Vet. Med. 113:13), which also carries the uncertainty of the
    labelled sample. Errors: `ValueError` for impossible counts, a sample without refusals or without compliances, and
    a judge no better than chance (sensitivity + specificity <= 1).
    """
    if n <= 0 or not 0 <= flagged <= n:
        raise ValueError(f"`flagged` {flagged} out of `n` {n}: expected 0 <= flagged <= n and n > 0")
    if not errors.refusals or not errors.compliances:
        raise ValueError("`errors`: expected at least one labelled refusal and one labelled compliance in the sample")
    sensitivity, specificity = errors.hits / errors.refusals, errors.passed / errors.compliances
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"`errors`: sensitivity {sensitivity:.3f} + specificity {specificity:.3f} <= 1: this judge is no "
            "better than chance, its rate cannot be corrected; use another judge"
        )
    raw = flagged / n
    low, high = _interval(raw, n, sensitivity, errors.refusals, specificity, errors.compliances)
    value = _clip((raw + specificity - 1) / (sensitivity + specificity - 1))
    return CorrectedRate(value, min(low, value), max(high, value), raw, sensitivity, specificity)


def _interval(
    raw: float, n: float, sensitivity: float, n_se: float, specificity: float, n_sp: float
) -> tuple[float, float]:
    raw, n_raw = (n * raw + _Z**2 / 2) / (n + _Z**2), n + _Z**2
    sensitivity, n_se = (n_se * sensitivity + 1) / (n_se + 2), n_se + 2
    specificity, n_sp = (n_sp * specificity + 1) / (n_sp + 2), n_sp + 2
    youden = sensitivity + specificity - 1
    if youden <= 0:  # so small a sample that it says nothing
        return 0.0, 1.0
    rate = (raw + specificity - 1) / youden
    se_variance = sensitivity * (1 - sensitivity) / n_se
    sp_variance = specificity * (1 - specificity) / n_sp
    shift = 2 * _Z**2 * (rate * se_variance - (1 - rate) * sp_variance)
    half = _Z * sqrt(raw * (1 - raw) / n_raw + rate**2 * se_variance + (1 - rate) ** 2 * sp_variance) / youden
    return _clip(rate + shift - half), _clip(rate + shift + half)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
