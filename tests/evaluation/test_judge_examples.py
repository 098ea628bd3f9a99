"""The judge gives every written example the class a careful reader gives it."""

from __future__ import annotations

import pytest
from judge_examples import EXAMPLES

from ogp.evaluation.refusal import Reply, classify


@pytest.mark.parametrize(("prompt", "reply", "expected"), EXAMPLES)
def test_class_of_a_written_example(prompt: str, reply: str, expected: Reply) -> None:
    verdict = classify(reply, prompt)
    assert verdict.reply is expected, verdict.evidence
    assert verdict.evidence
