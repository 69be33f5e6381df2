"""Own masks as people have them: what each layout must be read as, and what must be said of it.

A two-class set of masks that hold 0 and 255 was reported as "building 0.00 %" and "no problems found".
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from tests.parts import REPOSITORY
from tests.training.data.layouts import make_folder, paint, picture, write_tiff
from training.data import check, open_dataset
from training.data.checking import summarise

NAMES = "names: [ground, building]\n"
TRUTH = np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((8, 8), np.uint8))
"""Half of each class."""
WITHIN = np.array(np.where(TRUTH, 255, 0), np.uint8)


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "training.data", "folder", str(root), "--split", "all", *words]
    return subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, check=False)


def own(root: Path, description: str, mask: Image.Image | np.ndarray, ending: str = "png") -> Path:
    """A data set of one picture with this mask."""
    make_folder(root, description, {"a": np.zeros((16, 16), np.uint8)})
    (root / "masks" / "a.png").unlink()
    path = root / "masks" / f"a.{ending}"
    if isinstance(mask, Image.Image):
        mask.save(path)
    else:
        write_tiff(path, mask)
    return root


def test_0_and_255_for_two_classes_is_an_error_that_says_how_to_map_them(tmp_path: Path) -> None:
    root = own(tmp_path, NAMES, Image.fromarray(WITHIN))
    done = command(root)
    assert done.returncode == 2
    for text in ("no pixel of class building", "value 255 (50.00% of the pixels)", "values: [0, 255] and ignore: []"):
        assert text in done.stderr
    assert "no problems found" not in done.stdout
    with pytest.raises(EmraError, match="no pixel of class building") as caught:
        check(open_dataset("folder", root, "all"))
    assert caught.value.code == "class-empty"
    (root / "classes.yaml").write_text(NAMES + "values: [0, 255]\nignore: []")
    assert summarise(open_dataset("folder", root, "all")).class_pixels == (128, 128)
    assert command(root, "--strict").returncode == 0


def test_the_other_remedy_is_taken_too(tmp_path: Path) -> None:
    root = own(tmp_path, NAMES + "ignore: [255]", Image.fromarray(WITHIN))
    assert command(root).returncode == 0
    strict = command(root, "--strict", "--json")
    assert strict.returncode == 2
    reported = json.loads(strict.stdout)
    assert [warning["code"] for warning in reported["warnings"]] == ["class-empty"]
    assert reported["ignored_values"] == {"value 255": 128}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_tiffs_of_0_and_255(tmp_path: Path, dtype: str) -> None:
    root = own(tmp_path, NAMES, WITHIN.astype(dtype), "tif")
    (problem,) = summarise(open_dataset("folder", root, "all")).problems
    assert "value 255 (50.00% of the pixels)" in problem.cause


def test_three_classes_of_which_255_may_be_one(tmp_path: Path) -> None:
    mask = np.array(np.kron([[0, 1], [1, 255]], np.ones((8, 8))), np.uint8)
    root = own(tmp_path, "names: [a, b, c]", Image.fromarray(mask))
    done = command(root, "--strict")
    assert done.returncode == 2
    assert "warning" in done.stderr
    assert "If value 255 means c, write values: [0, 1, 255] and ignore: []" in done.stderr
    assert command(root).returncode == 0


def test_values_outside_the_classes_that_are_to_be_ignored_are_named(tmp_path: Path) -> None:
    root = own(tmp_path, NAMES + "unknown: ignore", Image.fromarray(np.where(TRUTH, 128, 0).astype(np.uint8)))
    done = command(root)
    assert done.returncode == 2
    assert "If value 128 means building, write values: [0, 128] and ignore: [255]" in done.stderr


def test_colours_outside_the_classes_that_are_to_be_ignored_are_named(tmp_path: Path) -> None:
    colours = NAMES + 'colours: ["#00FF00", "#FF0000"]\nmasks: colour\nunknown: ignore'
    root = own(tmp_path, colours, Image.fromarray(paint(TRUTH, ((0, 255, 0), (254, 0, 0)), (0, 0, 0))))
    done = command(root)
    assert done.returncode == 2
    assert "colour #FE0000 (50.00% of the pixels)" in done.stderr


def test_masks_that_count_from_one(tmp_path: Path) -> None:
    root = own(tmp_path, "names: [a, b, c]", Image.fromarray(TRUTH + np.uint8(1)))
    assert "no pixel of class a" in command(root, "--strict").stderr


def test_nothing_but_ignored_pixels_is_a_problem_of_the_command_too(tmp_path: Path) -> None:
    done = command(own(tmp_path, NAMES, Image.fromarray(np.full((16, 16), 255, np.uint8))))
    assert done.returncode == 2
    assert "no pixel of split 'all' has a label" in done.stderr


def test_headers_alone_find_no_such_problem_and_say_so(tmp_path: Path) -> None:
    assert "headers only" in command(own(tmp_path, NAMES, Image.fromarray(WITHIN)), "--quick").stdout


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("description", [NAMES, NAMES + 'colours: ["#000000", "#FFFFFF"]\nmasks: colour'])
def test_masks_of_one_bit(tmp_path: Path, ending: str, description: str) -> None:
    root = own(tmp_path, description, Image.fromarray(WITHIN).convert("1"), ending)
    np.testing.assert_array_equal(open_dataset("folder", root, "all").tiles[0].read_labels(), TRUTH)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_masks_described_by_colours(tmp_path: Path, ending: str) -> None:
    description = NAMES + 'colours: ["#000000", "#FFFFFF"]\nmasks: colour'
    root = own(tmp_path, description, Image.fromarray(WITHIN) if ending == "png" else WITHIN, ending)
    np.testing.assert_array_equal(open_dataset("folder", root, "all").tiles[0].read_labels(), TRUTH)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("kind", ["index", "colour"])
def test_a_palette_in_another_order_than_the_classes(tmp_path: Path, ending: str, kind: str) -> None:
    """Read as colours they are right; read as numbers, the two classes are swapped."""
    stored = Image.fromarray(1 - TRUTH).convert("P")
    stored.putpalette([255, 0, 0, 0, 255, 0])
    description = NAMES + f'colours: ["#00FF00", "#FF0000"]\nmasks: {kind}'
    dataset = open_dataset("folder", own(tmp_path, description, stored, ending), "all")
    labels, warnings = dataset.tiles[0].read_labels(), summarise(dataset).warnings
    if kind == "colour":
        np.testing.assert_array_equal(labels, TRUTH)
        assert not warnings
    else:
        np.testing.assert_array_equal(labels, 1 - TRUTH)
        assert [warning.code for warning in warnings] == ["mask-palette"]
        assert "value 0 is class ground, but the mask's palette gives it the colour of class building" in str(warnings)


def test_a_palette_in_the_order_of_the_classes_needs_no_warning(tmp_path: Path) -> None:
    stored = Image.fromarray(TRUTH).convert("P")
    stored.putpalette([0, 255, 0, 255, 0, 0])
    root = own(tmp_path, NAMES + 'colours: ["#00FF00", "#FF0000"]', stored)
    assert command(root, "--strict").returncode == 0


def test_index_masks_saved_with_three_channels_are_refused(tmp_path: Path) -> None:
    root = own(tmp_path, NAMES, Image.fromarray(np.repeat(TRUTH[..., None], 3, -1)))
    assert "expected one band of class numbers" in command(root).stderr


def test_no_recipe_trains_on_one_class(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    root = own(tmp_path, NAMES, Image.fromarray(WITHIN))
    Image.fromarray(picture(1, 16, 16)).save(root / "images" / "a.png")
    line = [sys.executable, "training/train.py", "--data.kind", "folder", "--data.root", str(root), "--data.train"]
    line += ["all", "--data.val", "", "--output", str(tmp_path / "run"), "--epochs", "1"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert "no pixel of class building" in done.stderr
