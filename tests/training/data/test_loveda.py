"""LoveDA."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from tests.training.data.layouts import make_loveda
from training.data import check, open_dataset
from training.data.loveda import CLASSES


def test_raw_zero_is_ignored_and_the_others_move_down(tmp_path):
    raw = make_loveda(tmp_path)
    for split in ("train", "val"):
        dataset = open_dataset("loveda", tmp_path, split)
        assert len(dataset.tiles) == 4
        for tile in dataset.tiles:
            mask = raw[tile.name].astype(int)
            np.testing.assert_array_equal(tile.read_labels(), np.where(mask == 0, 255, mask - 1))
    assert CLASSES.names[0] == "background"
    assert CLASSES.names[6] == "agricultural"
    assert len(open_dataset("loveda", tmp_path, "trainval").tiles) == 8


def test_the_test_split_has_no_labels(tmp_path):
    make_loveda(tmp_path)
    test = open_dataset("loveda", tmp_path, "test")
    assert not test.labelled
    assert test.tiles[0].label_path is None
    with pytest.raises(EmraError) as caught:
        test.tiles[0].read_labels()
    assert caught.value.code == "no-labels"
    assert check(test).pixels == 4 * 32 * 32


def test_one_domain(tmp_path):
    make_loveda(tmp_path)
    rural = open_dataset("loveda", tmp_path, "train", domain="rural")
    assert {tile.name.split("/")[1] for tile in rural.tiles} == {"Rural"}
    with pytest.raises(EmraError, match="urban, rural"):
        open_dataset("loveda", tmp_path, "train", domain="suburban")


@pytest.mark.parametrize("layout", ["doubled", "lower", "wrapped"])
def test_what_unpacking_makes_of_it(tmp_path, layout):
    make_loveda(tmp_path / "plain")
    root = tmp_path / layout
    if layout == "doubled":
        for split in ("Train", "Val", "Test"):
            shutil.copytree(tmp_path / "plain" / split, root / split / split)
    elif layout == "wrapped":
        shutil.copytree(tmp_path / "plain", root / "2021LoveDA")
    else:
        for split in ("Train", "Val", "Test"):
            for domain in ("Urban", "Rural"):
                shutil.copytree(tmp_path / "plain" / split / domain, root / split.lower() / domain.lower())
    for split in ("train", "val", "test"):
        there = open_dataset("auto", root, split)
        plain = open_dataset("loveda", tmp_path / "plain", split)
        assert [tile.name for tile in there.tiles] == [tile.name for tile in plain.tiles]


def test_a_missing_domain_is_named(tmp_path):
    make_loveda(tmp_path)
    shutil.rmtree(tmp_path / "Val" / "Rural")
    with pytest.raises(EmraError) as caught:
        open_dataset("loveda", tmp_path, "val")
    assert caught.value.code == "input-missing"
    assert caught.value.path == str(tmp_path / "Val" / "Rural")
