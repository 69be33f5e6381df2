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
from export.compare.comparison import TOLERANCES, Comparison, TileDifference, Tolerance, compare
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
    result = compare(tmp_path / "a.onnx", tmp_path / "a.onnx", pictures)
    assert (result.agreement, result.logit_max, result.logit_mean) == (1.0, 0.0, 0.0)
    assert result.pixels == 2 * 50 * 70
    assert result.scores is None
    assert result.miou_drop is None
    assert result.failures(TOLERANCES["fp32"]) == []


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
    seen: list[TileDifference] = []
    result = compare(tmp_path / "a.onnx", tmp_path / "b.onnx", tiles, progress=seen.append)
    assert tuple(seen) == result.tiles

    # What the second model must answer, straight from its definition.
    from tests.onnx_models import MEAN, STD, _scores

    weight, bias = _scores(CLASSES)
    moved = bias.copy()
    moved[1] += 0.4
    wrong, pixels, inter, union = 0, 0, np.zeros(5), np.zeros(5)
    for picture, truth, tile in zip(pictures, truths, result.tiles, strict=True):
        pixel = (picture.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        ours, theirs = pixel @ weight.T + bias, pixel @ weight.T + moved
        a, b = ours.argmax(-1), theirs.argmax(-1)
        assert tile.agreeing == (a == b).sum()
        assert tile.logit_max == pytest.approx(0.4 / np.abs(ours).max(), rel=1e-4)
        wrong += int((a != b).sum())
        pixels += a.size
        known = truth != 255
        for c in range(5):
            inter[c] += ((b == c) & (truth == c) & known).sum()
            union[c] += (((b == c) | (truth == c)) & known).sum()
    assert 0 < wrong < pixels
    assert result.agreement == pytest.approx(1 - wrong / pixels)
    assert result.worst.name == "p3"
    # The first model is the truth, so what the second loses is what it lacks.
    assert result.iou_drop == pytest.approx(dict(zip(CLASSES.names, 100 * (1 - inter / union), strict=True)))
    assert result.miou_drop == pytest.approx(100 * (1 - (inter / union).mean()))
    failures = result.failures(Tolerance(0.99999, 0.001))
    assert len(failures) == 2
    assert f"{result.agreement:.4%}" in failures[0]
    assert result.failures(Tolerance(0.0, 100)) == []


def test_labels_that_are_all_unknown_are_no_ground_truth(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    tile = Labelled("p", scene(32, 32), np.full((32, 32), 255, np.uint8))
    result = compare(tmp_path / "a.onnx", tmp_path / "a.onnx", [tile])
    assert result.scores is None
    assert result.failures(TOLERANCES["fp32"]) == []


def test_models_of_different_input_sizes(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx", (32, 32))
    build_model(tmp_path / "b.onnx", (24, 48), batch=2)
    result = compare(tmp_path / "a.onnx", tmp_path / "b.onnx", scene(60, 90, 1)[np.newaxis])
    assert result.agreement == 1.0
    assert result.logit_max is None


def test_logits_that_are_no_numbers_fail_whatever_the_labels_say(tmp_path: Path) -> None:
    build_model(tmp_path / "a.onnx")
    shifted(tmp_path / "b.onnx", by=float("nan"), only=4)
    result = compare(tmp_path / "a.onnx", tmp_path / "b.onnx", scene(32, 32, 1)[np.newaxis])
    assert result.logit_max == float("inf")
    assert any("not finite" in text for text in result.failures(Tolerance(0.0, 100)))
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
            compare(tmp_path / "a.onnx", tmp_path / second, pictures)
        assert caught.value.code == code


def test_a_tolerance_that_is_none() -> None:
    for values in ((1.1, 0.1), (-0.1, 0.1), (0.9, -1), (float("nan"), 1)):
        with pytest.raises(EmraError):
            Tolerance(*values)


def test_the_worst_of_equals_has_the_larger_logit_error() -> None:
    tiles = tuple(TileDifference(name, 10, 9, error, 0.0) for name, error in (("a", 0.1), ("b", 0.3), ("c", None)))
    assert Comparison(CLASSES, tiles, ({}, {})).worst.name == "b"


def test_importing_it_costs_no_library() -> None:
    code = (
        "import sys, export.compare.comparison, export.compare.runners, export.half.convert\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt_rtx_bindings'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Brightness:
    """A model whose logits are a tile's brightness, and an error on top that differs from tile to tile."""

    def __init__(self, wrong: bool) -> None:
        self.manifest = make_manifest((32, 32))
        self.input_shape = (1, 32, 32)
        self.name = "brightness"
        self._wrong = wrong

    def describe(self) -> dict[str, str]:
        return {}

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        logits = np.ones((len(batch), len(CLASSES), *batch.shape[1:3]), np.float32)
        if self._wrong:
            logits += batch[..., 0].max() / 1000
        return {"classes": np.zeros(batch.shape[:3], np.uint8), "logits": logits}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class PartlyEmpty(Labelled):
    valid: np.ndarray

    def source(self) -> ArraySource:
        return ArraySource(self.image, self.valid)


@pytest.mark.parametrize("mirrored", [False, True])
def test_windows_without_data_count_for_no_logit_error(mirrored: bool) -> None:
    """They are never run, so what the model gave last must not be counted for them again."""
    image = np.zeros((16, 320, 3), np.uint8)
    image[:, :80], image[:, 240:] = 200, 20
    valid = np.zeros((16, 320), bool)
    valid[:, :80] = valid[:, 240:] = True
    if mirrored:
        image, valid = image[:, ::-1].copy(), valid[:, ::-1].copy()
    runners = Brightness(False), Brightness(True)
    truth = np.zeros((16, 320), np.uint8)
    result = compare(*runners, [PartlyEmpty("strip", image, truth, valid)], labelled=False)
    ends = [compare(*runners, np.full((1, 16, 80, 3), value, np.uint8)).logit_mean for value in (200, 20)]
    assert result.logit_max == pytest.approx(0.2)
    # As many windows are bright as dark, but for those that see an edge.
    assert result.logit_mean == pytest.approx(np.mean(ends), abs=0.03)
