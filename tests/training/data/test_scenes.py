"""The generator of labelled scenes: repeatable, of every size, and its picture agrees with its truth."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from training.data.scenes import DUBAI_CLASSES, generate, write_geotiff
from training.data.scenes.sensor import compress

BUILDING, LAND, ROAD, VEGETATION, WATER = range(5)


@pytest.fixture(scope="module")
def scenes():
    return [generate(seed, 256, 320) for seed in range(16)]


def test_the_classes_are_those_of_the_dubai_masks():
    assert DUBAI_CLASSES.names == ("building", "land", "road", "vegetation", "water")
    assert DUBAI_CLASSES.palette[WATER] == (0xE2, 0xA9, 0x29)
    assert DUBAI_CLASSES.palette[BUILDING] == (0x3C, 0x10, 0x98)


def test_a_seed_gives_the_same_scene_again_and_another_seed_another(scenes):
    again = generate(3, 256, 320)
    np.testing.assert_array_equal(again.image, scenes[3].image)
    np.testing.assert_array_equal(again.labels, scenes[3].labels)
    assert np.mean(again.labels != scenes[4].labels) > 0.05
    assert np.mean(again.image != scenes[4].image) > 0.5


def test_global_random_state_is_neither_used_nor_changed(scenes):
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(generate(3, 256, 320).labels, scenes[3].labels)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 300), (257, 31), (64, 65), (333, 200)])
def test_any_size(height, width):
    for seed in range(4):
        scene = generate(seed, height, width)
        assert scene.image.shape == (height, width, 3)
        assert scene.image.dtype == np.uint8
        assert scene.labels.shape == (height, width)
        assert scene.labels.dtype == np.uint8
        assert scene.labels.max() < len(DUBAI_CLASSES)


@pytest.mark.parametrize("gsd", [0.3, 0.5, 4.0])
def test_other_ground_sample_distances(gsd):
    scene = generate(2, 128, 128, gsd=gsd)
    assert scene.gsd == gsd
    assert scene.image.std() > 5


def test_every_class_occurs_and_none_drowns_the_rest(scenes):
    counts = sum(np.bincount(scene.labels.ravel(), minlength=5) for scene in scenes)
    shares = counts / counts.sum()
    assert len(shares) == 5
    assert shares.min() > 0.03
    assert shares.max() < 0.75


def _mean_colours(scenes):
    pixels = np.concatenate([scene.image.reshape(-1, 3) for scene in scenes]).astype(np.float64)
    labels = np.concatenate([scene.labels.ravel() for scene in scenes])
    return [pixels[labels == label].mean(axis=0) for label in range(5)]


def test_the_picture_agrees_with_the_labels(scenes):
    building, land, road, vegetation, water = _mean_colours(scenes)
    assert land.mean() > building.mean() - 10 > road.mean()
    assert road.mean() > vegetation.mean() - 10
    assert vegetation.mean() > water.mean() + 15
    assert vegetation[1] > vegetation[0], "vegetation is greener than red"
    assert vegetation[1] > vegetation[2], "vegetation is greener than blue"
    assert water[1] > water[0], "water is greener than red"
    assert water[2] - water[0] > vegetation[2] - vegetation[0], "water is bluer than vegetation"


def test_each_single_scene_tells_water_and_land_apart(scenes):
    seen = 0
    for scene in scenes:
        grey = scene.image.mean(axis=2)
        wet, dry = scene.labels == WATER, scene.labels == LAND
        if wet.sum() > 500 and dry.sum() > 500:
            seen += 1
            assert np.median(grey[dry]) > np.median(grey[wet]) + 25
    assert seen >= 4


def test_label_edges_are_edges_of_the_picture(scenes):
    """The picture changes more across label borders than elsewhere, and not when the labels are mirrored."""

    def contrast(labels, grey):
        border = labels[:, 1:] != labels[:, :-1]
        step = np.abs(np.diff(grey, axis=1))
        return step[border].mean() / step[~border].mean()

    greys = [scene.image.mean(axis=2) for scene in scenes]
    true = np.mean([contrast(scene.labels, grey) for scene, grey in zip(scenes, greys, strict=True)])
    wrong = np.mean([contrast(scene.labels[:, ::-1], grey) for scene, grey in zip(scenes, greys, strict=True)])
    assert true > 1.5 * wrong


def test_colours_are_like_those_of_the_real_tiles(scenes, dubai_root):
    from PIL import Image

    sums, counts = np.zeros((5, 3)), np.zeros(5)
    for part in ("tile1_part001", "tile4_part001", "tile6_part004", "tile7_part004", "tile8_part004"):
        with Image.open(dubai_root / "images" / f"{part}.jpg") as image:
            picture = np.asarray(image.convert("RGB"))
        with Image.open(dubai_root / "masks" / f"{part}.png") as image:
            mask = np.asarray(image.convert("RGB"))
        for label, colour in enumerate(DUBAI_CLASSES.palette):
            chosen = (mask == colour).all(axis=2)
            sums[label] += picture[chosen].sum(axis=0)
            counts[label] += chosen.sum()
    real = sums / counts[:, None]
    assert np.abs(np.array(_mean_colours(scenes)) - real).max() < 60


@pytest.mark.parametrize(
    "arguments",
    [(-1, 64, 64), (0, 15, 64), (0, 64, 4097), (0, 64, 64, 0.0), (0, 64, 64, float("nan")), (0, 64, 64, 9.0)],
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(EmraError) as caught:
        generate(*arguments)
    assert caught.value.code == "scene-argument"


def test_compression_loses_detail_and_keeps_the_picture(scenes):
    picture = scenes[0].image[:101, :77]
    fine, coarse = compress(picture, 1), compress(picture, 24)
    assert fine.shape == coarse.shape == picture.shape
    error_fine = np.abs(fine.astype(int) - picture).mean()
    error_coarse = np.abs(coarse.astype(int) - picture).mean()
    assert 0 < error_fine < 3 < error_coarse < 25


def test_geotiff_round_trip(scenes, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    scene = scenes[1]
    write_geotiff(scene, tmp_path / "scene.tif", tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "scene.tif") as source:
        assert source.crs.to_epsg() == 32640
        assert source.transform.a == -source.transform.e == scene.gsd
        assert (source.transform.c, source.transform.f) == (325000.0, 2785000.0)
        assert source.shape == scene.labels.shape
        assert source.profile["tiled"]
        np.testing.assert_array_equal(np.moveaxis(source.read(), 0, -1), scene.image)
        placed = source.transform
    with rasterio.open(tmp_path / "labels.tif") as source:
        np.testing.assert_array_equal(source.read(1), scene.labels)
        assert source.nodata == 255
        assert source.colormap(1)[ROAD][:3] == DUBAI_CLASSES.palette[ROAD]
        assert source.transform == placed


def test_the_command_writes_both_files(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    command = [sys.executable, "-m", "training.data.scenes", "--seed", "7", "--size", "64", "96", "--output"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, check=True)
    assert [line.rsplit("/", 1)[-1] for line in done.stdout.splitlines()] == ["scene.tif", "scene_labels.tif"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scene.tif", "scene_labels.tif"}
    with rasterio.open(tmp_path / "out" / "scene.tif") as source:
        # Another process, with another hash seed, draws the same scene.
        np.testing.assert_array_equal(np.moveaxis(source.read(), 0, -1), generate(7, 64, 96).image)


def test_the_command_names_a_bad_size(tmp_path, capsys):
    from training.data.scenes.__main__ import main

    assert main(["--size", "4", "4", "--output", str(tmp_path)]) == 2
    assert "expected 16 to 4096" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(scenes, tmp_path, capsys):
    pytest.importorskip("rasterio")
    from training.data.scenes.__main__ import main

    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EmraError) as caught:
        write_geotiff(scenes[0], tmp_path / "file" / "scene.tif")
    assert caught.value.code == "output-unwritable"
    assert caught.value.path == str(tmp_path / "file" / "scene.tif")
    assert main(["--size", "16", "16", "--output", str(tmp_path / "file" / "folder")]) == 2
    assert "output-unwritable" in capsys.readouterr().err


def test_the_generator_needs_neither_pytorch_nor_an_extra():
    """The demo and the runtime's tests draw scenes on devices, which have neither."""
    missing = "import sys; sys.modules |= dict.fromkeys(('torch', 'timm', 'rasterio', 'yaml', 'scipy'))\n"
    program = missing + "from training.data.scenes import generate; generate(1, 64, 64)"
    subprocess.run([sys.executable, "-c", program], check=True)
