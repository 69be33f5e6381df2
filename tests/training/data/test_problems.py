"""Faults of data sets are found before training starts and listed together, without PyTorch."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from tests.conftest import REPOSITORY
from tests.training.data.layouts import make_dubai, make_folder, make_loveda, picture
from training.data import check, open_dataset, summarise
from training.data.__main__ import main


@pytest.fixture
def root(tmp_path):
    make_dubai(tmp_path)
    return tmp_path


def test_no_folder_and_no_kind(tmp_path):
    with pytest.raises(EmraError) as caught:
        open_dataset("dubai", tmp_path / "nowhere", "train")
    assert (caught.value.code, caught.value.path) == ("input-missing", str(tmp_path / "nowhere"))
    with pytest.raises(EmraError, match="loveda"):
        open_dataset("cityscapes", tmp_path, "train")
    with pytest.raises(EmraError, match="layout of none"):
        open_dataset("auto", tmp_path, "train")


def test_an_option_of_another_data_set(root):
    with pytest.raises(EmraError, match="no option 'labels'"):
        open_dataset("dubai", root, "train", labels="eroded")


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_missing_folder(root, folder):
    shutil.rmtree(root / folder)
    with pytest.raises(EmraError) as caught:
        open_dataset("dubai", root, "train")
    assert (caught.value.code, caught.value.path) == ("input-missing", str(root / folder))


@pytest.mark.parametrize(("gone", "left"), [("images", "masks"), ("masks", "images")])
def test_a_file_without_its_partner(root, gone, left):
    next((root / gone).glob("tile1_part002.*")).unlink()
    with pytest.raises(EmraError) as caught:
        open_dataset("dubai", root, "train")
    assert caught.value.code == "file-unpaired"
    assert caught.value.path == str(next((root / left).glob("tile1_part002.*")))


def test_unequal_sizes(root):
    path = root / "masks" / "tile2_part005.png"
    with Image.open(path) as mask:
        mask.resize((10, 12), Image.Resampling.NEAREST).save(path)
    with pytest.raises(EmraError, match=r"mask is 12 x 10 but its picture tile2_part005.jpg is 35 x 42") as caught:
        open_dataset("dubai", root, "train")
    assert (caught.value.code, caught.value.path) == ("label-shape", str(path))


def test_unreadable_headers(root):
    path = root / "images" / "tile1_part004.jpg"
    path.write_bytes(b"not a picture")
    with pytest.raises(EmraError, match="not a picture of a known format") as caught:
        open_dataset("dubai", root, "train")
    assert caught.value.path == str(path)


def test_all_problems_are_reported_at_once(root):
    (root / "images" / "tile1_part001.jpg").unlink()
    (root / "masks" / "tile1_part002.png").unlink()
    (root / "masks" / "tile2_part003.png").write_bytes(b"")
    with pytest.raises(EmraError) as caught:
        open_dataset("dubai", root, "train")
    assert caught.value.code == "dataset-problems"
    assert "3 problems" in caught.value.cause
    for name in ("tile1_part001.png", "tile1_part002.jpg", "tile2_part003.png"):
        assert name in caught.value.cause


def test_a_long_list_is_cut(root):
    for path in (root / "masks").glob("*_part00[1-6].png"):
        path.unlink()
    with pytest.raises(EmraError, match=r"12 problems: .*and 2 more") as caught:
        open_dataset("dubai", root, "train")
    assert caught.value.code == "file-unpaired"


@pytest.mark.parametrize("name", ["images/tile1_part003.jpg", "masks/tile1_part003.png"])
def test_check_finds_truncated_files(root, name):
    path = root / name
    path.write_bytes(path.read_bytes()[:-200])
    dataset = open_dataset("dubai", root, "train")
    check(dataset, full=False)
    with pytest.raises(EmraError) as caught:
        check(dataset)
    assert caught.value.path == str(path)
    assert [problem.path for problem in summarise(dataset).problems] == [str(path)]


def test_check_finds_files_that_went_away(root):
    dataset = open_dataset("dubai", root, "val")
    dataset.tiles[0].label_path.unlink()
    with pytest.raises(EmraError) as caught:
        check(dataset, full=False)
    assert caught.value.code == "input-missing"


def test_counts_are_those_of_the_labels(tmp_path, caplog):
    labels = np.array([[0, 0, 0, 2], [2, 255, 0, 0]], np.uint8)
    make_folder(tmp_path, "names: [a, b, c]", {"x": labels, "y": labels})
    with caplog.at_level(logging.WARNING):
        summary = check(open_dataset("folder", tmp_path, "all"))
    assert summary.class_pixels == (10, 0, 4)
    assert (summary.ignored_pixels, summary.pixels, summary.tiles) == (2, 16, 2)
    assert summary.fractions == pytest.approx((10 / 14, 0, 4 / 14))
    assert "no pixel of class b" in caplog.text


def test_a_data_set_without_any_label(tmp_path):
    make_folder(tmp_path, "names: [a, b]", {"x": np.full((4, 4), 255, np.uint8)})
    with pytest.raises(EmraError, match="no pixel of split 'all' has a label"):
        check(open_dataset("folder", tmp_path, "all"))


def test_an_empty_folder(tmp_path):
    make_folder(tmp_path, "names: [a, b]", {})
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(EmraError) as caught:
        open_dataset("folder", tmp_path, "all")
    assert caught.value.code == "dataset-empty"


def test_the_command_prints_what_is_there(tmp_path, capsys):
    make_loveda(tmp_path)
    assert main(["auto", str(tmp_path), "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert "loveda, split val: 4 tiles" in printed
    assert "agricultural" in printed
    assert main(["loveda", str(tmp_path), "--split", "val", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert sum(one["pixels"] for one in reported["classes"]) + reported["ignored_pixels"] == reported["pixels"] == 4096
    assert main(["loveda", str(tmp_path), "--split", "test"]) == 0
    assert "not public" in capsys.readouterr().out


def test_the_command_fails_with_the_problem(root, capsys):
    path = root / "images" / "tile1_part003.jpg"
    Image.fromarray(picture(0, 33, 41)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert main(["dubai", str(root)]) == 2
    reported = capsys.readouterr()
    assert "1 problems" in reported.out
    assert str(path) in reported.err
    assert main(["dubai", str(root), "--split", "nothing", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["code"] == "split-unknown"


def test_nothing_here_needs_pytorch(root):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from training.data import open_dataset, check\n"
        f"print(check(open_dataset('auto', {str(root)!r}, 'val')).tiles)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    assert done.stdout.strip() == "2", done.stderr


def test_pictures_need_no_rasterio_and_tiffs_say_that_they_do(root, tmp_path_factory, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    check(open_dataset("dubai", root, "val"))
    home = tmp_path_factory.mktemp("tiffs")
    for folder in ("images", "masks"):
        (home / folder).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(home / folder / "a.tif")
    (home / "classes.yaml").write_text("names: [a]")
    with pytest.raises(EmraError, match="pip install"):
        open_dataset("folder", home, "all")
