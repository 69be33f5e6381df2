"""Own data."""

from __future__ import annotations

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from tests.training.data.layouts import label_map, make_folder, paint
from training.data import check, open_dataset
from training.data.folder import read_description

COLOURED = """
names: [field, barn]
colours: ["#00FF00", [255, 0, 0]]
masks: colour
ignore: ["#000000"]
gsd: 0.25
"""
PALETTE = ((0, 255, 0), (255, 0, 0))


def masks(*names, classes=2):
    return {name: label_map(i, 16, 18, classes) for i, name in enumerate(names)}


def test_index_masks_and_every_pair(tmp_path):
    truth = masks("a", "b")
    make_folder(tmp_path / "fields", "names: [field, barn]", truth)
    dataset = open_dataset("auto", tmp_path / "fields", "all")
    assert (dataset.name, dataset.classes.names) == ("fields", ("field", "barn"))
    assert len(set(dataset.classes.palette)) == 2
    for tile in dataset.tiles:
        np.testing.assert_array_equal(tile.read_labels(), truth[tile.name])


def test_stored_values_of_ones_own(tmp_path):
    truth = masks("a")["a"]
    stored = np.select([truth == 0, truth == 1], [10, 200], 7).astype(np.uint8)
    make_folder(tmp_path, "names: [field, barn]\nvalues: [10, 200]\nignore: [7]", {"a": stored})
    np.testing.assert_array_equal(open_dataset("folder", tmp_path, "all").tiles[0].read_labels(), truth)


def test_colour_masks(tmp_path):
    truth = masks("a", "b")
    make_folder(tmp_path, COLOURED, {name: paint(labels, PALETTE, (0, 0, 0)) for name, labels in truth.items()})
    dataset = open_dataset("folder", tmp_path, "all")
    assert dataset.classes.palette == PALETTE
    assert dataset.gsd == 0.25
    for tile in dataset.tiles:
        np.testing.assert_array_equal(tile.read_labels(), truth[tile.name])


def test_masks_may_say_what_they_are(tmp_path):
    make_folder(tmp_path, "names: [field, barn]", masks("a", "b"))
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_mask.png")
    assert [tile.label_path.name for tile in open_dataset("folder", tmp_path, "all").tiles] == ["a_mask.png", "b.png"]


def test_splits_by_subfolder(tmp_path):
    make_folder(tmp_path, "names: [field, barn]", masks("train/a", "train/b", "val/c"))
    assert [tile.name for tile in open_dataset("folder", tmp_path, "train").tiles] == ["a", "b"]
    assert [tile.name for tile in open_dataset("folder", tmp_path, "val").tiles] == ["c"]
    assert [tile.name for tile in open_dataset("folder", tmp_path, "all").tiles] == ["train/a", "train/b", "val/c"]
    (tmp_path / "train").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").rename(tmp_path / "train" / kind)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert [tile.name for tile in open_dataset("folder", tmp_path, "train").tiles] == ["a", "b"]


def test_splits_by_list(tmp_path):
    make_folder(tmp_path, "names: [field, barn]", masks("a", "b", "c"))
    (tmp_path / "splits").mkdir()
    (tmp_path / "train.txt").write_text("# chosen by hand\na.png\n\nc\n")
    (tmp_path / "splits" / "val.txt").write_text("b\nd\n")
    assert [tile.name for tile in open_dataset("folder", tmp_path, "train").tiles] == ["a", "c"]
    with pytest.raises(EmraError, match="line 2 names 'd'"):
        open_dataset("folder", tmp_path, "val")


def test_a_folder_without_splits_says_how_to_make_them(tmp_path):
    make_folder(tmp_path, "names: [field, barn]", masks("a"))
    with pytest.raises(EmraError, match=r"images/train and masks/train, list them in train.txt, or choose split all"):
        open_dataset("folder", tmp_path, "train")


def test_more_classes_in_the_masks_than_in_the_list(tmp_path):
    truth = masks("a", "b", classes=3)
    make_folder(tmp_path, "names: [field, barn]", truth)
    with pytest.raises(EmraError) as caught:
        check(open_dataset("folder", tmp_path, "all"))
    assert "value 2 at row" in caught.value.cause
    assert "2 problems" in caught.value.cause
    make_folder(tmp_path, "names: [field, barn]\nunknown: ignore", truth)
    counted = check(open_dataset("folder", tmp_path, "all"))
    assert counted.class_pixels[1] == sum(int((labels == 1).sum()) for labels in truth.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "NoneType"),
        ("names: [a", "not YAML"),
        ("names: field", "expected a list of names"),
        ("names: [a, 3]", "expected a list of names"),
        ("names: [a, a]", "repeated"),
        ("names: []", "0 classes"),
        ("names: [a, b]\ncolours: ['#000000']", "2 class names but 1 colours"),
        ("names: [a, b]\nmasks: colour", "there are none"),
        ("names: [a, b]\nmasks: colour\ncolours: ['#000000', '#000000']", "one colour"),
        ("names: [a]\nmasks: colour\ncolours: ['#000000']\nignore: ['#000000']", "to be ignored"),
        ("names: [a]\ncolours: ['#00000']", "not a colour"),
        ("names: [a]\ncolours: ['#00000g']", "not a colour"),
        ("names: [a]\ncolours: [[1, 2, 300]]", "not a colour"),
        ("names: [a, b]\nvalues: [1]", "2 names but 1 values"),
        ("names: [a, b]\nvalues: [1, 1]", "two meanings"),
        ("names: [a, b]\nvalues: [1, 256]", "0 to 255"),
        ("names: [a, b]\nignore: [0]", "two meanings"),
        ("names: [a]\nmasks: rle", "masks is 'rle'"),
        ("names: [a]\nunknown: maybe", "unknown is 'maybe'"),
        ("names: [a]\nbands: [red]", "three names"),
        ("names: [a]\ngsd: -1", "metres per pixel"),
        ("names: [a]\ngsd: .inf", "metres per pixel"),
        ("nmaes: [a]", "'nmaes' is unknown"),
        ("names: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, text, says):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(EmraError) as caught:
        read_description(path)
    assert says in caught.value.cause
    assert caught.value.path == str(path)
    assert caught.value.remedy


def test_no_description(tmp_path):
    with pytest.raises(EmraError, match="Write one with the names"):
        open_dataset("folder", tmp_path, "all")
