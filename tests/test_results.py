"""Records: written whole or not at all, readable by others, never trusted when torn."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ogp.embedded import is_complete, new_folder
from ogp.results import Metric, RecordError, load_result, read_lines, write_atomic, write_lines
from ogp.runs.progress import Progress, read_state


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_lines(path, [{"a": float("nan")}])
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
        with new_folder(tmp_path / "folder") as draft:
            (draft / "file").write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "x"}', "null"])
def test_a_torn_or_edited_result_is_named_not_trusted(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(RecordError, match=r"result\.json"):
        load_result(tmp_path)


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    with pytest.raises(RecordError, match=r"train\.jsonl:2"):
        list(read_lines(path))


def test_line_separators_in_text_do_not_tear_a_line(tmp_path: Path) -> None:
    rows = [{"completion": "a\u2028b\u0085c\x0bd\nnew"}]
    write_lines(tmp_path / "x.jsonl", rows)
    assert list(read_lines(tmp_path / "x.jsonl")) == rows


def test_nan_is_no_metric() -> None:
    with pytest.raises(ValueError, match="finite"):
        Metric(value=float("nan"), n=1)


def test_a_folder_is_complete_only_with_every_byte(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_folder(target) as draft:
        (draft / "weights").write_bytes(b"abc")
        assert not target.exists()
    assert is_complete(target)
    (target / "weights").write_bytes(b"abd")
    assert not is_complete(target)
    with new_folder(target) as draft:
        (draft / "weights").write_bytes(b"abc")
    assert is_complete(target), "a broken folder is replaced"


def test_an_error_while_building_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "model"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_builder_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / f".model.{2**22 + 1}.abc"  # above the largest process id
    left.mkdir()
    alive = tmp_path / f".model.{os.getpid()}.abc"
    alive.mkdir()
    with new_folder(tmp_path / "model") as draft:
        (draft / "weights").write_bytes(b"abc")
    assert not left.exists()
    assert alive.exists()


def test_two_builders_of_the_same_folder_both_succeed(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_folder(target) as first:
        (first / "weights").write_bytes(b"abc")
        with new_folder(target) as second:
            (second / "weights").write_bytes(b"abc")
    assert is_complete(target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_progress_is_read_back_and_a_torn_state_is_no_state(tmp_path: Path) -> None:
    progress = Progress(tmp_path, steps=5)
    progress.at("training", 3)
    state = read_state(tmp_path)
    assert (state["phase"], state["step"], state["steps"], state["pid"]) == ("training", 3, 5, os.getpid())
    (tmp_path / "state.json").write_text(json.dumps(state)[:-4])
    assert read_state(tmp_path) == {}
