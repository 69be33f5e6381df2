from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import check_bands, evaluate
from emra_deploy.evaluation.page import RIGHT, WRONG, make_panels, write_page
from emra_deploy.evaluation.report import describe, write_json
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import CLASSES, build_model, nearest_colour, scene

ISPRS = ClassSet(("impervious", "building", "tree", "car", "clutter"), CLASSES.palette)


@dataclass
class ArrayTile:
    name: str
    image: np.ndarray
    labels: np.ndarray
    valid: np.ndarray | None = None

    def source(self) -> ArraySource:
        return ArraySource(self.image, self.valid)

    def read_labels(self, window: Window | None = None) -> np.ndarray:
        return self.labels if window is None else self.labels[window.slices]


def tile_with_errors(name: str, share: float, size: tuple[int, int] = (70, 90), seed: int = 0) -> ArrayTile:
    """A picture whose truth is what the model says, except in the topmost share of the rows."""
    image = scene(*size, seed=seed)
    labels = nearest_colour(image)
    wrong = round(share * size[0])
    labels[:wrong] = (labels[:wrong] + 1) % len(CLASSES)
    labels[-5:] = IGNORE
    return ArrayTile(name, image, labels)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path)
    return Segmenter.open(path, threads=1)


def test_scores_are_of_all_pixels_and_of_each_picture(segmenter: Segmenter) -> None:
    tiles = [tile_with_errors("good", 0.0), tile_with_errors("bad", 0.5, seed=1), tile_with_errors("fair", 0.2, seed=2)]
    done: list[str] = []
    evaluation = evaluate(segmenter, tiles, CLASSES, done.append)
    assert done == ["good", "bad", "fair"]
    pixels = 65 * 90
    assert [image.pixels for image in evaluation.images] == [pixels] * 3
    assert [image.accuracy for image in evaluation.images] == pytest.approx([1, 1 - 35 / 65, 1 - 14 / 65])
    assert evaluation.images[0].miou == 1
    assert evaluation.scores.accuracy == pytest.approx(1 - 49 / 195)
    assert evaluation.matrix.counts.sum() == 3 * pixels
    assert [image.name for image in evaluation.worst(2)] == ["bad", "fair"]
    assert evaluation.miou_without_clutter is None
    content = evaluation.to_dict()
    assert content["windows"] == {"height": 32, "width": 32, "halo": segmenter.halo, "blend": False}
    assert np.sum(content["confusion"]) == 3 * pixels
    assert "miou_without_clutter" not in content


def test_pixels_without_data_count_for_nothing_though_they_have_labels(segmenter: Segmenter) -> None:
    tile = tile_with_errors("partly empty", 0.5)
    tile.valid = np.ones(tile.labels.shape, bool)
    tile.valid[:20], tile.valid[:, :40] = False, False
    evaluation = evaluate(segmenter, [tile], CLASSES)
    assert evaluation.images[0].pixels == (65 - 20) * 50
    assert evaluation.scores.accuracy == pytest.approx(30 / 45)


def test_isprs_means_with_and_without_clutter(tmp_path: Path) -> None:
    build_model(tmp_path / "model.onnx", classes=ISPRS)
    tile = tile_with_errors("tile", 0.3)
    with Segmenter.open(tmp_path / "model.onnx", threads=1) as segmenter:
        evaluation = evaluate(segmenter, [tile], ISPRS)
    iou = evaluation.scores.iou
    assert evaluation.scores.miou == pytest.approx(np.mean(iou))
    assert evaluation.miou_without_clutter == pytest.approx(np.mean(iou[:4]))
    assert evaluation.to_dict()["miou_without_clutter"] == pytest.approx(np.mean(iou[:4]))


def test_what_cannot_be_compared_is_refused(segmenter: Segmenter) -> None:
    tile = tile_with_errors("tile", 0.0)
    swapped = ClassSet(CLASSES.names[::-1], CLASSES.palette)
    with pytest.raises(EmraError, match="the data set has vegetation") as caught:
        evaluate(segmenter, [tile], swapped)
    assert caught.value.code == "class-mismatch"
    with pytest.raises(EmraError) as caught:
        evaluate(segmenter, [], CLASSES)
    assert caught.value.code == "dataset-empty"
    with pytest.raises(EmraError) as caught:
        check_bands(("red", "green", "blue"), ("near-infrared", "red", "green"))
    assert caught.value.code == "band-mismatch"
    check_bands(["red", "green", "blue"], ("red", "green", "blue"))


def test_a_picture_without_labels_is_never_the_worst(segmenter: Segmenter) -> None:
    empty = tile_with_errors("empty", 0.0)
    empty.labels[:] = IGNORE
    evaluation = evaluate(segmenter, [empty, tile_with_errors("bad", 0.5)], CLASSES)
    assert math.isnan(evaluation.images[0].miou)
    assert [image.name for image in evaluation.worst(5)] == ["bad"]
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_panels_show_one_pixel_in_so_many(segmenter: Segmenter) -> None:
    tile = tile_with_errors("wide", 0.5, size=(120, 1000))
    panels = make_panels(segmenter, tile, CLASSES)
    assert panels.image.shape == panels.truth.shape == panels.errors.shape == (40, 334, 3)
    np.testing.assert_array_equal(panels.image, tile.image[::3, ::3])
    palette = np.asarray(CLASSES.palette, np.uint8)
    np.testing.assert_array_equal(panels.prediction, palette[nearest_colour(tile.image)[::3, ::3]])
    red, blue = panels.errors[..., 0].astype(int), panels.errors[..., 2].astype(int)
    assert (red[:20] > blue[:20]).all(), "the upper half is wrong"
    assert (red[20:38] < blue[20:38]).all(), "the lower half is right"
    assert not panels.errors[39].any(), "the last rows have no label"


# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
VISION = {
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("kind", VISION)
def test_right_and_wrong_differ_to_colour_blind_eyes(kind: str) -> None:
    linear = (np.array([RIGHT, WRONG]) / 255) ** 2.2
    seen = 255 * np.clip(linear @ np.array(VISION[kind]).T, 0, 1) ** (1 / 2.2)
    assert np.linalg.norm(seen[0] - seen[1]) > 120
    lightness = linear @ [0.2126, 0.7152, 0.0722]
    assert max(lightness) / min(lightness) > 2, "also in grey"


def test_json_and_page(segmenter: Segmenter, tmp_path: Path) -> None:
    tiles = [tile_with_errors("<b>good</b>", 0.1), tile_with_errors("bad", 0.5, seed=1)]
    evaluation = evaluate(segmenter, tiles, CLASSES)
    content = describe(evaluation, {"path": "model.onnx", "sha256": "ab" * 32}, {"name": "folder", "split": "val"})
    write_json(tmp_path / "scores.json", content)
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["model_sha256"] == "ab" * 32
    assert read["miou"] == pytest.approx(evaluation.scores.miou)
    assert read["data"]["split"] == "val"
    with pytest.raises(EmraError, match="exists already"):
        write_json(tmp_path / "scores.json", content)

    pytest.importorskip("jinja2")
    write_page(tmp_path / "page.html", evaluation, segmenter, tiles, content, count=2)
    page = (tmp_path / "page.html").read_text()
    assert "<b>good</b>" not in page, "names are escaped"
    assert page.index(">bad<") < page.index("&lt;b&gt;good&lt;/b&gt;"), "the worst comes first"
    assert page.count("data:image/") == 8
    assert "http" not in page.split("</style>")[0], "nothing is loaded from elsewhere"
    assert f"{100 * evaluation.scores.miou:.1f}" in page
    for verdict, colour in (("right", "#0072b2"), ("wrong", "#e69f00"), ("no label", "#000000")):
        assert f'<i style="background: {colour}"></i>{verdict}</span>' in page
