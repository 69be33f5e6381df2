"""The FP16 file: its Manifest, its results, and the inputs that are refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import export.to_fp16 as command
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from export.compare.comparison import compare
from export.compare.report import LIMITS
from export.compare.runners import open_pair
from export.graphs.model_file import read_model, write_model
from export.graphs.view import GraphView
from export.to_fp16 import EVIDENCE, GOLDEN_TOLERANCE, main, to_fp16
from tests.onnx_models import build_graph, build_model, make_manifest
from training.data.scenes import generate

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def converted(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> command.Converted:
    folder = tmp_path_factory.mktemp("fp16")
    return to_fp16(small_file, folder / "small.fp16.onnx", audit=folder / "audit.json")


def test_the_manifest_says_what_was_done(converted: command.Converted, small_file: Path) -> None:
    _, before = read_model(small_file)
    _, after = read_model(converted.path)
    assert after == converted.manifest
    assert after.precision == "fp16"
    assert after.parent_sha256 == hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert before.golden is not None
    assert after.golden is not None
    assert after.golden == replace(before.golden, tolerance=GOLDEN_TOLERANCE)
    assert pytest.approx(0.01) == GOLDEN_TOLERANCE
    assert set(before.tools) <= set(after.tools)
    evidence = after.evidence[EVIDENCE]
    assert evidence["label_agreement"] >= LIMITS["fp16"].agreement
    assert evidence["casts"] == converted.audit.casts
    assert sum(evidence["reasons"].values()) == evidence["nodes_in_fp32"] == len(converted.audit.kept)
    assert {key: value for key, value in after.evidence.items() if key != EVIDENCE} == before.evidence
    # Everything else is the model's own.
    same = replace(after, precision="fp32", parent_sha256=before.parent_sha256, tools=before.tools,
                   evidence=before.evidence, golden=before.golden)  # fmt: skip
    assert same == before


def test_the_file_segments_as_the_one_it_was_made_of(converted: command.Converted, small_file: Path) -> None:
    pictures = np.stack([generate(seed, 80, 100).image for seed in (50, 51)])
    result = compare(*open_pair(small_file, converted.path), pictures)
    assert result.failures(LIMITS["fp16"]) == []
    assert result.logits is not None
    assert 0 < result.logits.max < 5e-3
    with Segmenter.open(converted.path, threads=1) as segmenter:  # its self-test runs here
        assert segmenter.segment(pictures[0]).labels.shape == (80, 100)
    # Bytes in, bytes out; the weights were stored as FP16 before, so the file is a little smaller.
    model = onnx.load(converted.path)
    assert [t.type.tensor_type.elem_type for t in (*model.graph.input, *model.graph.output)] == [TensorProto.UINT8] * 2
    assert converted.size == converted.path.stat().st_size < converted.size_before


def test_the_audit_counts_what_is_in_the_file(converted: command.Converted) -> None:
    content = json.loads((converted.path.parent / "audit.json").read_text())
    view = GraphView(onnx.load(converted.path))
    computing = [node for node in view.nodes if node.op_type != "Cast"]
    in_half = Counter(n.op_type for n in computing if view.type(n.output[0]) == TensorProto.FLOAT16)
    assert content["half"] == dict(in_half)
    by_name = {node.name: node for node in view.nodes}
    assert content["kept"]
    for kept in content["kept"]:
        node = by_name[kept["node"]]
        assert node.op_type == kept["operator"]
        assert kept["reason"]
        assert view.type(node.output[0]) != TensorProto.FLOAT16
    text = "\n".join(converted.audit.lines())
    assert f"{sum(in_half.values())} nodes compute in FP16, {len(content['kept'])} in FP32" in text
    assert f"{content['casts']} casts" in text
    assert "10 LayerNormalization" in text


def test_the_checks_say_what_ran(converted: command.Converted) -> None:
    text = "\n".join(converted.checks)
    for words in ("every FP16 tensor rounded", "ONNX checker (full)", "ONNX Runtime", "self-test passed"):
        assert words in text
    assert "OpenVINO" in text
    assert "TensorRT-RTX" in text


def test_the_whole_command_without_torch(small_file: Path, tmp_path: Path) -> None:
    run = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; sys.path[0] = '';"
    run += "runpy.run_path(sys.argv[0], run_name='__main__')"
    output = tmp_path / "m.fp16.onnx"
    words = [sys.executable, "-c", run, "export/to_fp16.py", small_file, "--output", output, "--keep", "Softmax"]
    words += ["--check-data", REPOSITORY / "tests" / "nowhere"]
    done = subprocess.run(list(map(str, words)), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert "[dataset-empty]" in done.stderr
    assert not list(tmp_path.iterdir())
    done = subprocess.run(list(map(str, words[:-2])), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "13 Softmax: " in done.stdout or "Softmax: asked for by --keep" in done.stdout
    assert f"wrote {output}" in done.stdout
    view = GraphView(onnx.load(output))
    assert {view.type(n.output[0]) for n in view.nodes if n.op_type == "Softmax"} == {TensorProto.FLOAT}


def test_a_conversion_that_breaks_the_model_leaves_nothing(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: onnx.ModelProto, **options: object):
        half, audit = command_convert(model, **options)
        for tensor in half.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 2:
                values = onnx.numpy_helper.to_array(tensor) * np.float16(1.5)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return half, audit

    command_convert = command.convert_to_half
    monkeypatch.setattr(command, "convert_to_half", damaged)
    (tmp_path / "old.onnx").write_bytes(b"older")
    for name, overwrite in (("new.onnx", False), ("old.onnx", True)):
        with pytest.raises(EmraError) as caught:
            to_fp16(small_file, tmp_path / name, audit=tmp_path / "audit.json", overwrite=overwrite)
        assert caught.value.code == "export-check-failed"
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_bytes() == b"older"


def test_overflow_is_caught(small_file: Path, tmp_path: Path) -> None:
    """Weights beyond FP16's range: rounding makes them infinite, and no file is written."""
    model, manifest = read_model(small_file)
    first = next(node for node in model.graph.node if node.op_type == "MatMul")
    scale = onnx.numpy_helper.from_array(np.full(1, 6e4, np.float32), "large")
    shrink = onnx.numpy_helper.from_array(np.full(1, 1 / 6e4, np.float32), "small")
    model.graph.initializer.extend([scale, shrink])
    made = first.output[0]
    first.output[0] = "before"
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "before") + 1
    for node in (
        onnx.helper.make_node("Mul", ["larger", "small"], [made], name="back"),
        onnx.helper.make_node("Mul", ["before", "large"], ["larger"], name="up"),
    ):
        model.graph.node.insert(place, node)
    write_model(model, manifest, tmp_path / "large.onnx")
    with pytest.raises(EmraError) as caught:
        to_fp16(tmp_path / "large.onnx", tmp_path / "out.onnx")
    assert caught.value.code == "export-check-failed"
    assert "not finite" in caught.value.cause
    assert "'up' (Mul)" in caught.value.cause
    assert "--keep up" in caught.value.remedy
    assert not (tmp_path / "out.onnx").exists()
    # And what --keep is for.
    kept = to_fp16(tmp_path / "large.onnx", tmp_path / "out.onnx", keep=["up", "back"])
    assert {"up", "back"} <= {entry.node for entry in kept.audit.kept}


@pytest.mark.slow
def test_floats_in_all_heads_out_two_at_a_time(explicit_file: Path, tmp_path: Path) -> None:
    converted = to_fp16(explicit_file, tmp_path / "x.fp16.onnx")
    model = onnx.load(converted.path)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in model.graph.output}
    assert kinds == {"classes": TensorProto.UINT8, "logits": TensorProto.FLOAT, "confidence": TensorProto.FLOAT}
    picture = generate(52, 64, 64).image[np.newaxis]
    assert compare(*open_pair(explicit_file, converted.path), picture).agreement >= LIMITS["fp16"].agreement


def write_bad(folder: Path) -> None:
    build_model(folder / "good.onnx")
    data = (folder / "good.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(data[: len(data) // 2])
    (folder / "noise.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "empty.onnx").write_bytes(b"")
    build_model(folder / "bare.onnx", metadata=False)
    build_model(folder / "half.onnx", precision="fp16")
    build_model(folder / "int8.onnx", precision="int8")
    manifest = make_manifest()
    for opset, name in ((16, "old"), (21, "new")):
        model = build_graph((32, 32))
        model.opset_import[0].version = opset
        write_model(model, manifest, folder / f"{name}.onnx")
    (folder / "secret").write_bytes(bytes(100_000))
    (folder / "link.bin").symlink_to("/etc/hostname")
    outside = build_graph((32, 32))
    for location, name in (
        ("../secret", "above"),
        (str(folder / "secret"), "absolute"),
        ("gone.bin", "gone"),
        ("link.bin", "linked"),
    ):
        model = onnx.ModelProto()
        model.CopyFrom(outside)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", "0"), ("length", str(5 * 3 * 4))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        onnx.helper.set_model_props(model, manifest.to_metadata())
        place = folder / "inner" if name == "above" else folder
        place.mkdir(exist_ok=True)
        (place / f"{name}.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing", "input-missing"),
        ("cut", "model-unreadable"),
        ("noise", "model-unreadable"),
        ("empty", "model-unreadable"),
        ("bare", "manifest-missing"),
        ("half", "half-unsupported"),
        ("int8", "export-check-failed"),  # taken, as it says INT8 and holds FP32; it is no transformer either
        ("old", "model-opset"),
        ("new", "model-opset"),
        ("inner/above", "model-external-data"),
        ("absolute", "model-external-data"),
        ("gone", "model-external-data"),
        ("linked", "model-external-data"),
        ("good", "export-check-failed"),  # it is FP32, but no transformer: it has no LayerNormalization
    ],
)
def test_bad_files(name: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bad(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main([str(tmp_path / f"{name}.onnx"), "--output", str(tmp_path / "out.onnx")]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert f"[{code}]" in shown.err
    assert f"{name}.onnx" in shown.err or code == "export-check-failed"
    assert shown.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_bad_outputs(small_file: Path, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_bytes(b"older")
    (tmp_path / "folder.onnx").mkdir()
    for output, options, code in (
        (tmp_path / "there.onnx", {}, "output-exists"),
        (tmp_path / "folder.onnx", {}, "output-is-folder"),
        (tmp_path / "none" / "x.onnx", {}, "output-folder-missing"),
        (tmp_path / "x.engine", {}, "output-suffix"),
        (Path("/dev/full"), {"overwrite": True}, "output-unwritable"),
        (small_file, {"overwrite": True}, "output-is-input"),
        (tmp_path / "x.onnx", {"audit": tmp_path / "there.onnx"}, "output-exists"),
        (tmp_path / "x.onnx", {"keep": ["NoSuchNode"]}, "half-keep"),
    ):
        with pytest.raises(EmraError) as caught:
            to_fp16(small_file, output, **options)
        assert caught.value.code == code, output
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(EmraError) as caught:
            to_fp16(small_file, tmp_path / "locked" / "x.onnx")
        assert caught.value.code == "output-unwritable"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "locked") == ["folder.onnx", "there.onnx"]
