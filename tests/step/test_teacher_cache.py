"""The teacher cache: what is written comes back, and nothing torn, altered or foreign is ever used."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ogp.step.teacher_cache import cache_key, open_or_build, tokens_digest, weights_digest

ROWS = 10
Producer = Callable[[], Iterator[tuple[int, Tensor]]]


def table(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


def producer(content: Tensor, calls: list[int] | None = None) -> Producer:
    def produce() -> Iterator[tuple[int, Tensor]]:
        if calls is not None:
            calls.append(1)
        for start in (6, 0, 3):  # any order
            yield start, content[start : start + (4 if start == 6 else 3)]

    return produce


def never() -> Iterator[tuple[int, Tensor]]:
    raise AssertionError("an intact cache is not built again")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_was_built_comes_back_without_building(dtype: torch.dtype, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    content = table(dtype)
    built = open_or_build(tmp_path / "new", "k", ROWS, producer(content), lambda done, rows: seen.append((done, rows)))
    assert torch.equal(built, content)
    assert built.dtype == dtype
    assert seen == [(4, ROWS), (7, ROWS), (10, ROWS)]
    assert torch.equal(open_or_build(tmp_path / "new", "k", ROWS, never), content)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["k.bin", "k.json"]


def torn(data: Path, description: Path) -> None:
    data.write_bytes(data.read_bytes()[:-4])


def longer(data: Path, description: Path) -> None:
    data.write_bytes(data.read_bytes() + b"1234")


def flipped(data: Path, description: Path) -> None:
    raw = bytearray(data.read_bytes())
    raw[17] ^= 1
    data.write_bytes(raw)


def missing(data: Path, description: Path) -> None:
    data.unlink()


def undescribed(data: Path, description: Path) -> None:
    description.unlink()


def torn_description(data: Path, description: Path) -> None:
    description.write_text(description.read_text()[:20])


def other_shape(data: Path, description: Path) -> None:
    description.write_text(json.dumps(json.loads(description.read_text()) | {"shape": [ROWS, 4]}))


def more_rows(data: Path, description: Path) -> None:
    description.write_text(json.dumps(json.loads(description.read_text()) | {"shape": [3, ROWS]}))


def other_dtype(data: Path, description: Path) -> None:
    description.write_text(json.dumps(json.loads(description.read_text()) | {"dtype": "nn"}))


def not_a_table(data: Path, description: Path) -> None:
    description.write_text("[]")


DAMAGE = [
    torn,
    longer,
    flipped,
    missing,
    undescribed,
    torn_description,
    other_shape,
    more_rows,
    other_dtype,
    not_a_table,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_rebuilt(damage: Callable[[Path, Path], None], tmp_path: Path) -> None:
    open_or_build(tmp_path, "k", ROWS, producer(table()))
    damage(tmp_path / "k.bin", tmp_path / "k.json")
    calls: list[int] = []
    assert torch.equal(open_or_build(tmp_path, "k", ROWS, producer(table(), calls)), table())
    assert calls == [1]
    assert torch.equal(open_or_build(tmp_path, "k", ROWS, never), table())


def test_another_key_is_another_cache(tmp_path: Path) -> None:
    open_or_build(tmp_path, "a", ROWS, producer(table(seed=1)))
    assert torch.equal(open_or_build(tmp_path, "b", ROWS, producer(table(seed=2))), table(seed=2))
    assert torch.equal(open_or_build(tmp_path, "a", ROWS, never), table(seed=1))


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[int, Tensor]]:
        yield 0, table()[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_build(tmp_path, "k", ROWS, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_leaves_rows_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exactly once"):
        open_or_build(tmp_path, "k", ROWS, lambda: iter([(0, table()[:9])]))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        open_or_build(tmp_path / "file" / "cache", "k", ROWS, producer(table()))


def test_a_table_in_use_survives_being_replaced(tmp_path: Path) -> None:
    first = open_or_build(tmp_path, "k", ROWS, producer(table()))
    (tmp_path / "k.json").unlink()
    second = open_or_build(tmp_path, "k", ROWS, producer(table()))
    (tmp_path / "k.bin").unlink()
    assert torch.equal(first, table())
    assert torch.equal(second, table())


def _build(folder: str, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    assert torch.equal(open_or_build(Path(folder), "k", ROWS, producer(table())), table())


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_build, args=(str(tmp_path), barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert torch.equal(open_or_build(tmp_path, "k", ROWS, never), table())


def test_keys_change_with_everything_that_decides() -> None:
    weights = [("a", torch.arange(6.0)), ("b", torch.ones(2))]
    digests = [
        weights_digest(weights),
        weights_digest([("a", torch.arange(6.0).view(2, 3)), weights[1]]),
        weights_digest([("c", weights[0][1]), weights[1]]),
        weights_digest([("a", torch.arange(6.0).bfloat16()), weights[1]]),
        weights_digest([("a", torch.arange(6.0) + 1e-7), weights[1]]),
        tokens_digest([[1, 2], [3]]),
        tokens_digest([[1], [2, 3]]),
        tokens_digest([[1, 2, 3]]),
        tokens_digest([[1, 2], [3], []]),
        cache_key(a="1", b=2),
        cache_key(a="12", b=None),
    ]
    assert len(set(digests)) == len(digests)
    assert weights_digest(weights[::-1]) == digests[0]
    assert cache_key(b=2, a="1") == cache_key(a="1", b=2)
