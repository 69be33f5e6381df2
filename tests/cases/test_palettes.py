"""Colours of maps, overlays and legends: distinguishable by everybody, and the same in the legend as on the map.

Swatches of legends were opaque and the map half transparent, up to 48 CIEDE2000 units apart, so that water read brown.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy import Segmenter
from emra_deploy.errors import EmraError
from emra_deploy.maps.preview import Preview
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.segmenting.overlay import legend, outline, overlay, shown_colours
from emra_deploy.segmenting.palettes import PALETTES, drawn_classes
from tests.cases.colour_vision import difference, lab, least_difference
from tests.onnx_models import CLASSES, build_model, nearest_colour, scene
from tests.parts import REPOSITORY
from training.data import dubai, isprs, loveda

PUBLIC = {"dubai": dubai.CLASSES, "loveda": loveda.CLASSES, "isprs": isprs.CLASSES}


def test_differences_are_those_of_the_published_examples() -> None:
    # Rows 1, 7, 17 and 25 of the test data of Sharma, Wu and Dalal.
    for one, two, expected in [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ]:
        assert difference(np.array(one, float), np.array(two, float)) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(lab((255, 0, 0)), [53.24, 80.09, 67.20], atol=0.02)


def test_everybody_can_tell_the_palettes_apart() -> None:
    # As measured: 27.0; all nine kinds 14.2; the eight colours of Okabe and Ito 10.9.
    five = ClassSet(("water", "vegetation", "road", "building", "land"), dubai.CLASSES.palette)
    assert least_difference(drawn_classes(five, "natural").palette) > 26
    for classes in PUBLIC.values():
        assert least_difference(drawn_classes(classes, "natural").palette) > 14
    eight = ClassSet(tuple("abcdefgh"), ((0, 0, 0),) * 8)
    assert least_difference(drawn_classes(eight, "safe").palette) > 10
    assert least_difference(drawn_classes(eight, "natural").palette[:6]) > 9


@pytest.mark.parametrize("classes", PUBLIC.values(), ids=PUBLIC)
def test_maps_of_public_classes_have_natural_colours_by_default(classes: ClassSet) -> None:
    assert drawn_classes(classes) == drawn_classes(classes, "natural") != classes
    assert drawn_classes(classes, "model") == classes
    for name, colour in zip(classes.names, drawn_classes(classes).palette, strict=True):
        lightness, red_green, yellow_blue = lab(colour)
        assert {
            "water": yellow_blue < -30,
            "vegetation": red_green < -30,
            "tree": red_green < -30,
            "forest": red_green < -30,
            "road": abs(red_green) + abs(yellow_blue) < 12,
            "impervious": abs(red_green) + abs(yellow_blue) < 12,
            "building": red_green > 30,
            "land": lightness > 80 and yellow_blue > 10,
            "barren": lightness > 80 and yellow_blue > 10,
        }.get(name, True), name


def test_colours_that_somebody_chose_are_kept() -> None:
    assert drawn_classes(CLASSES) == CLASSES
    mine = ClassSet(("crack", "rust"), dubai.CLASSES.palette[:2])
    assert drawn_classes(mine) == mine


@pytest.mark.parametrize("palette", PALETTES)
def test_any_number_of_classes_of_any_names(palette: str) -> None:
    names = ("Building", "house", "Road", "sealed street", "grassland", "bare land", *(f"kind {i}" for i in range(30)))
    drawn = drawn_classes(ClassSet(names, tuple((i, i, i) for i in range(36))), palette)
    assert len(set(drawn.palette)) == 36
    with pytest.raises(EmraError, match="expected auto, natural, safe, model"):
        drawn_classes(CLASSES, "rainbow")


@pytest.mark.parametrize("opacity", [0.3, 0.5, 1.0])
def test_the_legend_shows_what_the_map_shows(opacity: float) -> None:
    picture = scene(200, 300)
    labels = nearest_colour(picture)
    labels[:20] = 255
    drawn = drawn_classes(CLASSES, "natural")
    shown = shown_colours(over := overlay(picture, labels, drawn, opacity), labels, drawn, opacity)
    swatches = legend(drawn, shown=shown)
    for label in np.unique(labels[labels != 255]):
        mean = tuple(np.rint(over[labels == label].mean(axis=0)).astype(int))
        assert difference(lab(shown[label]), lab(mean)) < 1
        assert (swatches == shown[label]).all(axis=-1).sum() > 100
    absent = shown_colours(over, np.full_like(labels, 255), drawn, opacity)
    assert absent[0] == tuple(np.rint(opacity * np.array(drawn.palette[0]) + (1 - opacity) * 128).astype(int))


def test_rims_are_opaque_on_bright_roofs(tmp_path: Path) -> None:
    roof = np.full((60, 60, 3), 250, np.uint8)
    labels = np.full((60, 60), 1, np.uint8)
    labels[20:40, 20:40] = 3
    labels[:5] = 255
    preview = Preview(ArraySource(roof), CLASSES, 0.3, outlines=True)
    for top in range(0, 60, 7):
        preview.add(top, labels[top : top + 7])
    preview.save(tmp_path / "over.png")
    drawn = np.asarray(Image.open(tmp_path / "over.png"))[:60, :60]
    assert (drawn[20, 20:40] == CLASSES.palette[3]).all()
    assert (drawn[39, 20:40] == CLASSES.palette[3]).all()
    assert (drawn[19, 20:40] == CLASSES.palette[1]).all()
    assert (drawn[30, 30] == overlay(roof, labels, CLASSES, 0.3)[30, 30]).all()
    assert (drawn[:5] == 250).all()
    alone = overlay(roof, np.ones_like(labels), CLASSES)
    before = alone.copy()
    outline(alone, np.ones_like(labels), CLASSES)
    np.testing.assert_array_equal(alone, before)


def test_the_command_uses_one_palette_everywhere(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    build_model(tmp_path / "model.onnx")
    picture = scene(64, 64)
    Image.fromarray(picture).save(tmp_path / "in.png")
    line = [sys.executable, "-m", "emra_deploy", "segment", str(tmp_path / "in.png"), "--model"]
    line += [
        str(tmp_path / "model.onnx"),
        "--output",
        str(tmp_path / "map.png"),
        "--overlay",
        str(tmp_path / "over.png"),
    ]
    done = subprocess.run(
        [*line, "--palette", "natural", "--json"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    palette = drawn_classes(CLASSES, "natural").palette
    assert [tuple(area["colour"]) for area in json.loads(done.stdout)["areas"]] == list(palette)
    labels = Image.open(tmp_path / "map.png")
    assert labels.getpalette()[:15] == [channel for colour in palette for channel in colour]
    with Segmenter.open(tmp_path / "model.onnx", backend="onnxruntime") as segmenter:
        expected = segmenter.segment(picture).overlay(picture, palette="natural")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "over.png"))[:64, :64], expected)
    done = subprocess.run([*line, "--palette", "x"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert "expected auto, natural, safe, model" in done.stderr
