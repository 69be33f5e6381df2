"""Drawing: colours are the classes', the picture shows through, the legend can be read, large maps are reduced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.maps.preview import Preview
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.segmenting.areas import class_areas, count_labels
from emra_deploy.segmenting.overlay import colour_map, legend, overlay, with_legend

CLASSES = ClassSet(("ground", "water", "a roof with a long name"), ((10, 20, 30), (0, 0, 250), (200, 0, 0)))


@pytest.fixture
def labels() -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 4, (300, 70), np.uint8)
    values[values == 3] = 255
    return values


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (300, 70, 3), np.uint8)


def test_colour_map(labels: np.ndarray) -> None:
    colours = colour_map(labels, CLASSES)
    for label, colour in [*enumerate(CLASSES.palette), (255, (0, 0, 0))]:
        assert (colours[labels == label] == colour).all()


@pytest.mark.parametrize("opacity", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_overlay_is_the_weighted_mean(labels: np.ndarray, image: np.ndarray, opacity: float) -> None:
    before = image.copy()
    result = overlay(image, labels, CLASSES, opacity)
    exact = image * (1 - opacity) + colour_map(labels, CLASSES) * opacity
    exact[labels == 255] = image[labels == 255]
    assert np.abs(result - exact).max() <= 1.01
    np.testing.assert_array_equal(image, before)
    if opacity in (0.0, 1.0):
        np.testing.assert_array_equal(result, exact)


def test_bad_arguments(labels: np.ndarray, image: np.ndarray) -> None:
    for opacity in (-0.1, 1.1, float("nan")):
        with pytest.raises(EmraError, match="opacity-range"):
            overlay(image, labels, CLASSES, opacity)
    with pytest.raises(EmraError, match="label-shape"):
        overlay(image[:-1], labels, CLASSES)
    with pytest.raises(EmraError, match="label-shape"):
        colour_map(labels.astype(np.int64), CLASSES)
    with pytest.raises(EmraError, match="label-range"):
        colour_map(np.full((2, 2), 3, np.uint8), CLASSES)


def test_legend_shows_every_colour_and_grows_with_the_text() -> None:
    plain = legend(CLASSES)
    for colour in CLASSES.palette:
        assert (plain == colour).all(axis=-1).sum() > 100
    areas = class_areas(count_labels(np.zeros((4, 4), np.uint8)), CLASSES)
    assert legend(CLASSES, areas).shape[1] > plain.shape[1]
    assert legend(CLASSES, text_height=32).shape[0] > plain.shape[0] * 1.7
    # Letters reach no edge.
    assert (plain[:, -3:] == 255).all()
    assert (plain[-2:] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (30, 500), (900, 40)])
def test_picture_is_unchanged_beside_its_legend(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    result = with_legend(image, CLASSES)
    np.testing.assert_array_equal(result[: size[0], : size[1]], image)
    assert result.shape[0] >= size[0]


def build(image: np.ndarray, labels: np.ndarray, max_side: int, step: int, tmp_path: Path) -> np.ndarray:
    preview = Preview(ArraySource(image), CLASSES, 0.5, max_side)
    for top in range(0, labels.shape[0], step):
        preview.add(top, labels[top : top + step])
    preview.save(tmp_path / "a.png")
    height, width = -(-labels.shape[0] // preview.factor), -(-labels.shape[1] // preview.factor)
    return np.asarray(Image.open(tmp_path / "a.png"))[:height, :width]


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_small_pictures_are_not_reduced(labels: np.ndarray, image: np.ndarray, step: int, tmp_path: Path) -> None:
    np.testing.assert_array_equal(build(image, labels, 300, step, tmp_path), overlay(image, labels, CLASSES))


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
@pytest.mark.parametrize("max_side", [299, 100, 43, 1])
def test_large_pictures_are_reduced(
    labels: np.ndarray, image: np.ndarray, max_side: int, step: int, tmp_path: Path
) -> None:
    result = build(image, labels, max_side, step, tmp_path)
    assert max(result.shape[:2]) <= max_side
    factor = -(-300 // max_side)
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            cell = (slice(row * factor, (row + 1) * factor), slice(column * factor, (column + 1) * factor))
            height, width = labels[cell].shape
            label = labels[cell][(height - 1) // 2, (width - 1) // 2]
            if (height, width) == (factor, factor):
                mean = np.rint(image[cell].reshape(-1, 3).mean(axis=0)).astype(np.uint8)
                expected = overlay(mean[None, None], label[None, None], CLASSES)
                assert np.abs(result[row, column].astype(int) - expected[0, 0]).max() <= 1
