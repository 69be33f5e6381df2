"""Hidden files of killed runs: the next run of the same output removes them, and none that a live process holds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.host.files import atomic_output
from tests.cases.builders import colour_model, make, squares

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")
pytest.importorskip("fcntl")

PLACE = rasterio.Affine(0.5, 0, 501_000, 0, -0.5, 5_394_000)
_PROGRAM = """
import sys, time
from emra_deploy import MapJob, Segmenter, make_map
from emra_deploy.maps import cog, journal, label_files, outputs
def stop(*_, **__):
    print('stopped', flush=True)
    time.sleep(60)
journal.SYNC_SECONDS = 0
where, source, model, folder = sys.argv[1:]
progress = None
if where == 'rows':
    progress = lambda done, total: done > total // 2 and stop()
elif where == 'copy':
    # The copy is there in part.
    copy = label_files.copy_to_cog
    label_files.copy_to_cog = lambda *words: (copy(*words), stop())
elif where == 'polygons':
    trace = outputs.write_polygons
    outputs.write_polygons = lambda *words, **more: (trace(*words, **more), stop())
job = MapJob(source, folder + '/map.tif', overlay=folder + '/over.png', polygons=folder + '/map.gpkg', journal='on')
make_map(job, Segmenter.open(model, backend='onnxruntime', threads=1), progress)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("pyogrio")
    folder = tmp_path_factory.mktemp("in")
    picture, _ = squares(24, 24)
    size = {"height": 768, "width": 768, "count": 3, "dtype": "uint8"}
    with rasterio.open(folder / "in.tif", "w", driver="GTiff", crs="EPSG:32633", transform=PLACE, **size) as dataset:
        dataset.write(picture.transpose(2, 0, 1))
    return folder / "in.tif", colour_model(folder)


def start_and_kill(where: str, given: tuple[Path, Path], out: Path) -> None:
    words = [sys.executable, "-c", _PROGRAM, where, *map(str, given), str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.kill()
    # The child that copies ends with it, a moment later.
    time.sleep(0.2)


@pytest.mark.parametrize("where", ["rows", "copy", "polygons"])
def test_a_resumed_map_leaves_nothing(given: tuple[Path, Path], tmp_path: Path, where: str) -> None:
    source, model = given
    for _ in range(2):
        start_and_kill(where, given, tmp_path)
    hidden = [name for name in names(tmp_path) if ".part" in name]
    assert len(hidden) >= 4
    # Of another output, of a name that only looks alike, and of a process without a lock.
    others = [".map.tif.0123456789ab.part.tif", ".map.0123456789a.part.tif", ".other.0123456789ab.part.tif"]
    for name in (*others, ".map.0123456789ab.part.rows.tif.ovr"):
        (tmp_path / name).touch()
    report = make(
        source, tmp_path / "map.tif", model,
        overlay=tmp_path / "over.png", polygons=tmp_path / "map.gpkg", journal="on",
    )  # fmt: skip
    assert report.resumed_rows > 0
    assert names(tmp_path) == sorted([*others, "map.gpkg", "map.tif", "over.png"])
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), squares(24, 24)[1])


def test_files_of_a_live_process_stay(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom emra_deploy.host.files import atomic_output\n"
        "with atomic_output(sys.argv[1]) as part:\n"
        "    part.write_text('slow')\n"
        "    print(part, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "a.txt")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        slow = Path(process.stdout.readline().strip())
        with atomic_output(tmp_path / "a.txt") as part:
            part.write_text("quick")
        assert slow.read_text() == "slow"
        process.communicate()
    # The slow one found that the name was taken, and left nothing either.
    assert process.returncode != 0
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "quick"


@pytest.mark.parametrize("ending", [".tif", ".gpkg"])
def test_files_of_a_live_map_stay(given: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    """Writers that delete the temporary file and make it again, with the first one's lock."""
    pytest.importorskip("pyogrio")
    words = [
        sys.executable,
        "-c",
        _PROGRAM,
        "copy" if ending == ".tif" else "polygons",
        *map(str, given),
        str(tmp_path),
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        before = names(tmp_path)
        with atomic_output(tmp_path / f"map{ending}") as part:
            part.write_text("quick")
        assert names(tmp_path) == sorted([*before, f"map{ending}"])
        process.kill()


def test_two_outputs_of_one_process_with_one_stem(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "a.txt") as first, atomic_output(tmp_path / "a.md") as second:
        first.write_text("1")
        second.write_text("2")
    assert names(tmp_path) == ["a.md", "a.txt"]
