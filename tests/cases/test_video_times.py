"""Times of recordings that hold none: raw streams, and images without a clock.

Of a raw H.264 of 30 frames at 10 frames per second the times spanned 0.1 s, and differed from run to run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.run import Stream
from tests.emra_deploy.stream.fakes import label_all
from tests.emra_deploy.stream.videos import save_video
from tests.onnx_models import build_model
from tests.parts import REPOSITORY

av = pytest.importorskip("av")


def times(source: object, **options: object) -> list[float]:
    with Stream(label_all, source, StreamOptions(**options)) as stream:
        return [result.frame.time for result in stream]


def video(tmp_path: Path, name: str, codec: str, **options: object) -> str:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    return str(save_video(tmp_path / name, 30, codec=codec, **options))


@pytest.mark.parametrize(
    ("name", "codec", "form", "options"),
    [
        ("a.h264", "libx264", None, {}),
        ("no-ending", "libx264", "h264", {}),
        ("b-frames.h264", "libx264", None, {"preset": "fast", "bf": "2"}),
        ("a.hevc", "libx265", None, {"x265-params": "log-level=none"}),
        ("a.m4v", "mpeg4", "m4v", {}),
        ("a.ts", "libx264", None, {}),
        ("a.avi", "libx264", None, {"preset": "fast", "bf": "2"}),
        ("a.y4m", "rawvideo", "yuv4mpegpipe", {}),
        ("a.ivf", "libvpx", None, {}),
    ],
)
def test_recordings_that_say_their_rate(
    tmp_path: Path, name: str, codec: str, form: str | None, options: dict[str, str]
) -> None:
    path = video(tmp_path, name, codec, form=form, options=options)
    found = times(path)
    assert found == pytest.approx(np.arange(30) / 10, abs=0.002)
    assert times(path) == found


@pytest.mark.parametrize(("name", "codec", "form"), [("a.mjpeg", "mjpeg", None), ("a.obu", "libsvtav1", "obu")])
def test_raw_streams_that_do_not_say_it(
    tmp_path: Path, name: str, codec: str, form: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = video(tmp_path, name, codec, form=form)
    assert times(path) == pytest.approx(np.arange(30) / 25)
    assert "25 frames per second are assumed (set it by --fps)" in caplog.text
    caplog.clear()
    assert times(path, fps=10.0) == pytest.approx(np.arange(30) / 10)
    assert times(path, input_options=("framerate=10",)) == pytest.approx(np.arange(30) / 10)
    assert not caplog.text


def test_one_in_n_of_a_raw_stream(tmp_path: Path) -> None:
    path = video(tmp_path, "a.h264", "libx264")
    assert times(path, every=10) == pytest.approx([0.0, 1.0, 2.0])
    assert times(path, every=10, fps=5.0) == pytest.approx([0.0, 2.0, 4.0])


def test_a_rate_in_place_of_the_times_of_a_file(tmp_path: Path) -> None:
    assert times(video(tmp_path, "a.mp4", "libx264"), fps=30.0) == pytest.approx(np.arange(30) / 30)


def test_images_of_a_program() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    assert times([picture] * 3, fps=2.0) == [0.0, 0.5, 1.0]


def test_live_sources_have_the_time_of_arrival() -> None:
    with pytest.raises(EmraError, match="the source is live"):
        times("udp://127.0.0.1:9", fps=10.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(EmraError, match="fps is"):
            StreamOptions(fps=wrong)


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    build_model(tmp_path / "model.onnx")
    path = video(tmp_path, "a.mjpeg", "mjpeg")
    line = [sys.executable, "-m", "emra_deploy", "stream", path, "--model", str(tmp_path / "model.onnx"), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "25 frames per second are assumed (set it by --fps)" in done.stderr
    done = subprocess.run([*line, "--fps", "10"], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "assumed" not in done.stderr
    reported = [json.loads(row) for row in done.stdout.splitlines()]
    assert [row["time"] for row in reported if row["event"] == "frame"][-1] == 2.9
