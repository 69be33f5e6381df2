"""ViT-Ti and ViT-S whole, in FP32, FP16 and INT8: engines by TensorRT-RTX's builder, labels in two libraries.

The Ti is the trained model. The S has random weights, so that the two best classes of many pixels are close and labels
alone would say little: the error of the logits is held to, and labels must agree where the margin is beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy.backends.openvino import OpenVinoBackend
from emra_deploy.backends.options import LoadOptions
from emra_deploy.models import shipped_model
from export.compare.report import LIMITS
from export.compare.runners import OnnxRunner
from export.compare.verify import ROUNDED, build_engine
from export.graphs.model_file import read_model, write_model
from export.half.convert import convert_to_half
from export.int8.file import Recipe, build
from export.int8.ranges import ranges_of
from export.to_int8 import calibrate
from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, random_model
from tests.conftest import FP32_MODEL
from training.checkpoint import save_checkpoint
from training.data.scenes import DUBAI_CLASSES, generate

pytest.importorskip("openvino")
pytest.importorskip("tensorrt_rtx_bindings")

pytestmark = pytest.mark.slow

PRECISIONS = ("fp32", "fp16", "int8")
SIDE = 224
LOGIT_RMS = {"fp32": 1e-5, "fp16": ROUNDED.logit_error / 10, "int8": 0.03}
"""Largest root mean square of the logits' error over theirs. FP16's is a tenth of what its single worst logit may be
off; INT8's is that of one rounding to 127 levels, 0.3 % of the range, in each of some fifty linears in a row, which
add up as a root does: 2 %, and a half more."""


@dataclass(frozen=True)
class Model:
    """One network in each precision, and whether its labels mean something."""

    files: dict[str, Path]
    trained: bool


@pytest.fixture(scope="module", params=["tiny", "small"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "tiny":
        half = halve(FP32_MODEL, folder / "m.fp16.onnx")
        return Model({"fp32": FP32_MODEL, "fp16": half, "int8": shipped_model()}, True)
    whole = random_model(backbone="small", image_size=(SIDE, SIDE))
    assert (len(whole.backbone.blocks), whole.backbone.norm.normalized_shape) == (12, (384,))
    save_checkpoint(folder / "checkpoint", whole, DUBAI_CLASSES, MEAN, STD, {})
    single = folder / "m.onnx"
    to_onnx(folder / "checkpoint", single, weights="float16", heads=("classes", "logits"))
    images = folder / "images"
    images.mkdir()
    for seed in range(2):
        Image.fromarray(generate(seed, 2 * SIDE, 2 * SIDE).image).save(images / f"{seed}.png")
    half = halve(single, folder / "m.fp16.onnx")
    return Model({"fp32": single, "fp16": half, "int8": quantize(single, images, folder / "m.int8.onnx")}, False)


def halve(single: Path, output: Path) -> Path:
    """Convert as `export.to_fp16` does, without its own checks in the same libraries."""
    model, manifest = read_model(single)
    write_model(convert_to_half(model)[0], replace(manifest, precision="fp16"), output)
    return output


def quantize(single: Path, images: Path, output: Path) -> Path:
    """Convert as `export.to_int8` does, without its check of labels, which are almost ties in a random network."""
    found = calibrate(single, images, count=4)
    ranges = ranges_of(found.magnitudes, "percentile")
    recipe = Recipe(found.linears, found.linears, ranges, "percentile", found.calibration, "fp32")
    manifest = found.parent.manifest
    reported = replace(manifest, precision="int8", evidence={"int8": recipe.to_dict(manifest)})
    write_model(build(found.parent, recipe), reported, output)
    return output


@pytest.fixture(scope="module")
def tiles(model: Model) -> np.ndarray:
    """Scenes that nothing was calibrated on, uint8 2 x H x W x 3."""
    height, width = read_model(model.files["fp32"])[1].tile
    return np.stack([generate(seed, height, width).image for seed in (40, 41)])


@pytest.fixture(scope="module")
def expected(model: Model, tiles: np.ndarray) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs for the FP32 file."""
    return OnnxRunner(*read_model(model.files["fp32"])).run(tiles)


def test_an_engine_is_built_in_the_precision_of_the_file(model: Model) -> None:
    plans = {}
    for precision, path in model.files.items():
        manifest = read_model(path)[1]
        assert manifest.precision == precision
        plan = build_engine(path, manifest.input_shape[0])
        assert plan is not None
        plans[precision] = plan
    assert set(plans["fp32"].counts) == {"fp32"}
    assert plans["fp16"].counts["fp16"] > 0.9 * sum(plans["fp16"].counts.values())
    quantized = read_model(model.files["int8"])[1].evidence["int8"]["quantized"]
    assert plans["int8"].counts["int8"] == quantized >= 48
    weights = [path.stat().st_size for path in model.files.values()]
    assert plans["int8"].bytes < plans["fp32"].bytes
    assert plans["fp16"].bytes < plans["fp32"].bytes
    assert all(plan.bytes > 0.9 * size for plan, size in zip(plans.values(), weights, strict=True))


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_labels_are_those_of_the_fp32_file(
    model: Model, tiles: np.ndarray, expected: dict[str, np.ndarray], precision: str, library: str
) -> None:
    path = model.files[precision]
    runner = (
        OnnxRunner(*read_model(path))
        if library == "onnxruntime"
        else OpenVinoBackend(path, LoadOptions(precision="fp32"))
    )
    found = runner.run(tiles)
    logits = expected["logits"].astype(np.float64)
    error = float(np.sqrt(np.mean((found["logits"] - logits) ** 2)))
    assert error <= LOGIT_RMS[precision] * float(np.sqrt(np.mean(logits**2)))
    same = found["classes"] == expected["classes"]
    if model.trained:
        assert same.mean() >= LIMITS[precision].agreement
    # A label changes where the errors of two logits add up to more than lies between them: beyond four times the root
    # mean square of one, that is one pixel in hundreds if they are anything like independent.
    first, second = np.sort(logits, axis=1)[:, -2:].transpose(1, 0, 2, 3)[::-1]
    clear = first - second > 4 * error
    assert clear.mean() > 0.5, "so few pixels are clear that this says nothing"
    assert same[clear].mean() >= 0.998
