"""No secret is ever shown or kept, names stay in their folder, permissions follow the umask, no foreign code runs."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablations.studies import plan_study
from ogp.cli import main
from ogp.config import RunConfig
from ogp.config_files import LARGEST_FILE, ConfigError, load_config, read_yaml, to_yaml
from ogp.evaluation.hub_judge import hub_classifier
from ogp.models import ModelError, load_model
from ogp.redaction import REDACTED, RedactedStream, redact, redacted
from ogp.results import read_lines, write_lines

ROOT = Path(__file__).parent.parent
PLANTED = {  # put together here, so that no scanner takes this file for a leak
    "HF_TOKEN": "hf_" + "aBcD1234" * 4,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567",
    "MY_SERVICE_PASSWORD": "correct horse/battery",
    "CORP_API_KEY": 'quote"back\\slash-žluť',
}
FORMS = [
    "hf_" + "Z9yX8wV7" * 4,
    "wandb_v1_" + "a1B2" * 8,
    "ghp_" + "A1b2" * 9,
    "sk-" + "proj-A1b2" * 4,
    "AKIA" + "ABCDEFGH12345678",
]
SAFE = ["hf_hub", "embedded:over-refusing", "sk-learn", "e53661a" * 5 + "abcde", "pad_token: <|im_end|>", "tokens: 64"]


def settings(tiny_folder: Path) -> list[str]:
    chosen = {
        "model.source": str(tiny_folder),
        "training.steps": 1,
        "training.batch_size": 2,
        "training.micro_batch": 2,
        "training.checkpoint_every": 1,
        "evaluation.look_alikes": 1,
        "evaluation.harmful": 1,
        "evaluation.ordinary": 1,
        "evaluation.max_new_tokens": 2,
        "evaluation.tasks": "[]",
        "evaluation.drift_prompts": 1,
        "evaluation.validation_pairs": 1,
        "tracking.wandb": "offline",
    }
    return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]


def assert_no_secret(data: str | bytes) -> None:
    text = data if isinstance(data, str) else data.decode(errors="replace")
    for secret in [*PLANTED.values(), *FORMS]:
        assert secret not in text
        assert json.dumps(secret)[1:-1] not in text, "nor escaped"


def test_a_whole_run_with_planted_tokens_keeps_none_and_follows_the_umask(tiny_folder: Path, tmp_path: Path) -> None:
    """Log, records, W&B's own files: secrets in the environment reach none of them."""
    out, umask = tmp_path / "run", 0o027
    ended = subprocess.run(
        [sys.executable, "-m", "ogp.cli", "train", "--out", str(out), *settings(tiny_folder)],
        capture_output=True,
        text=True,
        umask=umask,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **PLANTED},
    )
    assert ended.returncode == 0, ended.stderr
    assert_no_secret(ended.stdout + ended.stderr)
    files = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"config.yaml", "result.json", "train.jsonl", "completions.jsonl"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        assert_no_secret(path.read_bytes())
    ours = [path for path in files if path.parent == out]
    assert {oct(path.stat().st_mode & 0o777) for path in ours} == {oct(0o666 & ~umask)}
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("token", [*PLANTED.values(), *FORMS])
def test_settings_that_hold_a_token_are_refused_without_showing_it(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file, in argv as a value, as a key, and where the value is not even allowed."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    path, out = tmp_path / "config.yaml", str(tmp_path / "run")
    path.write_text(yaml.safe_dump({"model": {"source": f"https://user:{token}@hub/{token}"}}, allow_unicode=True))
    for words in (
        ["train", str(path), "--out", out],
        ["config", "--set", f"tracking.wandb_project={json.dumps(token)}"],
        ["config", "--set", f"{token}=1"],
        ["config", "--set", token],
        ["train", "--out", out, "--set", f"training.steps={json.dumps(token)}"],
    ):
        assert main(words) == 2
        told = capsys.readouterr()
        assert told.err.startswith("error: ")
        assert_no_secret(told.out + told.err)
        if str(path) in words:
            assert "`model.source`: holds an access token" in told.err
    assert not (tmp_path / "run").exists()


def test_tracebacks_are_redacted() -> None:
    """An error nobody foresaw: Python prints it, secrets and all, unless its stream is guarded."""
    code = (
        "import os, sys, logging; from ogp.redaction import guard_output; guard_output()\n"
        "logging.basicConfig(); logging.error('calling with %s', os.environ['CORP_API_KEY'])\n"
        "for part in os.environ['HF_TOKEN']: print(part, end='')\n"
        "print('\\nAuthorization: Bearer ' + 'q1w2e3r4' * 4)\n"
        "raise RuntimeError('no answer for ' + os.environ['WANDB_API_KEY'] + ' ' + os.environ['MY_SERVICE_PASSWORD'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **PLANTED}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.returncode == 1
    assert_no_secret(ended.stdout + ended.stderr)
    assert "q1w2e3r4" not in ended.stdout
    assert ended.stdout.count(REDACTED) == 2
    assert f"RuntimeError: no answer for {REDACTED} {REDACTED}" in ended.stderr


@pytest.mark.parametrize("text", SAFE)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", ["{}", "x={};", '{{"a": "{}"}}', "https://u:{}@h", "\n{}\n", "({})."])
def test_forms_of_tokens_are_found_without_an_environment(form: str, around: str) -> None:
    assert_no_secret(redact(around.format(form)))


def test_short_and_open_values_of_secret_variables_do_not_garble_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"A_TOKEN": "none", "B_TOKEN": "/run/secrets/x", "MAX_TOKENS": "16000000"}.items():
        monkeypatch.setenv(name, value)
    text = "none /run/secrets/x 16000000"
    assert redact(text) == text


@given(pieces=st.lists(st.text(alphabet="ab\nc", max_size=5), max_size=12))
def test_a_guarded_stream_keeps_all_other_text(pieces: list[str]) -> None:
    written: list[str] = []

    class Sink:
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

        def flush(self) -> None:
            """Nothing is held here."""

    stream = RedactedStream(Sink())  # type: ignore[arg-type]
    for piece in pieces:
        stream.write(piece)
    stream.flush()
    assert "".join(written) == "".join(pieces)


def test_records_are_redacted_and_their_numbers_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COUNT_PASSWORD", "x12345678")
    rows: list[dict[str, Any]] = [{"completion": f"I say {s}", "n": 12345678, s: [s]} for s in PLANTED.values()]
    write_lines(tmp_path / "completions.jsonl", rows)
    assert_no_secret((tmp_path / "completions.jsonl").read_bytes())
    assert [row["n"] for row in read_lines(tmp_path / "completions.jsonl")] == [12345678] * len(rows)
    made_in_python = RunConfig().model_copy(update={"arm": PLANTED["HF_TOKEN"]})
    assert_no_secret(to_yaml(made_in_python))
    assert redacted({"a": [1.5, None, True]}) == {"a": [1.5, None, True]}


@pytest.mark.parametrize("arm", ["../x", "a/b", "..", ".hidden", "a\nb", "", "x" * 81, "a b", "-rf"])
def test_names_cannot_leave_the_results_folder(tmp_path: Path, arm: str) -> None:
    with pytest.raises(ConfigError, match="arm"):
        load_config(None, [f"arm={json.dumps(arm)}"])
    with pytest.raises(ConfigError, match="study"):
        load_config(None, [f"study={json.dumps(arm)}"])


@pytest.mark.parametrize("name", ["a b.yaml", "...yaml", "-x.yaml", "ü.yaml", "a\nb.yaml"])
def test_a_study_file_whose_name_is_no_file_name_for_records_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("question: x\n")
    with pytest.raises(ConfigError, match="becomes part of file names"):
        plan_study(path)


def test_yaml_is_capped_also_where_a_file_has_no_size(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("#" * (LARGEST_FILE + 1))
    for path in (large, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"larger than {LARGEST_FILE}"):
            read_yaml(path)


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['true']", "a: &x [1]\nb: *x", "a: !include /etc/passwd", "[" * 5000]
)
def test_yaml_makes_no_objects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_yaml(path)


class _Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def copy_of(tiny_folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in tiny_folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_pickled_weights_and_code_beside_a_model_are_never_run(tiny_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickled = copy_of(tiny_folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(mark)))
    coded = copy_of(tiny_folder, tmp_path / "coded")
    (coded / "modeling_x.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass X: pass\n")
    config = json.loads((coded / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X", "AutoTokenizer": "modeling_x.X"}
    (coded / "config.json").write_text(json.dumps(config | {"model_type": "x", "auto_map": auto_map}))
    for folder in (pickled, coded):
        with pytest.raises(ModelError, match=r"model\.source"):
            load_model(RunConfig.model_validate({"model": {"source": str(folder)}}).model)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/dev/zero", "part/model.safetensors", "..", "", 7, None])
def test_an_index_cannot_name_weights_outside_its_folder(name: Any, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path / "split")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"`model\.source`.*index\.json names .* no file of the folder"):
        load_model(RunConfig.model_validate({"model": {"source": str(folder)}}).model)
    with pytest.raises(ValueError, match=r"`judge`.*index\.json names .* no file of the folder"):
        hub_classifier(str(folder), None, "No.", None, False)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', "{"])
def test_an_index_that_is_none_is_an_error_that_says_so(content: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path / "split")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"`model\.source`: cannot load"):
        load_model(RunConfig.model_validate({"model": {"source": str(folder)}}).model)


def test_weights_that_are_split_inside_their_folder_are_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    settings = RunConfig.model_validate({"model": {"source": str(tiny_folder)}}).model
    model, tokenizer = load_model(settings)
    model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "split")
    assert len(list((tmp_path / "split").glob("model-*.safetensors"))) > 1
    again, _ = load_model(settings.model_copy(update={"source": str(tmp_path / "split")}))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_every_exception_of_the_audit_is_explained() -> None:
    root = Path(__file__).parent.parent
    [line] = [row for row in (root / "Makefile").read_text().splitlines() if row.startswith("AUDIT_EXCEPTIONS")]
    explained = (root / "SECURITY.md").read_text().split("## Dependencies")[1]
    assert set(re.findall(r"^\| ((?:PYSEC|CVE)-[\d-]+)", explained, re.MULTILINE)) == set(line.split("=")[1].split())
