"""Label rasters out: every label, described by the file itself, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.maps.label_files import RasterWriter
from emra_deploy.maps.label_levels import BLOCK
from emra_deploy.pictures.georeference import GeoReference
from tests.emra_deploy.pictures.raster_files import CLASSES, ColorInterp, make_labels, rasterio, write_labels


@pytest.mark.parametrize("step", [1, 100, 448, BLOCK, 3000])
def test_labels_come_back_whatever_the_rows(tmp_path: Path, step: int) -> None:
    labels = make_labels(BLOCK * 2 + 77, 700 if step > 1 else 30)
    write_labels(tmp_path / "a.tif", labels, GeoReference(), step)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), labels)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]


def test_label_raster_describes_itself(tmp_path: Path) -> None:
    labels = make_labels(40, 50)
    write_labels(tmp_path / "a.tif", labels, GeoReference(), 40)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert (dataset.driver, dataset.dtypes, dataset.nodata) == ("GTiff", ("uint8",), 255)
        assert dataset.profile["tiled"]
        assert dataset.compression.name == "deflate"
        assert dataset.colorinterp[0] == ColorInterp.palette
        assert [dataset.colormap(1)[label][:3] for label in range(3)] == list(CLASSES.palette)
        assert json.loads(dataset.tags()["EMRA_CLASSES"]) == list(CLASSES.names)
        assert dataset.tags()["CLASS_1"] == "rivière"
        assert dataset.tags()["EMRA_MODEL"] == "test"
        np.testing.assert_array_equal(dataset.dataset_mask() > 0, labels != 255)


@pytest.mark.parametrize("size", [(40, 50), (BLOCK, BLOCK), (1500, 1300)])
def test_is_a_cloud_optimised_geotiff(tmp_path: Path, size: tuple[int, int]) -> None:
    validate = pytest.importorskip("rio_cogeo").cog_validate
    labels = make_labels(*size)
    labels[: size[0] // 2] = 1
    write_labels(tmp_path / "a.tif", labels, GeoReference(), 64)
    valid, errors, warnings = validate(tmp_path / "a.tif", strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(tmp_path / "a.tif") as dataset:
        factors = dataset.overviews(1)
        assert bool(factors) == (max(size) > BLOCK)
        for factor in factors:
            small = dataset.read(1, out_shape=(-(-size[0] // factor), -(-size[1] // factor)))
            assert (small[: small.shape[0] // 2 - 1] == 1).all()
            assert set(np.unique(small)) <= set(np.unique(labels))


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels = make_labels(900, 700)
    for name, step in (("a.tif", 900), ("b.tif", 33)):
        write_labels(tmp_path / name, labels, GeoReference(), step)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [1_000, 100_000, 600_000])
def test_full_disk_is_an_error(tmp_path: Path, limit: int) -> None:
    program = (
        "import resource, sys, pathlib, numpy as np\n"
        "from emra_deploy.model_file.classes import ClassSet\n"
        "from emra_deploy.errors import EmraError\n"
        "from emra_deploy.host.files import atomic_output\n"
        "from emra_deploy.maps.label_files import RasterWriter\n"
        "from emra_deploy.pictures.georeference import GeoReference\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "labels = np.random.default_rng(0).integers(0, 200, (1024, 1024), np.uint8)\n"
        "try:\n"
        "    with atomic_output(sys.argv[1]) as part:\n"
        "        writer = RasterWriter(part, 1024, 1024, ClassSet(('a',), ((1, 2, 3),)), GeoReference(), {})\n"
        "        try:\n"
        "            writer.write(labels)\n"
        "            writer.finish()\n"
        "        finally:\n"
        "            writer.close()\n"
        "except EmraError as error:\n"
        "    print(error.code)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "map.tif"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "output-write\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_cannot_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("Error writing TIFF header")

    monkeypatch.setattr("emra_deploy.maps.label_files._describe", fails)
    with pytest.raises(EmraError, match="Error writing TIFF header"):
        RasterWriter(tmp_path / "map.part.tif", 600, 600, CLASSES, GeoReference(), {})
    assert list(tmp_path.iterdir()) == []
