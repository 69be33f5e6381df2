"""``emra info`` of engines: their sidecar, or the known facts of engines built by plain trtexec."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from emra_deploy.backends.tensorrt.sidecar import sidecar_path, to_json
from emra_deploy.cli.main import main
from tests.emra_deploy.backends.tensorrt.fake_tensorrt import Fake
from tests.emra_deploy.backends.tensorrt.test_sidecar import FULL
from tests.emra_deploy.cli.cli_helpers import emra
from tests.onnx_models import CLASSES, build_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine built by plain trtexec, with its ONNX file in another folder."""
    (tmp_path / "other").mkdir()
    build_model(tmp_path / "other" / "source.onnx")
    path = tmp_path / "model.engine"
    path.write_bytes(Fake().plan(b"no ONNX file, and never loaded"))
    return path


def described(*words: object) -> dict[str, object]:
    done = emra("info", *words, "--json")
    assert done.returncode == 0, done.stderr
    content: dict[str, object] = json.loads(done.stdout)
    return content


def add_sidecar(engine: Path, **changes: object) -> None:
    data = engine.read_bytes()
    own = replace(FULL, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    manifest = build_model(engine.with_name("unused.onnx"))
    sidecar_path(engine).write_text(to_json(replace(own, **changes), manifest))


def test_an_engine_with_its_sidecar(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_sidecar(engine)
    content = described(engine)
    assert content["classes"]["names"] == list(CLASSES.names)
    facts = content["engine"]
    assert facts["built_with"] == "TensorRT 10.3.0.30"
    assert facts["gpu"] == "Orin (compute capability 8.7)"
    assert facts["batches"] == "1 to 4, best at 2"
    assert facts["precision"] == {"asked": "int8", "int8": 49, "fp16": 16, "by": "engine inspector"}
    assert facts["plugins"] == ["/opt/emra/libemra_plugins.so"]
    assert main(["info", str(engine)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("jetpack", "6.2", "540.4.0", "workspace 1024 MiB", "when built: passed", *CLASSES.names):
        assert text in shown


def test_an_engine_of_trtexec_beside_its_onnx_file(engine: Path) -> None:
    build_model(engine.with_suffix(".onnx"))
    content = described(engine)
    assert content["classes"]["names"] == list(CLASSES.names)
    facts = content["engine"]
    assert "not proven" in facts["manifest"]
    assert "none (model.engine.json)" in facts["sidecar"]
    assert facts["built_with"] == "TensorRT 10.3.0.30"
    assert {name for name, value in facts.items() if value is None} >= {"gpu", "precision", "batches", "self_test"}


def test_an_engine_of_trtexec_with_a_file_given(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = described(engine, "--manifest", engine.parent / "other" / "source.onnx")
    assert content["classes"]["names"] == list(CLASSES.names)
    assert main(["info", str(engine), "--manifest", str(engine.parent / "none.onnx")]) == 2
    assert "[model-missing]" in capsys.readouterr().err


def test_an_engine_that_nobody_knows(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = described(engine)
    assert "classes" not in content
    assert content["manifest"] is None
    assert content["sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert main(["info", str(engine)]) == 0
    shown = capsys.readouterr().out
    assert "give --manifest FILE.onnx" in " ".join(shown.split())
    assert shown.count("unknown") >= 6


def test_a_sidecar_of_another_engine_is_not_believed(engine: Path) -> None:
    add_sidecar(engine, sha256="0" * 64)
    facts = described(engine)["engine"]
    assert facts["sidecar"] == "model.engine.json belongs to another file"
    assert facts["gpu"] is None


def test_what_is_no_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.engine").write_text("hello")
    for name, code in {"text.engine": "model-unreadable", "none.engine": "model-missing"}.items():
        assert main(["info", str(tmp_path / name)]) == 2
        assert f"[{code}]" in capsys.readouterr().err
    build_model(tmp_path / "m.onnx")
    assert main(["info", str(tmp_path / "m.onnx"), "--manifest", "x.onnx"]) == 2
    assert "[manifest-unused]" in capsys.readouterr().err


def test_a_device_without_onnx_and_without_a_runtime_reads_manifests(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emra_deploy.backends.metadata import read_manifest

    source = engine.parent / "other" / "source.onnx"
    expected = read_manifest(source)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert read_manifest(source) == expected
