"""INT8 files: smaller, within tolerance of their parent in every library, with the evidence inside; or no file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import export.to_int8 as command
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from export.graphs.model_file import read_model, write_model
from export.int8.calibration import pixels_sha256
from export.int8.file import Written
from export.to_int8 import to_int8
from training.data.scenes import generate

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        Image.fromarray(generate(seed, 100, 140).image).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def written(request: pytest.FixtureRequest, small_file: Path, images: Path) -> Written:
    output = small_file.parent / f"small.{request.param}.int8.onnx"
    return to_int8(small_file, images, output, count=COUNT, high_precision=request.param)


def test_the_file_says_what_it_is(written: Written, small_file: Path) -> None:
    parent, manifest = read_model(small_file)[1], read_model(written.path)[1]
    assert manifest == written.manifest
    assert manifest.precision == "int8"
    assert manifest.parent_sha256 == hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert (manifest.classes, manifest.input_shape, manifest.zoom) == (parent.classes, parent.input_shape, parent.zoom)
    evidence = manifest.evidence["int8"]
    assert evidence["calibration"]["tiles"] == COUNT
    assert len(evidence["calibration"]["sha256"]) == 64
    assert evidence["quantized"] == evidence["candidates"] == 19
    assert evidence["kept_high"] == []
    assert evidence["comparison"]["agreement"] >= 0.99
    assert manifest.tools["onnxruntime"] == onnxruntime.__version__
    assert manifest.golden is not None
    assert manifest.golden.image_png == parent.golden.image_png
    assert 0.01 <= manifest.golden.tolerance <= 0.05
    assert written.size == written.path.stat().st_size < 0.65 * small_file.stat().st_size
    assert len(written.checks) == 6
    assert not [line for line in written.checks if line.startswith("not checked")]


def test_the_file_answers_like_its_parent(written: Written, small_file: Path) -> None:
    """With ONNX Runtime's plain interface, on pictures that nothing was calibrated on."""
    tiles = np.stack([generate(seed, 64, 64).image for seed in range(20, 26)])
    answers = [onnxruntime.InferenceSession(path).run(None, {"image": tiles})[0] for path in (small_file, written.path)]
    assert len(np.unique(answers[0])) > 1
    assert (answers[0] == answers[1]).mean() >= 0.99
    assert not np.array_equal(answers[0], answers[1]), "nothing was quantised"
    with Segmenter.open(written.path, threads=1) as segmenter:
        labels = segmenter.segment(generate(30, 90, 120).image).labels
    assert labels.shape == (90, 120)


def test_what_is_in_the_graph(written: Written) -> None:
    model = onnx.load(written.path)
    assert all(entry.version <= 20 for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    stored = {tensor.data_type: 0 for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        stored[tensor.data_type] += int(np.prod(tensor.dims))
    int8, half = stored[onnx.TensorProto.INT8], stored.get(onnx.TensorProto.FLOAT16, 0)
    assert int8 > 200_000, "the linears' weights are bytes"
    assert half > 0, "large weights that are not quantised are stored as FP16"
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 19


def test_the_digest_is_of_the_tiles_that_were_read(small_file: Path, images: Path) -> None:
    found = command.calibrate(small_file, images, COUNT)
    assert found.calibration.sha256 == pixels_sha256(found.calibration.tiles)
    assert set(found.magnitudes) == {linear.source for linear in found.linears}


def test_a_float_model_of_fixed_batch_with_linears_left_out(explicit_file: Path, images: Path, tmp_path: Path) -> None:
    written = to_int8(
        explicit_file,
        images,
        tmp_path / "m.onnx",
        count=COUNT,
        method="minmax",
        exclude=["patch_embed", "mlp.fc2"],
        check_data=images,
    )
    evidence = written.manifest.evidence["int8"]
    assert evidence["method"] == "minmax"
    assert evidence["quantized"] == 14
    assert "blocks.3.mlp.fc2" in evidence["kept_high"]
    assert evidence["comparison"]["pictures"] == 3
    assert written.manifest.heads == ("classes", "logits", "confidence")


def test_ranges_that_are_wrong_leave_no_file(
    small_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = command.ranges_of

    def narrow(*arguments):
        return {source: magnitude / 50 for source, magnitude in right(*arguments).items()}

    monkeypatch.setattr(command, "ranges_of", narrow)
    (tmp_path / "m.onnx").write_bytes(b"older")
    with pytest.raises(EmraError) as caught:
        to_int8(small_file, images, tmp_path / "m.onnx", count=COUNT, overwrite=True)
    assert caught.value.code == "quantize-check-failed"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"method": "kl"}, "export-argument"),
        ({"percentile": 20.0}, "export-argument"),
        ({"high_precision": "bf16"}, "export-argument"),
        ({"exclude": ["blocks.99"]}, "quantize-exclude"),
        ({"count": 10_000}, "calibration-too-few"),
        ({"check_data": "missing"}, "dataset-empty"),
    ],
)
def test_bad_arguments(options: dict, code: str, small_file: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(EmraError) as caught:
        to_int8(small_file, images, tmp_path / "m.onnx", **{"count": COUNT, **options})
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_bad_models(small_file: Path, written: Written, images: Path, tmp_path: Path) -> None:
    model, manifest = read_model(small_file)
    (tmp_path / "cut.onnx").write_bytes(small_file.read_bytes()[:5000])
    write_model(model, replace(manifest, precision="fp16"), tmp_path / "half.onnx")
    for path, output, code in (
        (tmp_path / "none.onnx", "m.onnx", "input-missing"),
        (tmp_path / "cut.onnx", "m.onnx", "model-unreadable"),
        (tmp_path / "half.onnx", "m.onnx", "quantize-precision"),
        (written.path, "m.onnx", "quantize-precision"),
        (small_file, "m.bin", "output-suffix"),
        (small_file, "none/m.onnx", "output-folder-missing"),
        (tmp_path / "half.onnx", "half.onnx", "output-is-input"),
    ):
        with pytest.raises(EmraError) as caught:
            to_int8(path, images, tmp_path / output, count=COUNT, overwrite=True)
        assert caught.value.code == code


def test_the_command_refuses_before_it_builds(small_file: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    words = [sys.executable, "export/to_int8.py", str(small_file), "--calibration", str(tmp_path / "images")]
    words += ["--output", str(tmp_path / "m.onnx")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert "dataset-empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_the_command(small_file: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(small_file), "--calibration", str(images), "--output", str(tmp_path / "m.onnx"), "--count", "4"]
    assert command.main([*words, "--exclude", "hra"]) == 0
    out = capsys.readouterr().out
    assert "17 of 19 linears INT8" in out
    assert "TensorRT-RTX" in out
    assert command.main(words) == 2
    assert "output-exists" in capsys.readouterr().err
