"""The Dubai tiles, made up and real."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.pictures.windows import Window
from tests.training.data.layouts import label_map, make_dubai, make_dubai_published, paint, picture
from training.data import check, dubai, open_dataset


def test_splits_by_part_and_labels_by_colour(tmp_path):
    truth = make_dubai(tmp_path)
    train = open_dataset("dubai", tmp_path, "train")
    val = open_dataset("auto", tmp_path, "val")
    assert [tile.name for tile in val.tiles] == ["tile1_part007", "tile2_part007"]
    assert {tile.name for tile in train.tiles} == truth.keys() - {tile.name for tile in val.tiles}
    for tile in (*train.tiles, *val.tiles):
        np.testing.assert_array_equal(tile.read_labels(), truth[tile.name], tile.name)
        assert tile.read_image().shape == (tile.height, tile.width, 3) == (*truth[tile.name].shape, 3)
    assert len(open_dataset("dubai", tmp_path, "trainval").tiles) == 14


def test_stray_colours_are_ignored(tmp_path):
    truth = make_dubai(tmp_path)
    path = tmp_path / "masks" / "tile1_part001.png"
    colours = paint(truth["tile1_part001"], dubai.CLASSES.palette, (0x9B, 0x9B, 0x9B))
    colours[3, 4] = (0x3D, 0x10, 0x98)
    Image.fromarray(colours).save(path)
    labels = open_dataset("dubai", tmp_path, "train").tiles[0].read_labels()
    assert labels[3, 4] == 255


def test_windows_and_source(tmp_path):
    make_dubai(tmp_path)
    tile = open_dataset("dubai", tmp_path, "val").tiles[0]
    window = Window(3, 5, 10, 12)
    np.testing.assert_array_equal(tile.read_image(window), tile.read_image()[3:13, 5:17])
    np.testing.assert_array_equal(tile.read_labels(window), tile.read_labels()[3:13, 5:17])
    source = tile.source()
    assert (source.height, source.width) == (tile.height, tile.width)
    np.testing.assert_array_equal(source.read(window), tile.read_image(window))
    assert source.valid(window) is None
    with pytest.raises(ValueError, match="not inside tile"):
        tile.read_image(Window(0, 0, tile.height + 1, 1))


def test_the_layout_as_published(tmp_path):
    make_dubai_published(tmp_path)
    train = open_dataset("auto", tmp_path, "train")
    assert train.name == "dubai"
    assert len(train.tiles) == 12
    labels = {tile.name: tile.read_labels() for tile in train.tiles}
    np.testing.assert_array_equal(labels["tile2_part003"], label_map(23, 20, 24, 5))
    assert [tile.name for tile in open_dataset("dubai", tmp_path, "test").tiles] == [
        "tile1_part008",
        "tile1_part009",
        "tile2_part008",
        "tile2_part009",
    ]


def test_a_split_that_is_not_there(tmp_path):
    make_dubai(tmp_path)
    with pytest.raises(EmraError, match="parts 008, 009, but the folder has none") as caught:
        open_dataset("dubai", tmp_path, "test")
    assert caught.value.code == "split-missing"
    with pytest.raises(EmraError, match="train, val, trainval, test"):
        open_dataset("dubai", tmp_path, "validation")


def test_one_file_that_is_one_tile_twice(tmp_path):
    make_dubai(tmp_path)
    Image.fromarray(picture(0, 31, 41)).save(tmp_path / "images" / "tile1_part001.png")
    with pytest.raises(EmraError, match=r"tile1_part001.jpg and tile1_part001.png name the same tile"):
        open_dataset("dubai", tmp_path, "train")


def test_the_real_tiles(dubai_root):
    val = open_dataset("auto", dubai_root, "val")
    assert (val.name, len(val.tiles)) == ("dubai", 8)
    assert len(open_dataset("dubai", dubai_root, "train").tiles) == 48
    summary = check(val)
    assert summary.pixels == sum(summary.class_pixels) + summary.ignored_pixels
    assert summary.ignored_pixels / summary.pixels < 0.02
    assert min(summary.fractions) > 0.05
