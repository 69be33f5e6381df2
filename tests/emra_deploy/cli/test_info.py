"""``emra info`` and ``emra --version``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from emra_deploy import __version__
from emra_deploy.cli.info import class_attention
from emra_deploy.cli.main import main
from tests.emra_deploy.cli.cli_helpers import emra
from tests.onnx_models import CLASSES, build_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path, evidence={"dubai": {"miou": 0.6543, "classes": {"road": 0.5}}, "note": "part 007"})
    return path


def test_table_for_people(model: Path) -> None:
    done = emra("info", model)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    for text in (*CLASSES.names, "#143cc8", "32 x 32", "fp32", "0.3 m per pixel", "0.6543", "part 007", digest):
        assert text in done.stdout
    assert "not measured" in done.stdout
    assert "golden tile" in done.stdout
    assert "yes" in done.stdout


def test_json_for_programs(model: Path) -> None:
    content = json.loads(emra("info", model, "--json").stdout)
    assert content["classes"]["names"] == list(CLASSES.names)
    assert content["input_shape"] == [None, 32, 32]
    assert content["bytes"] == model.stat().st_size
    assert content["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert content["golden_tile"] == {"tolerance": 0.0}
    assert content["evidence"]["dubai"]["miou"] == 0.6543


ABLATION = {
    "miou": {"whole": 0.6431, "without": 0.6383},
    "auc": {"road": 0.61, "land": 0.9, "water": None},
    "data": {"name": "dubai", "split": "val"},
}


@pytest.mark.parametrize(
    ("evidence", "blocks", "reported"),
    [
        (
            {"changed": 0.044, "labelled": {**ABLATION, "data": {"name": "dubai", "split": "val"}}},
            4,
            ("0.6431", "0.6383"),
        ),
        (
            {"changed": 0.044, "labelled": {**ABLATION, "data": {"name": "dubai", "split": "val"}}},
            4,
            ("dubai val", "0.61"),
        ),
        ({"changed": 0.044, "correlation": 0.9}, 4, ("decides 4.4 %",)),
        (None, 4, ("not measured",)),
        ({"changed": "x" * 9, "labelled": {"miou": [1], "auc": 3, "data": 7}}, 4, ("not measured",)),
        ([3], 4, ("not measured",)),
        ({}, 0, ("left out",)),
    ],
)
def test_what_the_class_attention_adds(evidence: object, blocks: int, reported: tuple[str, ...]) -> None:
    content = {"mca_blocks": blocks, "evidence": {} if evidence is None else {"class_attention": evidence}}
    line = class_attention(content)
    assert all(text in line for text in reported)
    assert "\n" not in line


def test_model_without_golden_tile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_model(tmp_path / "a.onnx", golden=False)
    assert main(["info", str(tmp_path / "a.onnx")]) == 0
    assert "cannot be checked" in capsys.readouterr().out


@pytest.mark.parametrize("json_wanted", [False, True])
def test_bad_models(tmp_path: Path, capsys: pytest.CaptureFixture[str], json_wanted: bool) -> None:
    build_model(tmp_path / "bare.onnx", metadata=False)
    build_model(tmp_path / "whole.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes()[:900])
    (tmp_path / "text.onnx").write_text("hello")
    for name, code in {
        "bare.onnx": "manifest-missing",
        "cut.onnx": "model-unreadable",
        "text.onnx": "model-unreadable",
        "none.onnx": "model-missing",
    }.items():
        assert main(["info", str(tmp_path / name), *(["--json"] if json_wanted else [])]) == 2
        shown = capsys.readouterr()
        assert f"[{code}]" in shown.err
        assert shown.err.count("\n") == 1
        if json_wanted:
            assert json.loads(shown.out)["error"]["code"] == code


def test_version() -> None:
    done = emra("--version")
    assert done.returncode == 0
    assert done.stdout.strip() == f"emra {__version__}"


def test_reader_that_stops_early_is_no_error(model: Path) -> None:
    line = f'"{sys.executable}" -m emra_deploy info "{model}" | head -c 1'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
