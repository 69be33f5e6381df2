"""Rasters whose bands are not those of the model by place: chosen by name, or refused with the remedy.

A model of near-infrared, red and green was given the first three bands of a raster of red, green, blue and
near-infrared (Raster Vision issue 108: the order of channels in a TIFF was assumed; GDAL pull request 12778: files of
red, green, blue and near-infrared).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.pictures.bands import band_name, choose_bands
from emra_deploy.pictures.scaling import Scale
from tests.cases.builders import COLOURS, colour_model, make, segment, squares
from tests.emra_deploy.stream.videos import save_video
from tests.onnx_models import build_model

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402

PICTURE, LABELS = squares()
INFRARED = ("near-infrared", "red", "green")
RGB = ("red", "green", "blue")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Models whose bands are these; the class says which of the three is bright."""
    folder = tmp_path_factory.mktemp("model")
    made = {RGB: colour_model(folder)}
    for bands in (INFRARED, ("NIR", "Red", "Green"), RGB[::-1]):
        made[bands] = folder / f"{'-'.join(bands)}.onnx"
        build_model(made[bands], size=(64, 64), classes=COLOURS, bands=bands, gsd=None)
    return made


def write(
    path: Path,
    order: str,
    interpretations: str = "",
    descriptions: str = "",
    model: tuple[str, ...] = RGB,
    dtype: str = "uint8",
    tags: dict[str, str] | None = None,
) -> Path:
    """A GeoTIFF: ``order`` says what the bands are, of the model's bands and ``other``."""
    planes = dict(zip(model, PICTURE.transpose(2, 0, 1), strict=True))
    planes["other"] = 255 - PICTURE[..., 1]
    planes["full"] = np.full_like(LABELS, 255)
    bands = [planes.get(name, planes["other"]) for name in order.split()]
    size = {"height": LABELS.shape[0], "width": LABELS.shape[1], "count": len(bands), "dtype": dtype}
    with rasterio.open(path, "w", driver="GTiff", **size) as dataset:
        if interpretations:
            dataset.colorinterp = [ColorInterp[name] for name in interpretations.split()]
        if descriptions:
            dataset.descriptions = descriptions.split("|")
        for name, values in (tags or {}).items():
            for band, value in enumerate(values.split("|"), 1):
                domain, _, key = name.rpartition(":")
                dataset.update_tags(band, **({"ns": domain} if domain else {}), **{key: value})
        dataset.write(np.stack(bands).astype(dtype))
    return path


def labels(source: Path, model: Path, **settings) -> np.ndarray:
    out = source.with_name("map.tif")
    make(source, out, model, overwrite=True, **settings)
    with rasterio.open(out) as dataset:
        return dataset.read(1)


CHOSEN = [
    # Bands as they are stored, colour interpretations ("" for what GDAL writes unasked), descriptions, the model's.
    ("red green other near-infrared", "red green blue nir", "", INFRARED),
    ("red green other near-infrared", "red green blue undefined", "Red|Green|Blue|NIR", INFRARED),
    ("red green other near-infrared", "", "red|green|blue|near infrared", INFRARED),
    ("near-infrared red green", "", "NIR|R|G", INFRARED),
    ("other green red near-infrared", "", "B2|B3|B4|B8", INFRARED),
    ("other green red near-infrared", "", "B2, central wavelength 490 nm|B3, x|B4, x|B8, x", ("NIR", "Red", "Green")),
    ("blue green red other", "", "blue|green|red|nir", RGB),
    ("other blue other green red other other", "", "coastal_blue|blue|green_i|green|red|rededge|nir", RGB),
    ("blue green red", "blue green red", "", RGB),
    ("blue green red", "", "B02|B03|B04", RGB),
    ("blue green red", "", "Blue (475 nm)|Green (560 nm)|Red (668 nm)", RGB),
    ("red green blue other", "red green blue undefined", "", RGB),
    ("red green blue other", "", "vis-red|vis-green|vis-blue|NIR", RGB),
    ("red green blue", "", "Band 1|Band 2|Band 3", RGB),
    ("red green blue", "", "B1|B2|B3", RGB),
    ("red green blue", "", "orthomosaic||", RGB),
    ("red green blue", "", "", RGB[::-1]),
    ("blue green red full", "", "B|G|R|Alpha", RGB),
]


@pytest.mark.parametrize(("order", "interpretations", "descriptions", "model"), CHOSEN)
def test_bands_are_chosen_by_name(
    order: str, interpretations: str, descriptions: str, model: tuple[str, ...], models: dict, tmp_path: Path
) -> None:
    named = tuple(band_name(name) for name in model)
    planes = dict(zip(named, RGB, strict=True)) if model == RGB[::-1] else {}
    source = write(tmp_path / "a.tif", order, interpretations, descriptions, RGB if planes else named)
    expected = np.array([2, 1, 0])[LABELS] if planes else LABELS
    np.testing.assert_array_equal(labels(source, models[model]), expected)


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("IMAGERY:CENTRAL_WAVELENGTH_UM",), ("0.475|0.560|0.668|0.717|0.842",)),
        (("wavelength",), ("475|560|668|717|842",)),
        (("wavelength", "wavelength_units"), ("475.0 nm|560 nm|668 nm|717 nm|842 nm", "nm|nm|nm|nm|nm")),
        (("",), ("475 nm|560.0 Nanometers|0.668 Micrometers|717 nm|842 nm",)),
        (("BandName",), ("Blue|Green|Red|Red edge|NIR",)),
        (("eo:common_name",), ("blue|green|red|rededge|nir",)),
    ],
)
def test_bands_are_chosen_by_their_tags(names: tuple, values: tuple, models: dict, tmp_path: Path) -> None:
    tags = dict(zip(names, values, strict=True))
    described = tags.pop("", "")
    if "eo:common_name" in tags:
        tags = {"common_name": tags["eo:common_name"]}
    source = write(tmp_path / "a.tif", "blue green red other other", "", described, tags=tags)
    np.testing.assert_array_equal(labels(source, models[RGB]), LABELS)
    source = write(tmp_path / "b.tif", "other green red other near-infrared", "", described, INFRARED, tags=tags)
    np.testing.assert_array_equal(labels(source, models[INFRARED]), LABELS)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_and_float_rasters_by_name(dtype: str, models: dict, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", "blue green red other", "", "B2|B3|B4|B8", dtype=dtype)
    np.testing.assert_array_equal(labels(source, models[RGB], scale=Scale(0, 255)), LABELS)
    # Three bands that nobody named are red, green and blue.
    source = write(tmp_path / "b.tif", "red green blue", dtype=dtype)
    np.testing.assert_array_equal(labels(source, models[RGB], scale=Scale(0, 255)), LABELS)


REFUSED = [
    # Names are missing, differ, are there twice, or contradict each other.
    ("red green blue", "", "", INFRARED),
    ("near-infrared red green", "gray undefined undefined", "", INFRARED),
    ("red green other near-infrared", "red green blue undefined", "", INFRARED),
    ("near-infrared red green", "", "NIR|Red|Green", RGB),
    ("red green blue other", "gray undefined undefined undefined", "", RGB),
    ("red green blue other other", "gray undefined undefined undefined undefined", "", RGB),
    ("red green blue", "", "Red|Green|Red", RGB),
    ("blue green red", "blue green red", "Red|Green|Blue", RGB),
    # Landsat 7 counts otherwise than Sentinel-2 and Landsat 8.
    ("blue green red near-infrared", "", "B2|B3|B4|B5", RGB),
    ("red", "gray", "", INFRARED),
    ("red", "gray", "NIR", RGB),
    ("red full", "gray alpha", "", INFRARED),
]


@pytest.mark.parametrize(("order", "interpretations", "descriptions", "model"), REFUSED)
def test_what_is_not_named_is_refused_with_the_remedy(
    order: str, interpretations: str, descriptions: str, model: tuple[str, ...], models: dict, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.tif", order, interpretations, descriptions, model)
    with pytest.raises(EmraError, match="--bands") as caught:
        make(source, tmp_path / "map.tif", models[model])
    assert caught.value.code == "image-bands"
    stored = order.split()
    if len(stored) < 3:
        # The palest of the squares is the one that the only band was taken from.
        bright = np.isin(LABELS, model.index("red"))
        expected = np.where(bright, 4, 3)
        np.testing.assert_array_equal(labels(source, models[model], bands=(1, 1, 1)), expected)
    elif set(model) <= set(stored):
        numbers = tuple(stored.index(name) + 1 for name in model)
        np.testing.assert_array_equal(labels(source, models[model], bands=numbers), LABELS)


def test_grey_rasters_and_palettes_are_for_models_of_colours(models: dict, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", "red", "gray")
    np.testing.assert_array_equal(labels(source, models[RGB]), np.where(LABELS == 0, 4, 3))


def test_the_command_refuses_before_and_dry_run_too(models: dict, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", "red green other near-infrared", "red green blue undefined", model=INFRARED)
    out = tmp_path / "map.tif"
    for more in ([], ["--dry-run"]):
        said = segment(models[INFRARED], source, out, *more, fails=True)["stderr"]
        assert "bands are red, green, blue, undefined" in said
        assert "near-infrared, red, green" in said
        assert "--bands" in said
        assert not out.exists()
    segment(models[INFRARED], source, out, "--bands", "4,1,2")
    with rasterio.open(out) as dataset:
        np.testing.assert_array_equal(dataset.read(1), LABELS)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_plain_pictures_of_another_model(ending: str, models: dict, tmp_path: Path) -> None:
    source = tmp_path / f"a.{ending}"
    Image.fromarray(PICTURE).save(source, quality=100, subsampling=0)
    with pytest.raises(EmraError, match="--bands"):
        make(source, tmp_path / "map.tif", models[INFRARED])
    np.testing.assert_array_equal(labels(source, models[INFRARED], bands=(1, 2, 3)), LABELS)
    np.testing.assert_array_equal(labels(source, models[RGB[::-1]]), np.array([2, 1, 0])[LABELS])
    with pytest.raises(EmraError, match="Leave it out"):
        make(source, tmp_path / "other.tif", models[RGB], bands=(3, 2, 1))


def test_names_of_many_bands_are_not_all_printed() -> None:
    with pytest.raises(EmraError) as caught:
        choose_bands(["undefined"] * 200, None, "a.tif", INFRARED)
    assert len(str(caught.value)) < 400


def test_models_that_read_floats(tmp_path: Path) -> None:
    """Their pixels are normalised outside of the graph, in the order of their bands."""
    model = tmp_path / "float.onnx"
    build_model(model, size=(64, 64), classes=COLOURS, bands=INFRARED, input_kind="float", gsd=None)
    source = write(tmp_path / "a.tif", "other green red near-infrared", "", "B2|B3|B4|B8", INFRARED)
    np.testing.assert_array_equal(labels(source, model), LABELS)


def test_a_stream_says_which_bands_its_frames_must_hold(models: dict, tmp_path: Path) -> None:
    pytest.importorskip("av")
    save_video(tmp_path / "a.mp4", [PICTURE] * 3)
    line = [sys.executable, "-m", "emra_deploy", "stream", str(tmp_path / "a.mp4"), "--backend", "onnxruntime", "-m"]
    for bands, said in ((INFRARED, True), (RGB, False)):
        ran = subprocess.run([*line, str(models[bands])], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ("the model reads near-infrared, red, green" in ran.stderr) is said
