"""``emra segment`` on real files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy.cli.flags import read_flags
from emra_deploy.cli.main import build_parser, main
from emra_deploy.maps.job import MapJob
from emra_deploy.pictures.scaling import Scale
from emra_deploy.pictures.windows import plan_tiles
from emra_deploy.segmenting.overlay import overlay
from tests.emra_deploy.cli.cli_helpers import emra, save_png
from tests.onnx_models import CLASSES, build_model, nearest_colour, scene

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The code of the error that a run in this process ends with."""
    assert main(["segment", *map(str, arguments)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("emra: ")
    found = re.search(r"\[([a-z-]+)\]$", line.strip())
    assert found is not None
    return found.group(1)


def test_picture_to_palette_png_and_overlay(model: Path, tmp_path: Path) -> None:
    image = scene(150, 200)
    source = save_png(tmp_path / "in.png", image)
    done = emra("segment", source, "-m", model, "-o", tmp_path / "out.png", "--overlay", tmp_path / "over.png")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = nearest_colour(image)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), expected)
        rgb = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(rgb, np.asarray(CLASSES.palette, np.uint8)[expected])
    with Image.open(tmp_path / "over.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[:150, :200], overlay(image, expected, CLASSES))
    for name in (*CLASSES.names, str(tmp_path / "out.png"), str(tmp_path / "over.png")):
        assert name in done.stdout
    assert f"{np.sum(expected == 0):,}" in done.stdout


def test_json_is_one_object_and_nothing_else(model: Path, tmp_path: Path) -> None:
    image = scene(70, 90)
    source = save_png(tmp_path / "in.png", image)
    done = emra("segment", source, "--model", model, "--output", tmp_path / "out.png", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    counts = np.bincount(nearest_colour(image).ravel(), minlength=len(CLASSES))
    assert [area["pixels"] for area in report["areas"]] == counts.tolist()
    assert sum(area["percent"] for area in report["areas"]) == pytest.approx(100)
    assert [area["name"] for area in report["areas"]] == list(CLASSES.names)
    assert {area["square_metres"] for area in report["areas"]} == {None}
    expected = {"labels": str(tmp_path / "out.png"), "overlay": None, "overlay_factor": 1}
    assert report["outputs"] == {**expected, "polygons": None, "polygon_count": 0}
    assert report["resumed_rows"] == 0
    assert report["model"]["name"] == "nearest-colour"
    assert report["backend"]["backend"] == "onnxruntime"
    assert 0 < report["seconds"]["segment"] <= report["seconds"]["total"]


def test_errors_as_json_on_stdout_and_as_a_line_on_stderr(model: Path, tmp_path: Path) -> None:
    done = emra("segment", tmp_path / "none.png", "-m", model, "-o", tmp_path / "out.png", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "input-missing"
    assert error["path"] == str(tmp_path / "none.png")
    assert done.stderr.startswith("emra: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (64, 64), (65, 63)])
def test_odd_sizes(model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    image = scene(*size)
    source = save_png(tmp_path / "in.png", image)
    out, over = tmp_path / "out.png", tmp_path / "over.png"
    assert main(["segment", str(source), "-m", str(model), "-o", str(out), "--overlay", str(over)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out)), nearest_colour(image))


def test_transparent_pixels_are_no_data(model: Path, tmp_path: Path) -> None:
    image = scene(80, 100)
    alpha = np.full((80, 100), 255, np.uint8)
    alpha[:30, 20:] = 0
    source = save_png(tmp_path / "in.png", np.dstack([image, alpha]))
    assert main(["segment", str(source), "-m", str(model), "-o", str(tmp_path / "out.png")]) == 0
    with Image.open(tmp_path / "out.png") as picture:
        labels = np.asarray(picture)
        shown = np.asarray(picture.convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(labels == 255, alpha == 0)
    np.testing.assert_array_equal(shown, alpha)


def test_entirely_transparent_picture(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_png(tmp_path / "in.png", np.zeros((40, 50, 4), np.uint8))
    assert main(["segment", str(source), "-m", str(model), "-o", str(tmp_path / "out.png"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["no_data_pixels"] == 2000
    assert all(area["pixels"] == 0 and area["percent"] == 0 for area in report["areas"])


def test_geotiff_keeps_its_place_and_gives_square_metres(model: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = scene(300, 500)
    image[:100, :100] = 0
    transform = rasterio.Affine(0.5, 0.1, 500_000.25, 0.1, -0.5, 4_000_000.75)
    options = {"crs": "EPSG:32640", "transform": transform, "nodata": 0, "tiled": True, "compress": "deflate"}
    source = tmp_path / "in.tif"
    with rasterio.open(source, "w", driver="GTiff", width=500, height=300, count=3, dtype="uint8", **options) as raster:
        raster.write(image.transpose(2, 0, 1))
    done = emra("segment", source, "-m", model, "-o", tmp_path / "out.tif", "--overlay", tmp_path / "o.png", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    expected = nearest_colour(image)
    expected[:100, :100] = 255
    with rasterio.open(tmp_path / "out.tif") as after:
        np.testing.assert_array_equal(after.read(1), expected)
        assert tuple(after.transform) == tuple(transform)
        assert after.crs == rasterio.CRS.from_epsg(32640)
        assert after.nodata == 255
        assert after.tags()["EMRA_MODEL"] == "nearest-colour"
    for area in report["areas"]:
        assert area["square_metres"] == pytest.approx(area["pixels"] * 0.26)
    assert report["no_data_pixels"] == 10_000
    text = emra("segment", source, "-m", model, "-o", tmp_path / "b.tif").stdout
    assert "m²" in text
    assert "no data" in text


def test_degrees_give_no_square_metres_but_a_reason(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = tmp_path / "in.tif"
    options = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-6, 0, 55, 0, -1e-6, 25)}
    with rasterio.open(source, "w", driver="GTiff", width=70, height=70, count=3, dtype="uint8", **options) as raster:
        raster.write(scene(70, 70).transpose(2, 0, 1))
    assert main(["segment", str(source), "-m", str(model), "-o", str(tmp_path / "out.tif")]) == 0
    assert "degrees" in capsys.readouterr().out


def test_sixteen_bit_raster_with_a_scale(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = scene(70, 70)
    source = tmp_path / "in.tif"
    with rasterio.open(source, "w", driver="GTiff", width=70, height=70, count=4, dtype="uint16") as raster:
        raster.write(np.concatenate([image[..., ::-1].transpose(2, 0, 1), image[None, ..., 0]]).astype(np.uint16) * 8)
    arguments = [source, "-m", model, "-o", tmp_path / "out.tif"]
    assert fails(capsys, *arguments) == "image-depth"
    assert fails(capsys, *arguments, "--scale", 0, 2040) == "image-bands"
    assert fails(capsys, *arguments, "--scale", 2040, 0) == "scale-range"
    assert fails(capsys, *arguments, "--bands", "red") == "image-bands"
    assert main(["segment", *map(str, arguments), "--scale", "0", "2040", "--bands", "3,2,1"]) == 0
    with rasterio.open(tmp_path / "out.tif") as after:
        np.testing.assert_array_equal(after.read(1), nearest_colour(image))


def test_bad_inputs_and_outputs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_png(tmp_path / "in.png", scene(30, 40))
    out = tmp_path / "out.png"
    (tmp_path / "text.png").write_text("not a picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(source.read_bytes()[:400])
    kept = save_png(tmp_path / "kept.png", scene(3, 4))
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    given = ["-m", model, "-o"]
    assert fails(capsys, tmp_path / "none.png", *given, out) == "input-missing"
    assert fails(capsys, "/vsicurl/http://localhost/a.tif", *given, out) == "input-missing"
    assert fails(capsys, tmp_path, *given, out) == "input-is-folder"
    assert fails(capsys, tmp_path / "text.png", *given, out) == "not-an-image"
    assert fails(capsys, cut, *given, out) == "image-truncated"
    assert fails(capsys, source, *given, kept) == "output-exists"
    assert fails(capsys, source, *given, out, "--overlay", kept) == "output-exists"
    assert fails(capsys, source, *given, source, "--overwrite") == "output-is-input"
    assert fails(capsys, source, *given, out, "--overlay", out) == "output-is-input"
    assert fails(capsys, source, *given, tmp_path) == "output-suffix"
    assert fails(capsys, source, *given, tmp_path / "out.jpg") == "output-suffix"
    assert fails(capsys, source, *given, out, "--overlay", tmp_path / "over.tif") == "output-suffix"
    assert fails(capsys, source, *given, tmp_path / "none" / "out.png") == "output-folder-missing"
    assert fails(capsys, source, *given, out, "--bands", "3,2,1") == "image-bands"
    assert fails(capsys, source, *given, out, "--opacity", 2) == "opacity-range"
    assert fails(capsys, source, *given, out, "--halo", 32) == "halo"
    assert fails(capsys, source, *given, out, "--batch", 0) == "batch-size"
    assert fails(capsys, source, *given, out, "--threads", 0) == "threads"
    assert fails(capsys, source, *given, out, "--backend", "none") == "backend-unknown"
    assert fails(capsys, source, "-m", tmp_path / "none.onnx", "-o", out) == "model-missing"
    # Nothing was made, changed or left behind.
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_truncated_raster_leaves_no_output(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = tmp_path / "in.tif"
    with rasterio.open(source, "w", driver="GTiff", width=300, height=300, count=3, dtype="uint8") as raster:
        raster.write(scene(300, 300).transpose(2, 0, 1))
    source.write_bytes(source.read_bytes()[:150_000])
    assert fails(capsys, source, "-m", model, "-o", tmp_path / "out.tif") == "image-truncated"
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_overwrite_replaces(model: Path, tmp_path: Path) -> None:
    image = scene(30, 40)
    source = save_png(tmp_path / "in.png", image)
    out = save_png(tmp_path / "out.png", scene(3, 4))
    assert main(["segment", str(source), "-m", str(model), "-o", str(out), "--overwrite"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out)), nearest_colour(image))


def test_threads_halo_and_batch_do_not_change_the_labels(model: Path, tmp_path: Path) -> None:
    image = scene(200, 150)
    source = save_png(tmp_path / "in.png", image)
    for number, options in enumerate((["--halo", "0"], ["--halo", "31"], ["--batch", "7"], ["--threads", "1"])):
        out = tmp_path / f"{number}.png"
        assert main(["segment", str(source), "-m", str(model), "-o", str(out), *options]) == 0
        np.testing.assert_array_equal(np.asarray(Image.open(out)), nearest_colour(image))


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_kill_during_the_work_leaves_the_old_output(model: Path, tmp_path: Path, kind: signal.Signals) -> None:
    rasterio = pytest.importorskip("rasterio")
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    options = {"driver": "GTiff", "tiled": True, "sparse_ok": False, "compress": "deflate"}
    with rasterio.open(source, "w", width=6000, height=6000, count=3, dtype="uint8", **options):
        pass
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "emra_deploy", "segment", source, "-m", model, "-o", out, "--overwrite"]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE) as process:
        limit = time.monotonic() + 60
        # The unfinished file has bytes in it: the work is under way.
        while not any(path.stat().st_size for path in tmp_path.glob(".out.*.part*.tif")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(kind)
        process.wait()
    assert process.returncode in (-kind, 128 + kind)
    assert out.read_bytes() == b"old"
    if kind != signal.SIGKILL:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]


def test_help_names_what_matters_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from emra_deploy.cli.main import main\n"
        "try:\n"
        "    main(['segment', '--help'])\n"
        "except SystemExit as done:\n"
        "    assert not done.code\n"
        "print('HEAVY', sorted({'numpy', 'PIL', 'rich', 'rasterio', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for word in ("--output", "--overlay", "4096", "--scale MIN MAX", "--bands R,G,B", "--overwrite", "--json"):
        assert word in done.stdout


def test_every_setting_of_a_job_is_an_option() -> None:
    words = {
        "overlay": "o.png",
        "polygons": "p.gpkg",
        "polygon-classes": "building, water",
        "min-area": "2",
        "min-pixels": "3",
        "opacity": "0.25",
        "bands": "3,2,1",
        "gsd": "0.5",
        "journal": "off",
        "palette": "safe",
    }
    arguments = ["segment", "in.tif", "-o", "map.tif", "--overwrite", "--outlines", "--scale", "0", "4095"]
    options = build_parser().parse_args([*arguments, *(f"--{name}={value}" for name, value in words.items())])
    expected = MapJob("in.tif", "map.tif", "o.png", "p.gpkg", ("building", "water"), 2.0, 3, 0.25, True)
    expected = replace(expected, scale=Scale(0, 4095), bands=(3, 2, 1), gsd=0.5, journal="off", outlines=True)
    expected = replace(expected, palette="safe")
    assert read_flags(options.segment, MapJob) == expected
    default = MapJob("in.tif", "map.tif")
    assert read_flags(build_parser().parse_args(["segment", "in.tif", "-o", "map.tif"]).segment, MapJob) == default
    assert all(getattr(expected, one.name) != one.default for one in fields(MapJob))


def test_missing_arguments_are_a_usage_error(tmp_path: Path) -> None:
    done = emra("segment")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "output" in done.stderr


def test_names_that_look_like_other_things(model: Path, tmp_path: Path) -> None:
    for name in ("123", "null", "[a], {b}.png", "1e3.png", "true", "a: b"):
        save_png(tmp_path / "in.png", scene(5, 6)).rename(tmp_path / name)
        out = tmp_path / "out.png"
        assert main(["segment", str(tmp_path / name), "-m", str(model), "-o", str(out), "--overwrite"]) == 0
    done = emra("segment", "123", "-m", model, "-o", "x.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_file_names_need_not_be_text(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        save_png(tmp_path / "in.png", scene(5, 6)).rename(tmp_path / name)
    except OSError:
        pytest.skip("names are always text on this system")
    environment = {**os.environ, "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "emra_deploy", "segment", name, "-m", model, "-o", b"\xe9.png"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\xe9.png" in done.stdout
    again = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert again.returncode == 2
    assert b"[output-exists]" in again.stderr


def test_memory_that_runs_out_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hungry(*arguments: object, **options: object) -> None:
        np.empty((2**20, 2**20, 2**10), np.uint8)

    monkeypatch.setattr("emra_deploy.maps.run.PreparedMap", hungry)
    assert fails(capsys, "a.png", "-m", model, "-o", tmp_path / "b.png") == "memory"


def test_a_bug_keeps_its_traceback(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("emra_deploy.maps.run.PreparedMap", broken)
    with pytest.raises(ZeroDivisionError):
        main(["segment", "a.png", "-m", str(model), "-o", "b.png"])


def test_dry_run_says_what_it_would_cost_and_writes_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_png(tmp_path / "in.png", scene(300, 200))
    words = ["segment", str(source), "-m", str(model), "-o", str(tmp_path / "out.png"), "--dry-run"]
    assert main([*words, "--json", "--batch", "2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tiles"] == len(plan_tiles(300, 200, 64, 64, 8))
    assert (plan["height"], plan["width"], plan["tile"], plan["halo"], plan["batch"]) == (300, 200, [64, 64], 8, 2)
    assert plan["seconds"] == pytest.approx(plan["tiles"] * plan["seconds_per_tile"])
    assert plan["seconds_per_tile"] > 0
    if sys.platform == "linux":
        # More than the interpreter, less than the machine.
        assert 20 * 2**20 < plan["memory_bytes"] < 2**40
    assert main(words) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_dry_run_refuses_what_the_run_would_refuse(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_png(tmp_path / "in.png", scene(30, 20))
    assert fails(capsys, source, "-m", model, "-o", source, "--dry-run") == "output-is-input"
    assert fails(capsys, source, "-m", model, "-o", tmp_path / "a.jpg", "--dry-run") == "output-suffix"
    assert fails(capsys, source, "-m", model, "-o", tmp_path / "a.png", "--halo", "32", "--dry-run") == "halo"


def test_blended(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_model(tmp_path / "both.onnx", size=(64, 64), heads=("classes", "logits"))
    image = scene(150, 200)
    source, out = save_png(tmp_path / "in.png", image), tmp_path / "out.png"
    assert main(["segment", str(source), "-m", str(tmp_path / "both.onnx"), "-o", str(out), "--blend"]) == 0
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), nearest_colour(image))
    capsys.readouterr()
    assert fails(capsys, source, "-m", model, "-o", tmp_path / "other.png", "--blend") == "blend"
    assert not (tmp_path / "other.png").exists()
