"""Batches of a gradient's own data: every example in turn, the same for the same step, shared out over processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ogp.method_settings import GradientSettings
from ogp.pairs_settings import PairsSettings
from ogp.step.source_batches import SourceBatches, own_data
from tests import tiny

OWN = GradientSettings(role="protected", data=PairsSettings(source="embedded:harmful"), loss="nll", batch_size=4)


def source(rank: int = 0, processes: int = 1, seed: int = 0, **settings: Any) -> SourceBatches:
    return SourceBatches(
        2,
        OWN.model_copy(update=settings),
        tiny.examples(10, seed=3),
        tiny.llama(),
        0,
        micro_batch=2,
        seed=seed,
        accelerator=SimpleNamespace(process_index=rank, num_processes=processes),
    )


def rows(batches: list[Any]) -> list[int]:
    """First cache row of each example: which one it is."""
    return [int(row) for batch in batches for row in batch["cache_rows"]]


def test_a_turn_takes_every_example_once_and_the_next_in_another_order() -> None:
    batches = source()
    seen = [rows(batches.at(step)) for step in range(10)]
    flat = [row for step in seen for row in step]
    half = len(flat) // 4
    everything = sorted(range(half))
    for turn in range(4):
        assert sorted(flat[turn * half : (turn + 1) * half]) == everything
    assert flat[:half] != flat[half : 2 * half]


def test_a_step_is_decided_by_seed_and_number_alone() -> None:
    forward, fresh = source(), source()
    for step in range(7):
        forward.at(step)
    assert rows(fresh.at(6)) == rows(forward.at(6))
    assert rows(source(seed=1).at(6)) != rows(fresh.at(6))
    assert [len(batch["positions"]) > 0 for batch in fresh.at(6)] == [True, True]


def test_processes_share_a_step() -> None:
    for step in range(4):
        parts = [rows(source(rank, 2).at(step)) for rank in (0, 1)]
        assert sorted(parts[0] + parts[1]) == sorted(rows(source().at(step)))
        assert parts[0] != parts[1]
    with pytest.raises(ValueError, match=r"`batch_size` 4 of harmful-nll cannot be shared by 3 processes"):
        source(0, 3)


def test_a_batch_larger_than_the_data_takes_examples_again() -> None:
    assert len(source(batch_size=25).at(0)) == 13


@pytest.mark.parametrize(("loss", "feeds"), [("nll", (2, None, 2, None)), ("kl", (None, 2, 2, None))])
def test_it_says_where_its_losses_go(loss: str, feeds: tuple[Any, ...]) -> None:
    assert tuple(source(loss=loss).feeds) == feeds


def test_data_and_gradients_must_match() -> None:
    used = (GradientSettings(), OWN)
    assert [(which, own) for which, _, own in own_data(used, ["x"])] == [(2, "x")]
    with pytest.raises(ValueError, match="`sources`: 1 gradients have data of their own, found 0"):
        own_data(used, [])
