"""Long maps that are stopped resume where they were, to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.maps import journal
from emra_deploy.maps.journal import Journal
from tests.emra_deploy.maps.map_jobs import run_job
from tests.emra_deploy.pictures.raster_files import UTM, write
from tests.onnx_models import build_model, scene

pytest.importorskip("onnxruntime")

HEIGHT, WIDTH = 700, 300


class Stop(Exception):
    """Ends a run from within."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("in")
    build_model(made / "model.onnx", size=(64, 64), heads=("classes", "logits"))
    write(made / "in.tif", scene(HEIGHT, WIDTH).transpose(2, 0, 1), **UTM)
    return made


def run(folder: Path, out: Path, stop_at: int | None = None, **options: object):
    def progress(done: int, total: int) -> None:
        if stop_at is not None and done >= stop_at:
            raise Stop

    settings = {"journal": "on", "progress": progress, **options}
    return run_job(folder / "in.tif", out / "map.tif", folder / "model.onnx", **settings)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("blend", [False, True])
def test_a_stopped_map_resumes_to_the_same_bytes(folder: Path, tmp_path: Path, blend: bool) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()

    def extras(out: Path) -> dict[str, object]:
        return {"blend": blend, "overlay": out / "over.png", "polygons": out / "map.geojson", "min_pixels": 20}

    expected = run(folder, whole, **extras(whole))
    for stop in (150, 420):
        with pytest.raises(Stop):
            run(folder, halves, stop, **extras(halves))
        assert names(halves) == [".map.tif.journal"]
    report = run(folder, halves, **extras(halves))
    assert 420 <= report.resumed_rows < HEIGHT
    assert expected.resumed_rows == 0
    assert names(whole) == names(halves) == ["map.geojson", "map.tif", "over.png"]
    for name in names(whole):
        assert (whole / name).read_bytes() == (halves / name).read_bytes()
    assert report.areas == expected.areas
    assert report.polygon_count == expected.polygon_count > 0


def test_other_settings_start_again(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(folder, tmp_path, 300)
    assert run(folder, tmp_path, halo=9).resumed_rows == 0
    assert names(tmp_path) == ["map.tif"]


def test_another_picture_of_the_same_name_starts_again(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "in")
    with pytest.raises(Stop):
        run(tmp_path / "in", tmp_path, 300)
    (tmp_path / "in/in.tif").touch()
    assert run(tmp_path / "in", tmp_path).resumed_rows == 0


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_short_jobs_leave_nothing(folder: Path, tmp_path: Path, choice: str) -> None:
    with pytest.raises(Stop):
        run(folder, tmp_path, 300, journal=choice)
    assert names(tmp_path) == []


def test_long_jobs_keep_a_journal_unasked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emra_deploy.maps.run.JOURNAL_PIXELS", HEIGHT * WIDTH)
    with pytest.raises(Stop):
        run(folder, tmp_path, 300, journal="auto")
    assert run(folder, tmp_path, journal="auto").resumed_rows >= 300


def test_unknown_choice(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmraError) as caught:
        run(folder, tmp_path, journal="maybe")
    assert caught.value.code == "journal"


@pytest.mark.parametrize("damage", ["state-text", "state-rows", "labels-short", "labels-gone", "state-gone"])
def test_a_damaged_journal_is_not_believed(folder: Path, tmp_path: Path, damage: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.mkdir()
    out.mkdir()
    run(folder, whole)
    with pytest.raises(Stop):
        run(folder, out, 400)
    kept = out / ".map.tif.journal"
    if damage == "state-text":
        (kept / "state.json").write_text("{")
    elif damage == "state-rows":
        text = (kept / "state.json").read_text()
        (kept / "state.json").write_text(text.replace('"rows": ', '"rows": 9'))
    elif damage == "labels-short":
        (kept / "labels").write_bytes(b"\0" * WIDTH * 10)
    else:
        (kept / ("labels" if damage == "labels-gone" else "state.json")).unlink()
    assert run(folder, out).resumed_rows == 0
    assert (out / "map.tif").read_bytes() == (whole / "map.tif").read_bytes()


def test_two_jobs_cannot_write_one_output(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "map.tif", {}, HEIGHT, WIDTH):
        with pytest.raises(EmraError) as caught:
            run(folder, tmp_path)
        assert caught.value.code == "output-busy"
    assert names(tmp_path) == []


def test_rows_come_back_as_they_were_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_REPLAY_BYTES", 5 * WIDTH)
    labels = np.random.default_rng(0).integers(0, 256, (40, WIDTH), np.uint8)
    record = Journal(tmp_path / "map.tif", {"a": 1}, 100, WIDTH)
    record.append(labels[:13])
    record.append(labels[13:])
    record.close(done=False)
    with Journal(tmp_path / "map.tif", {"a": 1}, 100, WIDTH) as again:
        assert again.rows == 40
        parts = list(again.replay())
    assert [window.height for window, _ in parts] == [5] * 8
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), labels)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_full_disk_is_an_error(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib, numpy as np\n"
        "from emra_deploy.errors import EmraError\n"
        "from emra_deploy.maps.journal import Journal\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "record = Journal(pathlib.Path(sys.argv[1]), {}, 1000, 1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    for _ in range(1000):\n"
        "        record.append(np.zeros((1, 1000), np.uint8))\n"
        "except EmraError as error:\n"
        "    print(error.code)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "map.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "output-write\n", done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_outright_and_called_again(folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.mkdir()
    out.mkdir()
    run(folder, whole)
    program = (
        "import sys, time\n"
        "from emra_deploy.maps import journal\n"
        "from emra_deploy import MapJob, Segmenter, make_map\n"
        "journal.SYNC_SECONDS = 0\n"
        "def progress(done, total):\n"
        "    if done > 300:\n"
        "        print(done, flush=True)\n"
        "        time.sleep(60)\n"
        "job = MapJob(sys.argv[1], sys.argv[2], journal='on')\n"
        "make_map(job, Segmenter.open(sys.argv[3], backend='onnxruntime', threads=1), progress)\n"
    )
    words = [str(folder / "in.tif"), str(out / "map.tif"), str(folder / "model.onnx")]
    with subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        done = int(process.stdout.readline())
        process.kill()
    assert not (out / "map.tif").exists()
    # Rows are kept before they are written, so one more row of tiles than was reported may be there.
    assert done <= run(folder, out).resumed_rows < HEIGHT
    assert (out / "map.tif").read_bytes() == (whole / "map.tif").read_bytes()
