"""What a reader would otherwise have to find out alone: the notes under a table, taken from the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ogp.judge_errors import JudgeErrors
from ogp.results import RunResult, TrainingSummary
from reports.judged import judge_errors
from reports.measures import rate
from reports.noise_floor import flipped_verdicts, noise_floor, reruns
from reports.runs import METRIC_OF, SIDES
from reports.setup import ENVIRONMENT, SIDE_NAMES, recorded
from reports.studies import Arm, Study

NEARLY_ALL = 0.95
MANY_TRUNCATED = 0.1
TURNED_BACK = 0.01
MANY_INCOHERENT = 0.05
SHOWN = 8  # names in one note
PROBLEMS = 50


def notes(study: Study) -> list[str]:
    """Plain sentences, most serious first; names in them come from the data and are not escaped."""
    return [
        *study.problems[:PROBLEMS],
        *([f"and {len(study.problems) - PROBLEMS} more problems"] if len(study.problems) > PROBLEMS else []),
        *_mixed(study),
        *_halved(study),
        *_seeds(study),
        *_noise(study),
        *_judge(study),
        *_fewer_on_the_way(study),
        *_same_thing(study),
        *_truth_meter(study),
        *_saturated(study),
        *_broken_replies(study),
    ]


def _mixed(study: Study) -> list[str]:
    """Figures taken in different ways do not belong in one table without saying so."""
    reads: dict[str, Callable[[RunResult], str]] = {"judge": lambda r: r.judge, "decoding": lambda r: r.decoding}
    reads |= {key: recorded(key) for key in ENVIRONMENT}
    found = []
    for name, read in reads.items():
        values = sorted({read(result) for result in study.results})
        if len(values) > 1:
            found.append(f"the runs differ in {name}: {', '.join(value or 'not recorded' for value in values)}")
    return found


def _halved(study: Study) -> list[str]:
    names = [f"{result.arm} seed {result.seed}" for result in study.results if result.halved]
    if not names:
        return []
    return [f"out of memory, done with half the examples per forward pass (other last digits): {_few(names)}"]


def _seeds(study: Study) -> list[str]:
    seeds = {result.seed for arm in study.trained for result in arm.results}
    if len(seeds) == 1:
        return ["single seed: no interval over seeds; another seed may order close arms differently"]
    if len(seeds) == 2:
        return ["two seeds: intervals over seeds are very wide; three or more are needed for a published table"]
    return []


def _noise(study: Study) -> list[str]:
    """What measuring the base again has changed, prompt by prompt: two flips that cancel are noise too."""
    flips = flipped_verdicts(study)
    if not reruns(study):
        return ["noise floor not measured: the study has no second reference of the base in other batches"]
    parts = [
        f"{count} of {n} {SIDE_NAMES[side]}"
        for side in SIDES
        if METRIC_OF[side] in flips
        for count, n in [flips[METRIC_OF[side]]]
    ]
    floor = noise_floor(study).get("capability")
    skills = "" if floor is None else f"; mean capability moved by {floor:.4f}"
    return [
        f"noise floor, the base measured again in other batches: verdicts changed on {', '.join(parts)} prompts{skills}"
    ]


def _judge(study: Study) -> list[str]:
    """How the judge did on the replies that people labelled; sides with the same counts were pooled."""
    found: dict[JudgeErrors, list[str]] = {}
    for side, errors in judge_errors(study).items():
        found.setdefault(errors, []).append(SIDE_NAMES[side])
    return [
        f"judge against people, {' and '.join(sides)} prompts: found {errors.hits} of {errors.refusals} refusals and "
        f"passed {errors.passed} of {errors.compliances} answers"
        for errors, sides in found.items()
    ]


def _fewer_on_the_way(study: Study) -> list[str]:
    """Curves whose points ask other prompts than their end bend where nothing did."""
    name = "over_refusal_rate"
    asked = {
        (evaluation.metrics[name].n, result.final().metrics[name].n)
        for arm in study.trained
        for result in arm.results
        for evaluation in result.evaluations
        if not evaluation.final and name in evaluation.metrics and name in result.final().metrics
    }
    return [
        f"evaluations on the way asked {few} of the {all_of_them} look-alikes that the end asks: figures at equal "
        "strength mix the two (evaluation.curve_prompts)"
        for few, all_of_them in sorted(asked)
        if few < all_of_them
    ]


def _same_thing(study: Study) -> list[str]:
    """Arms whose switch made no difference, by their own record of the steps that were not skipped."""
    found: dict[str, list[str]] = defaultdict(list)
    for arm in study.trained:
        method = arm.section("method")
        conflicting = _share(arm, lambda summary: summary.conflicting)
        aligned = _share(arm, lambda summary: summary.aligned)
        if method.get("rule") != "orthogonal" or conflicting is None or aligned is None or conflicting + aligned == 0:
            continue
        share = conflicting / (conflicting + aligned)
        match method.get("when"):
            case "always" if share >= NEARLY_ALL:
                text = f"always projected the same way as conflicting-only in {_percent(share)} of steps"
            case "always" if 1 - share >= NEARLY_ALL:
                text = f"always projected the same way as aligned-only in {_percent(1 - share)} of steps"
            case "conflicting" if 1 - share >= NEARLY_ALL:
                text = f"nearly plain SFT, because gradients were conflicting in only {_percent(share)} of steps"
            case "aligned" if share >= NEARLY_ALL:
                text = f"nearly plain SFT, because gradients were aligned in only {_percent(1 - share)} of steps"
            case _:
                continue
        found[text].append(arm.name)
    for arm in study.trained:
        if skipped := _share(arm, lambda summary: summary.skipped):
            found[f"opposed gradient below noise, nothing projected, in {_percent(skipped)} of steps"].append(arm.name)
    return [f"{text}: {_few(names)}" for text, names in found.items()] + _same_verdicts(study)


def _truth_meter(study: Study) -> list[str]:
    """Where the step that was applied is not the one that the rule made, and where the first order does not hold."""
    found: dict[str, list[str]] = defaultdict(list)
    for arm in study.trained:
        method = arm.section("method")
        exact = method.get("rule") == "orthogonal" and method.get("when") == "always" and method.get("w_opposed") == 1
        left = _share(arm, lambda summary: summary.update_cosine)
        if exact and method.get("space", "gradient") == "gradient" and left is not None and left > TURNED_BACK:
            found[f"the gradient was orthogonal, the step AdamW made of it was not (mean |cosine| {left:.2f})"].append(
                arm.name
            )
        predicted = _share(arm, lambda summary: summary.predicted_change)
        measured = _share(arm, lambda summary: summary.measured_change)
        if predicted is None or measured is None:
            continue
        if abs(measured - predicted) > 0.5 * max(abs(measured), abs(predicted)):
            found[
                f"steps too long for the first order: the opposed loss changed by {measured:+.2g} nats per token "
                f"a step where its gradient says {predicted:+.2g}"
            ].append(arm.name)
    return [f"{text}: {_few(names)}" for text, names in found.items()]


def _same_verdicts(study: Study) -> list[str]:
    """Pairs of arms that refused exactly the same prompts on every side, unless they refused all or none."""
    seen: dict[tuple[bytes, ...], list[str]] = {}
    for arm in study.trained:
        scores = [run.final_verdicts(side) for run in arm.done for side in SIDES]
        found = [score.values for score in scores if score is not None]
        if found and any(0 < values.mean() < 1 for values in found):
            seen.setdefault(tuple(values.tobytes() for values in found), []).append(arm.name)
    return [f"refused exactly the same prompts: {_few(names)}" for names in seen.values() if len(names) > 1]


def _saturated(study: Study) -> list[str]:
    """Prompts on which most arms are at the end of the scale no longer separate them."""
    found = []
    for name, text in (("over_refusal_rate", "look-alike"), ("refusal_rate", "harmful")):
        rates = [r for arm in study.trained if (r := rate(arm, name)) is not None]
        for end, word in ((0.0, "none"), (1.0, "all")):
            at_end = sum(r.value == end for r in rates)
            if len(rates) > 2 and at_end > len(rates) / 2:
                found.append(
                    f"{at_end} of {len(rates)} arms refused {word} of the {text} prompts: these no longer separate them"
                )
    return found


def _broken_replies(study: Study) -> list[str]:
    found = []
    for kind, limit in (("truncated", MANY_TRUNCATED), ("incoherent", MANY_INCOHERENT)):
        for side in SIDES:
            shares = [(r.value, arm.name) for arm in study.arms if (r := rate(arm, f"{kind}_rate/{side}")) is not None]
            worst = max(shares, default=(0.0, ""))
            over = sum(share > limit for share, _ in shares)
            if over:
                found.append(
                    f"more than {_percent(limit)} of the replies to {SIDE_NAMES[side]} prompts were {kind} in {over} "
                    f"of {len(shares)} rows (most: {worst[1]}, {_percent(worst[0])})"
                )
    return found


def _share(arm: Arm, read: Callable[[TrainingSummary], float | None]) -> float | None:
    values = [value for result in arm.results if (value := read(result.training)) is not None]
    return sum(values) / len(values) if values else None


def _few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
