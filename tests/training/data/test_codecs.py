"""Masks become labels, and unknown values are found and named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from tests.training.data.layouts import label_map, paint
from training.data.codecs import ColourCodec, IndexCodec, decode_labels

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


# No deadline: each example builds a table of 16 MiB.
@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=9, unique=True),
    st.integers(0, 2**32 - 1),
)
def test_painted_labels_come_back(colours, seed):
    *palette, other = colours
    labels = label_map(seed % 1000, 7, 5, len(palette))
    codec = ColourCodec(tuple(palette), ignored=(other,))
    np.testing.assert_array_equal(codec.decode(paint(labels, palette, other)), labels)


def test_an_unknown_colour_is_named_with_its_first_position_in_the_file():
    pixels = np.full((4, 6, 3), RED, np.uint8)
    pixels[2, 3] = (1, 2, 3)
    pixels[3, 0] = (9, 9, 9)
    with pytest.raises(EmraError) as caught:
        decode_labels(ColourCodec((RED, GREEN)), pixels, "mask.png", top=100, left=10)
    assert caught.value.path == "mask.png"
    assert "#010203 at row 102, column 13" in caught.value.cause
    assert "2 such pixels" in caught.value.cause


def test_a_lenient_codec_ignores_unknown_colours():
    pixels = np.array([[RED, (1, 2, 3), GREEN, BLACK]], np.uint8)
    assert decode_labels(ColourCodec((RED, GREEN), strict=False), pixels, "m").tolist() == [[0, 255, 1, 255]]


def test_snapping_moves_near_colours_only():
    pixels = np.array([[(200, 30, 80), (88, 255, 0), (0, 168, 87)]], np.uint8)
    codec = ColourCodec((RED, GREEN), strict=False, snapped=True)
    assert codec.decode(pixels).tolist() == [[0, 255, 1]]
    with pytest.raises(EmraError, match="#58FF00"):
        decode_labels(ColourCodec((RED, GREEN), snapped=True), pixels, "m")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_index_masks_of_any_integer_type(dtype):
    codec = IndexCodec.of(ClassSet(("a", "b"), (RED, GREEN)), first=1, ignored=(0,))
    assert codec.decode(np.array([[0, 1, 2]], dtype)).tolist() == [[255, 0, 1]]


@pytest.mark.parametrize("value", [3, 255, 256, 257, -1, 65535])
def test_a_class_number_beyond_the_classes_is_named(value):
    codec = IndexCodec.of(ClassSet(("a", "b"), (RED, GREEN)), ignored=())
    with pytest.raises(EmraError, match=rf"value {value} at row 0, column 1 .*values 0, 1") as caught:
        decode_labels(codec, np.array([[0, value]], np.int32), "m.tif")
    assert caught.value.code == "unknown-label"


def test_one_bit_masks():
    codec = IndexCodec.of(ClassSet(("no", "yes"), (RED, GREEN)))
    assert codec.decode(np.array([[True, False]])).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        (ColourCodec((RED,)), np.zeros((2, 2), np.uint8)),
        (ColourCodec((RED,)), np.zeros((2, 2, 3), np.uint16)),
        (IndexCodec(((0, 0),)), np.zeros((2, 2, 3), np.uint8)),
        (IndexCodec(((0, 0),)), np.zeros((2, 2), np.float32)),
    ],
)
def test_masks_of_the_other_kind_are_refused(codec, pixels):
    with pytest.raises(EmraError) as caught:
        codec.decode(pixels, "mask.tif")
    assert (caught.value.code, caught.value.path) == ("mask-format", "mask.tif")


def test_a_codec_travels_without_its_table():
    codec = ColourCodec((RED, GREEN))
    codec.decode(np.zeros((1, 1, 3), np.uint8))
    assert len(pickle.dumps(codec)) < 1000
