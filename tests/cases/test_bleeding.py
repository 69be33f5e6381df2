"""Hidden colours of pixels without data, where a picture is reduced or enlarged: they must show nowhere.

A raster of 0.05 m was reduced to a model's 0.3 m, and pixels at the edge of its data got the class of the colour
that is stored where there are none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy.maps.preview import Preview
from emra_deploy.maps.resampling import ResampledSource
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import Window, plan_tiles
from emra_deploy.segmenting.segmenter import Segmenter
from tests.cases.builders import COLOURS, make, segment
from tests.onnx_models import build_model

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402

MODEL_GSD = 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    build_model(path, size=(64, 64), classes=COLOURS, heads=("classes", "logits"), gsd=MODEL_GSD)
    return path


def hidden(height: int, width: int) -> np.ndarray:
    """The pixels without data: rims, a hole with ragged edges, single pixels and lines, so that any grid cuts them."""
    none = np.zeros((height, width), bool)
    none[: height // 7], none[:, -width // 5 :] = True, True
    none[height // 3 : height // 2, width // 4 : width // 2] = True
    none |= np.random.default_rng(0).random((height, width)) < 0.02
    none[height // 2 + 3, : width // 2] = True
    return none


def write(path: Path, none: np.ndarray, kind: str, gsd: float) -> Path:
    """Red with data; green, which no data pixel has, hides where there are none."""
    picture = np.zeros((3, *none.shape), np.uint8)
    picture[0] = np.where(none, 0, 255)
    picture[1] = np.where(none, 255, 0)
    if kind == "nodata":
        picture[:, none] = 77
        picture[1, none] = 77
    bands = np.concatenate([picture, np.where(none, 0, 255)[None].astype(np.uint8)]) if kind == "alpha" else picture
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(gsd, 0, 500_000, 0, -gsd, 5_400_000)}
    more = {"nodata": 77} if kind == "nodata" else {}
    size = {"height": none.shape[0], "width": none.shape[1], "count": len(bands), "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **more) as dataset:
        if kind == "alpha":
            dataset.colorinterp = [ColorInterp[name] for name in ("red", "green", "blue", "alpha")]
        dataset.write(bands)
        if kind == "mask":
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                dataset.write_mask(~none)
    return path


def read(path: Path, overview: int | None = None) -> np.ndarray:
    with rasterio.open(path, **({} if overview is None else {"overview_level": overview})) as dataset:
        return dataset.read(1)


@pytest.mark.parametrize("kind", ["alpha", "nodata", "mask"])
@pytest.mark.parametrize(
    ("gsd", "size"), [(0.05, (900, 620)), (0.13, (300, 333)), (0.24, (130, 150)), (0.35, (90, 80)), (1.1, (40, 50))]
)
def test_every_pixel_with_data_is_red_and_no_other_has_a_class(
    gsd: float, size: tuple[int, int], kind: str, model: Path, tmp_path: Path
) -> None:
    none = hidden(*size)
    report = make(write(tmp_path / "a.tif", none, kind, gsd), tmp_path / "map.tif", model)
    assert report.scale_factor == pytest.approx(gsd / MODEL_GSD)
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), np.where(none, 255, 0))
    assert report.no_data_pixels == none.sum()


@pytest.mark.parametrize("options", [(), ("--blend",), ("--gsd", "0.6")])
def test_the_command(options: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    none = hidden(700, 600)
    source = write(tmp_path / "a.tif", none, "alpha", 0.05)
    report = segment(model, source, tmp_path / "map.tif", "--overlay", tmp_path / "over.png", *options)
    assert report["scale_factor"] == pytest.approx(2 if options[:1] == ("--gsd",) else 1 / 6)
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), np.where(none, 255, 0))
    assert set(np.unique(read(tmp_path / "map.tif", 0))) == {0, 255}


def test_a_continuous_edge_keeps_the_values_beside_it() -> None:
    """Weights are shares of the pixels with data: a constant picture stays constant up to its last pixel."""
    none = hidden(97, 83)
    picture = np.where(none[..., None], np.uint8(255), np.uint8([[[130, 40, 9]]]))
    for factor in (1 / 6, 0.37, 0.9, 1.3, 4.2):
        source = ResampledSource(ArraySource(picture, ~none), factor)
        whole = Window(0, 0, source.height, source.width)
        valid = source.valid(whole)
        assert valid is not None
        np.testing.assert_array_equal(source.read(whole)[valid], np.broadcast_to([130, 40, 9], (valid.sum(), 3)))
        for plan in plan_tiles(source.height, source.width, 16, 16, 2):
            part = source.valid(plan.read)
            np.testing.assert_array_equal(
                True if part is None else part, valid[plan.read.slices], err_msg=f"{factor} {plan.read}"
            )
            held = source.read(plan.read)[valid[plan.read.slices]]
            np.testing.assert_array_equal(held, np.broadcast_to([130, 40, 9], held.shape))


@pytest.mark.parametrize("side", [10, 37, 64, 97])
def test_the_preview_shows_no_hidden_colour(side: int) -> None:
    none = hidden(97, 83)
    picture = np.where(none[..., None], np.uint8([[[0, 255, 0]]]), np.uint8([[[255, 0, 0]]]))
    preview = Preview(ArraySource(picture, ~none), COLOURS, 0, side)
    preview.add(0, np.where(none, np.uint8(255), np.uint8(0)))
    factor = preview.factor
    assert factor == -(-97 // side)
    grid = np.add.reduceat(np.add.reduceat(~none, np.arange(0, 97, factor), 0), np.arange(0, 83, factor), 1)
    np.testing.assert_array_equal(preview._canvas, np.where((grid > 0)[..., None], [255, 0, 0], 0))


def test_a_picture_without_any_data_is_not_run(model: Path) -> None:
    source = ResampledSource(ArraySource(np.zeros((70, 70, 3), np.uint8), np.zeros((70, 70), bool)), 0.4)
    with Segmenter.open(model, backend="onnxruntime", threads=1) as segmenter:
        assert all((labels == 255).all() for _, labels in source.rows(segmenter))


@pytest.mark.parametrize("gsd", [0.05, 0.9])
def test_plain_pictures_with_a_given_size_of_pixels(gsd: float, model: Path, tmp_path: Path) -> None:
    none = hidden(200, 260)
    picture = np.where(none[..., None], np.uint8([[[0, 255, 0, 0]]]), np.uint8([[[255, 0, 0, 255]]]))
    Image.fromarray(picture, "RGBA").save(tmp_path / "a.png")
    make(tmp_path / "a.png", tmp_path / "map.png", model, gsd=gsd)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "map.png")), np.where(none, 255, 0))
