"""Map jobs from Python: one model for many, each picture opened once, areas by the size of a pixel that was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy import EmraError, MapJob, Segmenter, estimate_map, make_map
from emra_deploy.pictures import raster
from tests.emra_deploy.cli.cli_helpers import save_png
from tests.emra_deploy.maps.map_jobs import run_job
from tests.emra_deploy.pictures.raster_files import UTM, write
from tests.onnx_models import nearest_colour, scene

pytest.importorskip("onnxruntime")


def test_one_segmenter_makes_many_maps(model: Path, tmp_path: Path) -> None:
    images = {"a": scene(70, 90), "b": scene(40, 50)}
    with Segmenter.open(model, backend="onnxruntime", threads=1) as segmenter:
        for name, image in images.items():
            job = MapJob(save_png(tmp_path / f"{name}.png", image), tmp_path / f"{name}-map.png")
            assert estimate_map(job, segmenter).height == image.shape[0]
            assert not Path(job.output).exists()
            report = make_map(job, segmenter)
            assert (report.job, report.model["path"]) == (job, str(model))
            np.testing.assert_array_equal(np.asarray(Image.open(job.output)), nearest_colour(image))


def test_the_picture_is_opened_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.tif", scene(70, 90).transpose(2, 0, 1), **UTM)
    opened, open_dataset = [], raster.open_dataset
    monkeypatch.setattr(raster, "open_dataset", lambda *words: opened.append(words[1]) or open_dataset(*words))
    run_job(source, tmp_path / "map.tif", model, overlay=tmp_path / "over.png", polygons=tmp_path / "map.geojson")
    assert opened == [source]


@pytest.mark.parametrize("name", ["in.png", "in.tif"])
def test_areas_follow_the_size_of_a_pixel_that_was_given(model: Path, tmp_path: Path, name: str) -> None:
    image = scene(60, 80)
    if name == "in.png":
        source = save_png(tmp_path / name, image)
    else:
        source = write(tmp_path / name, image.transpose(2, 0, 1), crs="EPSG:4326", transform=UTM["transform"])
    assert run_job(source, tmp_path / "a.tif", model).areas[0].square_metres is None
    report = run_job(source, tmp_path / "b.tif", model, gsd=0.3, polygons=tmp_path / "b.geojson", min_area=0.9)
    assert (report.scale_factor, report.area_note) == (1, None)
    for area in report.areas:
        assert area.square_metres == pytest.approx(area.pixels * 0.09)


def test_a_folder_that_takes_no_file_is_found_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emra_deploy.maps.outputs.tempfile.TemporaryFile", full)
    job = MapJob(save_png(tmp_path / "in.png", scene(30, 40)), tmp_path / "map.png")
    with Segmenter.open(model, backend="onnxruntime", threads=1) as segmenter, pytest.raises(EmraError) as caught:
        estimate_map(job, segmenter)
    assert caught.value.code == "output-unwritable"
