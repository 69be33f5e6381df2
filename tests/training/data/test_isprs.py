"""Potsdam and Vaihingen."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from tests.training.data.layouts import make_potsdam, make_vaihingen, paint, picture, write_tiff
from training.data import check, isprs, open_dataset


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory):
    root = tmp_path_factory.mktemp("potsdam")
    return root, make_potsdam(root, ("RGB", "RGBIR"))


@pytest.fixture(scope="module")
def vaihingen(tmp_path_factory):
    root = tmp_path_factory.mktemp("vaihingen")
    return root, make_vaihingen(root)


def test_the_contest_lists():
    assert len(isprs.POTSDAM_TRAIN) == 24
    assert len(isprs.POTSDAM_TEST) == 14
    assert len(isprs.VAIHINGEN_TRAIN) == 16
    assert len(isprs.VAIHINGEN_TEST) == 17
    assert len({*isprs.POTSDAM_TRAIN, *isprs.POTSDAM_TEST}) == 38
    assert len({*isprs.VAIHINGEN_TRAIN, *isprs.VAIHINGEN_TEST}) == 33


def test_potsdam_splits_leave_out_the_mislabelled_tile(potsdam):
    root, _ = potsdam
    names = {
        split: {tile.name for tile in open_dataset("potsdam", root, split).tiles}
        for split in ("train", "val", "trainval", "test")
    }
    assert {split: len(tiles) for split, tiles in names.items()} == {"train": 22, "val": 1, "trainval": 23, "test": 14}
    assert not names["train"] & (names["val"] | names["test"])
    assert names["trainval"] == names["train"] | names["val"]
    assert "7_10" not in names["trainval"]
    assert len(open_dataset("potsdam", root, "trainval", mislabelled=True).tiles) == 24


def test_potsdam_labels_with_the_two_tiles_that_are_off_colour(potsdam):
    root, truth = potsdam
    dataset = open_dataset("auto", root, "train")
    assert (dataset.name, dataset.gsd) == ("potsdam", 0.05)
    assert {"4_12", "6_7"} <= {tile.name for tile in dataset.tiles}
    for tile in dataset.tiles:
        np.testing.assert_array_equal(tile.read_labels(), truth[tile.name], tile.name)
    assert check(dataset).ignored_pixels == 0


def test_other_tiles_do_not_get_that_lenience(tmp_path):
    truth = make_potsdam(tmp_path)
    colours = paint(truth["5_11"], isprs.CLASSES.palette, (0, 0, 0))
    colours[2, 6] = (252, 255, 0)
    path = tmp_path / "5_Labels_all" / "top_potsdam_5_11_label.tif"
    write_tiff(path, colours)
    dataset = open_dataset("potsdam", tmp_path, "train")
    with pytest.raises(EmraError, match="#FCFF00 at row 2, column 6") as caught:
        check(dataset)
    assert caught.value.path == str(path)


def test_that_lenience_ends_half_way_between_two_colours(tmp_path):
    truth = make_potsdam(tmp_path)
    colours = paint(truth["4_12"], isprs.CLASSES.palette, (0, 0, 0))
    colours[2, 6] = (255, 120, 0)
    write_tiff(tmp_path / "5_Labels_all" / "top_potsdam_4_12_label.tif", colours)
    tile = next(tile for tile in open_dataset("potsdam", tmp_path, "train").tiles if tile.name == "4_12")
    with pytest.raises(EmraError, match="#FF7800 at row 2, column 6"):
        tile.read_labels()


def test_potsdam_products_agree(potsdam):
    root, _ = potsdam
    rgb = open_dataset("potsdam", root, "test")
    irrg = open_dataset("potsdam", root, "test", product="IRRG")
    assert rgb.bands == ("red", "green", "blue")
    assert irrg.bands == ("near-infrared", "red", "green")
    for one, other in zip(rgb.tiles, irrg.tiles, strict=True):
        seed = (*isprs.POTSDAM_TRAIN, *isprs.POTSDAM_TEST).index(one.name)
        np.testing.assert_array_equal(one.read_image(), picture(seed, 24, 24, 4)[..., :3])
        np.testing.assert_array_equal(one.read_image()[..., :2], other.read_image()[..., 1:])
        np.testing.assert_array_equal(other.read_image()[..., 0], picture(seed, 24, 24, 4)[..., 3])
    with pytest.raises(EmraError, match="RGB, IRRG"):
        open_dataset("potsdam", root, "test", product="DSM")


def test_eroded_labels_are_for_evaluation(potsdam, vaihingen):
    for kind, (root, truth) in (("potsdam", potsdam), ("vaihingen", vaihingen)):
        dataset = open_dataset(kind, root, "test", labels="eroded")
        for tile in dataset.tiles:
            labels = tile.read_labels()
            black = np.zeros(labels.shape, bool)
            black[(0, slice(None)) if kind == "potsdam" else (slice(None), 0)] = True
            np.testing.assert_array_equal(labels, np.where(black, 255, truth[tile.name]))
        for split in ("train", "trainval"):
            with pytest.raises(EmraError, match="evaluation only"):
                open_dataset(kind, root, split, labels="eroded")
        with pytest.raises(EmraError, match="full or eroded"):
            open_dataset(kind, root, "test", labels="half")


def test_black_is_no_label_in_full_masks(tmp_path):
    truth = make_vaihingen(tmp_path)
    colours = paint(truth["2"], isprs.CLASSES.palette, (0, 0, 0))
    colours[1, 1] = 0
    write_tiff(tmp_path / "gts_for_participants" / "top_mosaic_09cm_area2.tif", colours)
    with pytest.raises(EmraError, match="#000000 at row 1, column 1"):
        check(open_dataset("vaihingen", tmp_path, "test"))


def test_vaihingen(vaihingen):
    root, truth = vaihingen
    sizes = {split: len(open_dataset("auto", root, split).tiles) for split in ("train", "val", "trainval", "test")}
    assert sizes == {"train": 15, "val": 1, "trainval": 16, "test": 17}
    dataset = open_dataset("vaihingen", root, "test")
    assert dataset.bands == ("near-infrared", "red", "green")
    for tile in dataset.tiles:
        np.testing.assert_array_equal(tile.read_labels(), truth[tile.name])
        seed = (*isprs.VAIHINGEN_TRAIN, *isprs.VAIHINGEN_TEST).index(tile.name)
        np.testing.assert_array_equal(tile.read_image(), picture(seed, tile.height, tile.width))


def test_archives_unpacked_beside_each_other(vaihingen, tmp_path):
    root, _ = vaihingen
    shutil.copytree(root / "top", tmp_path / "ISPRS_semantic_labeling_Vaihingen" / "top")
    shutil.copytree(root / "gts_for_participants", tmp_path / "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE")
    eroded = tmp_path / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
    shutil.copytree(root / "gts_eroded_for_participants", eroded)
    plain = open_dataset("vaihingen", root, "test")
    there = open_dataset("auto", tmp_path, "test")
    for one, other in zip(plain.tiles, there.tiles, strict=True):
        np.testing.assert_array_equal(one.read_labels(), other.read_labels())
    assert open_dataset("vaihingen", tmp_path, "test", labels="eroded").tiles[0].read_labels()[0, 0] == 255


def test_of_two_copies_of_a_label_the_complete_archive_counts(tmp_path):
    truth = make_potsdam(tmp_path)
    for folder in ("1_older_labels", "5_Labels_for_participants"):
        write_tiff(tmp_path / folder / "top_potsdam_2_13_label.tif", np.zeros((24, 24, 3), np.uint8))
    tile = open_dataset("potsdam", tmp_path, "test").tiles[0]
    assert tile.name == "2_13"
    np.testing.assert_array_equal(tile.read_labels(), truth["2_13"])


def test_missing_tiles_are_listed(vaihingen, tmp_path):
    root, _ = vaihingen
    shutil.copytree(root, tmp_path / "v")
    (tmp_path / "v" / "top" / "top_mosaic_09cm_area4.tif").unlink()
    (tmp_path / "v" / "gts_for_participants" / "top_mosaic_09cm_area38.tif").unlink()
    with pytest.raises(EmraError) as caught:
        open_dataset("vaihingen", tmp_path / "v", "test")
    assert "tile 4 has no picture (top/top_mosaic_09cm_area4.tif)" in caught.value.cause
    assert "tile 38 has no mask" in caught.value.cause
    open_dataset("vaihingen", tmp_path / "v", "train")
    shutil.rmtree(tmp_path / "v" / "gts_eroded_for_participants")
    with pytest.raises(EmraError, match="no mask of this split"):
        open_dataset("vaihingen", tmp_path / "v", "val", labels="eroded")
