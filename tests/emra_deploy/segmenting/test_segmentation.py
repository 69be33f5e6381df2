"""A segmentation and the areas of its classes."""

from __future__ import annotations

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.segmenting.areas import class_areas, count_labels
from emra_deploy.segmenting.segmentation import Segmentation
from tests.onnx_models import CLASSES


def test_areas_add_up() -> None:
    labels = np.array([[0, 0, 1, 255], [0, 3, 1, 255]], np.uint8)
    areas = Segmentation(labels, CLASSES).areas(pixel_area_m2=0.25)
    assert [area.name for area in areas] == list(CLASSES.names)
    assert [area.pixels for area in areas] == [3, 2, 0, 1, 0]
    assert [area.fraction for area in areas] == [3 / 6, 2 / 6, 0, 1 / 6, 0]
    assert [area.square_metres for area in areas] == [0.75, 0.5, 0, 0.25, 0]
    assert Segmentation(labels, CLASSES).areas()[0].square_metres is None


def test_nothing_labelled_has_no_area() -> None:
    areas = Segmentation(np.full((3, 3), 255, np.uint8), CLASSES).areas(1.0)
    assert {(area.pixels, area.fraction, area.square_metres) for area in areas} == {(0, 0.0, 0.0)}


def test_counts_of_parts_add_up_to_the_whole() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (1500, 1500), dtype=np.uint8)
    counts = count_labels(labels)
    np.testing.assert_array_equal(counts, np.bincount(labels.ravel(), minlength=256))
    np.testing.assert_array_equal(counts, count_labels(labels[:700]) + count_labels(labels[700:, ::-1]))


@pytest.mark.parametrize("value", [5, 254])
def test_labels_beyond_the_classes_are_refused(value: int) -> None:
    labels = np.array([[0, value, 255]], np.uint8)
    with pytest.raises(EmraError, match=str(value)) as caught:
        Segmentation(labels, CLASSES)
    assert caught.value.code == "class-count"
    with pytest.raises(EmraError):
        class_areas(count_labels(labels), CLASSES)


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 1), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_arrays_that_are_no_label_map_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(EmraError) as caught:
        Segmentation(labels, CLASSES)
    assert caught.value.code == "label-array"


def test_confidence_is_of_the_same_picture() -> None:
    with pytest.raises(EmraError):
        Segmentation(np.zeros((2, 2), np.uint8), CLASSES, np.zeros((2, 3), np.float32))


def test_labels_are_drawn_in_their_colours() -> None:
    result = Segmentation(np.array([[0, 3]], np.uint8), CLASSES)
    assert (result.height, result.width) == (1, 2)
    assert result.colour_map().tolist() == [[list(CLASSES.palette[0]), list(CLASSES.palette[3])]]
    picture = np.full((1, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(result.overlay(picture, opacity=0.0), picture)
