"""Two models on the same pictures: every number against one worked out by hand or by another route."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.sources import ArraySource
from export.compare.cached import Cached
from export.compare.comparison import compare
from export.compare.report import LIMITS, NEAR_TIE, Limits, LogitError, PictureReport, Report
from export.compare.runners import open_pair
from tests.onnx_models import CLASSES, build_model, make_manifest, nearest_colour, scene


@dataclass(frozen=True)
class Labelled:
    name: str
    image: np.ndarray
    truth: np.ndarray

    def source(self) -> ArraySource:
        return ArraySource(self.image)

    def read_labels(self, window=None) -> np.ndarray:
        return self.truth if window is None else self.truth[window.slices]


def shifted(path: Path, size=(32, 32), by: float = 0.4, only: int = 1) -> None:
    """A model like `build_model`'s whose logit of one class is larger."""
    build_model(path, size)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            bias = onnx.numpy_helper.to_array(tensor).copy()
            bias[only] += by
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, "bias"))
    onnx.save(model, path)


def test_a_model_agrees_with_itself(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    pictures = np.stack([scene(50, 70, seed) for seed in range(2)])
    result = compare(*open_pair(tmp_path / "a.onnx", tmp_path / "a.onnx"), pictures)
    assert result.agreement == 1.0
    assert result.logits == LogitError(0.0, 0.0, 0.0, 0.0, 0, 0.0)
    assert result.pixels == 2 * 50 * 70
    assert result.scores is None
    assert result.miou_drop is None
    assert result.failures(LIMITS["fp32"]) == []


def test_numbers_of_a_difference(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    shifted(tmp_path / "b.onnx")
    pictures = [scene(45, 61, seed) for seed in (3, 4, 5)]
    # Noise brings pixels near the borders between classes, where a shifted logit decides otherwise.
    noise = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    pictures.append(noise)
    truths = [nearest_colour(picture) for picture in pictures]
    truths[0][:5] = 255
    tiles = [Labelled(f"p{i}", picture, truth) for i, (picture, truth) in enumerate(zip(pictures, truths, strict=True))]
    seen: list[PictureReport] = []
    result = compare(*open_pair(tmp_path / "a.onnx", tmp_path / "b.onnx"), tiles, progress=seen.append)
    assert tuple(seen) == result.pictures

    # The expected labels of the second model, from its definition.
    from tests.onnx_models import MEAN, STD, _scores

    weight, bias = _scores(CLASSES)
    moved = bias.copy()
    moved[1] += 0.4
    wrong, pixels, inter, union = 0, 0, np.zeros(5), np.zeros(5)
    for picture, truth, tile in zip(pictures, truths, result.pictures, strict=True):
        pixel = (picture.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        ours, theirs = pixel @ weight.T + bias, pixel @ weight.T + moved
        a, b = ours.argmax(-1), theirs.argmax(-1)
        assert tile.agreeing == (a == b).sum()
        assert tile.logits is not None
        assert tile.logits.max == pytest.approx(0.4 / np.abs(ours).max(), rel=1e-4)
        assert tile.logits.mean == pytest.approx(0.4 / 5 / np.abs(ours).max(), rel=1e-4)
        assert tile.logits.rms == pytest.approx(np.sqrt(0.4**2 / 5 / (ours.astype(float) ** 2).mean()), rel=1e-4)
        p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (ours.astype(float), theirs.astype(float)))
        p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
        assert tile.logits.divergence == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-3)
        best = np.sort(p[a != b], axis=-1)
        margins = best[:, -1] - best[:, -2]
        assert tile.logits.near_ties == (margins < NEAR_TIE).sum()
        assert tile.logits.margin == pytest.approx(margins.max(initial=0.0), abs=1e-5)
        wrong += int((a != b).sum())
        pixels += a.size
        known = truth != 255
        for c in range(5):
            inter[c] += ((b == c) & (truth == c) & known).sum()
            union[c] += (((b == c) | (truth == c)) & known).sum()
    assert 0 < wrong < pixels
    assert result.agreement == pytest.approx(1 - wrong / pixels)
    assert result.worst.name == "p3"
    # The first model is the ground truth, so the loss of the second is its shortfall from 1.
    assert result.iou_drop == pytest.approx(dict(zip(CLASSES.names, 100 * (1 - inter / union), strict=True)))
    assert result.miou_drop == pytest.approx(100 * (1 - (inter / union).mean()))
    failures = result.failures(Limits(0.99999, 0.001))
    assert len(failures) == 2
    assert f"{result.agreement:.4%}" in failures[0]
    assert result.failures(Limits(0.0, 100)) == []


def test_labels_that_are_all_unknown_are_no_ground_truth(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    tile = Labelled("p", scene(32, 32), np.full((32, 32), 255, np.uint8))
    result = compare(*open_pair(tmp_path / "a.onnx", tmp_path / "a.onnx"), [tile])
    assert result.scores is None
    assert result.failures(LIMITS["fp32"]) == []


def test_models_of_different_input_sizes(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx", (32, 32))
    build_model(tmp_path / "b.onnx", (24, 48), batch=2)
    result = compare(*open_pair(tmp_path / "a.onnx", tmp_path / "b.onnx"), scene(60, 90, 1)[np.newaxis])
    assert result.agreement == 1.0
    assert result.logits is None


def test_logits_that_are_no_numbers_fail_whatever_the_labels_say(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    shifted(tmp_path / "b.onnx", by=float("nan"), only=4)
    result = compare(*open_pair(tmp_path / "a.onnx", tmp_path / "b.onnx"), scene(32, 32, 1)[np.newaxis])
    assert result.logits is not None
    assert result.logits.max == float("inf")
    assert any("not finite" in text for text in result.failures(Limits(0.0, 100)))
    assert result.to_dict()["logit_error_max"] is None


def test_models_that_cannot_be_compared(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    other = ClassSet(("sea", *CLASSES.names[1:]), CLASSES.palette)
    build_model(tmp_path / "b.onnx", classes=other)
    for second, pictures, code in (
        ("b.onnx", scene(8, 8)[np.newaxis], "class-mismatch"),
        ("none.onnx", scene(8, 8)[np.newaxis], "input-missing"),
        ("a.onnx", [], "dataset-empty"),
    ):
        with pytest.raises(EmraError) as caught:
            compare(*open_pair(tmp_path / "a.onnx", tmp_path / second), pictures)
        assert caught.value.code == code


def test_a_tolerance_that_is_none() -> None:
    for values in ((1.1, 0.1), (-0.1, 0.1), (0.9, -1), (float("nan"), 1)):
        with pytest.raises(EmraError):
            Limits(*values)


def test_the_worst_of_equals_has_the_larger_logit_error() -> None:
    errors = {"a": 0.1, "b": 0.3}
    tiles = [PictureReport(name, 10, 9, LogitError(error, 0.0, 0.0, 0.0, 0, 0.0)) for name, error in errors.items()]
    assert Report(CLASSES, (*tiles, PictureReport("c", 10, 9)), ({}, {})).worst.name == "b"


def test_importing_it_costs_no_library() -> None:
    code = (
        "import sys, export.compare.comparison, export.compare.runners, export.half.convert\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt_rtx_bindings'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Brightness:
    """A model whose logits are a tile's brightness, and an error on top that differs from pixel to pixel."""

    def __init__(self, wrong: bool, size: tuple[int, int] = (32, 32)) -> None:
        self.manifest = make_manifest(size, heads=("classes", "logits"))
        self.input_shape = self.manifest.input_shape
        self.name = "brightness"
        self._wrong = wrong
        self.tiles = 0

    def describe(self) -> dict[str, str]:
        return {}

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.tiles += len(batch)
        logits = np.ones((len(batch), len(CLASSES), *batch.shape[1:3]), np.float32)
        if self._wrong:
            logits += batch[..., 0][:, np.newaxis] / np.float32(1000)
        return {"classes": np.zeros(batch.shape[:3], np.uint8), "logits": logits}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class PartlyEmpty(Labelled):
    valid: np.ndarray

    def source(self) -> ArraySource:
        return ArraySource(self.image, self.valid)


def strip(mirrored: bool) -> PartlyEmpty:
    """Two bright fifths, a gap of several tiles without data, and one dark fifth whose tile is partly empty."""
    image = np.zeros((48, 400, 3), np.uint8)
    image[:, :160], image[:, 320:] = 200, 20
    valid = np.zeros((48, 400), bool)
    valid[:, :160] = valid[5:, 320:] = True
    if mirrored:
        image, valid = image[:, ::-1].copy(), valid[:, ::-1].copy()
    return PartlyEmpty("strip", image, np.zeros((48, 400), np.uint8), valid)


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_each_pixel_with_data_counts_once(mirrored: bool, blend: bool) -> None:
    """Tiles without data are never run, overlapping tiles see a pixel twice, and neither may change the mean."""
    tile = strip(mirrored)
    runners = Brightness(False), Brightness(True)
    result = compare(*runners, [tile], blend=blend)
    assert result.logits is not None
    assert result.pixels == tile.valid.sum() == 160 * 48 + 80 * 43
    assert result.logits.max == pytest.approx(0.2)
    assert result.logits.mean == pytest.approx(tile.image[..., 0][tile.valid].mean() / 1000)
    assert result.logits.divergence == pytest.approx(0, abs=1e-9), "softmax does not see a shift"
    assert result.miou_drop == 0.0, "truth without data counts for neither model"
    assert runners[0].tiles == runners[1].tiles


def test_windows_of_different_heights_are_compared_pixel_by_pixel() -> None:
    tile = strip(False)
    result = compare(Brightness(False), Brightness(True, (24, 64)), [tile])
    assert (result.pixels, result.agreement, result.logits) == (tile.valid.sum(), 1.0, None)


def test_files_that_give_no_logits_can_be_compared_blended(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    shifted(tmp_path / "b.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 3), dtype=np.uint8)
    found = compare(*open_pair(tmp_path / "a.onnx", tmp_path / "b.onnx"), picture, blend=True)
    assert 0.9 < found.agreement < 1


class Fixed:
    """A model that always gives the same logits, C values for every pixel."""

    def __init__(self, logits: list[float], confidence: float | None = None) -> None:
        self.manifest = make_manifest((8, 8))
        self.input_shape, self.name = self.manifest.input_shape, "fixed"
        self._logits = np.array(logits, np.float32).reshape(1, -1, 1, 1)
        self._confidence = confidence

    def describe(self) -> dict[str, str]:
        return {}

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        logits = np.broadcast_to(self._logits, (1, 5, 8, 8)).copy()
        found = {"classes": logits.argmax(1).astype(np.uint8), "logits": logits}
        if self._confidence is not None:
            found["confidence"] = np.full((1, 8, 8), self._confidence, np.float32)
        return found

    def close(self) -> None:
        pass


def test_figures_of_known_logits() -> None:
    shares, changed = [0.5, 0.3, 0.1, 0.05, 0.05], [0.3, 0.5, 0.1, 0.05, 0.05]
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    found = compare(Fixed(list(np.log(shares))), Fixed(list(np.log(changed)), confidence=0.6), picture)
    assert found.logits is not None
    assert found.agreement == 0
    assert found.logits.divergence == pytest.approx(0.2 * np.log(0.5 / 0.3), rel=1e-5)
    assert found.logits.margin == pytest.approx(0.2, rel=1e-5)
    assert found.logits.near_ties == 0
    assert found.logits.confidence == pytest.approx(0.1, rel=1e-5)
    assert found.failures(Limits(0.0, confidence_error=0.05)) == [
        "confidence is off by 1.0e-01, expected at most 5e-02"
    ]
    close = compare(Fixed([1.0, 0.9, 0, 0, 0]), Fixed([0.9, 1.0, 0, 0, 0]), picture)
    assert close.logits is not None
    assert close.logits.near_ties == 64


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_reference_that_is_not_finite_fails_too(wrong: float) -> None:
    broken, whole = Fixed([wrong] * 5), Fixed([1.0, 0, 0, 0, 0])
    for pair in ((broken, whole), (whole, broken)):
        found = compare(*pair, np.zeros((1, 8, 8, 3), np.uint8))
        assert any("not finite" in text for text in found.failures(Limits(0.0)))


def test_a_cached_reference_runs_each_tile_once() -> None:
    reference = Brightness(True)
    cached = Cached(reference, ("classes",))
    tiles = np.stack([scene(32, 32, seed) for seed in (1, 2, 1, 2)])
    for _ in range(2):
        assert compare(cached, Brightness(False), tiles).logits is None
    assert reference.tiles == 2
    np.testing.assert_array_equal(cached.run(tiles[:1])["classes"], reference.run(tiles[:1])["classes"])
