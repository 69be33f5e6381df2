"""Overlays: files that are whole, servers that come and go, and windows that cannot be."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.stream import video_sinks
from emra_deploy.stream.sinks import open_sink
from emra_deploy.stream.video_sinks import MAX_SIDE, Mp4Sink, RtspSink
from tests.emra_deploy.stream.fakes import wait_for
from tests.emra_deploy.stream.senders import RtspServer, free_port, require_rtsp_server
from tests.emra_deploy.stream.videos import numbered, numbers_in, read_video

av = pytest.importorskip("av")


def probe(path: Path) -> dict[str, str]:
    """The report of FFmpeg's own program about a video."""
    if shutil.which("ffprobe") is None:
        pytest.skip("no ffprobe")
    entries = "stream=codec_name,width,height,nb_read_frames,duration,color_space"
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    content: dict[str, str] = json.loads(done.stdout)["streams"][0]
    return content


def test_a_video_holds_every_picture_at_its_time(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    output = Mp4Sink(out)
    times = [100 + number / 7 for number in range(50)]
    for number, moment in enumerate(times):
        assert output.write(numbered(number), moment)
    assert not out.exists()
    assert output.close()
    assert output.written == 50
    assert os.listdir(tmp_path) == ["a.mp4"]  # noqa: PTH208
    assert numbers_in(out) == list(range(50))
    assert [moment for moment, _ in read_video(out)] == pytest.approx([moment - 100 for moment in times], abs=1e-4)


def test_players_find_it_whole(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")
    for number in range(45):
        output.write(numbered(number), number / 15)
    output.close()
    said = probe(tmp_path / "a.mp4")
    assert (said["codec_name"], said["nb_read_frames"], said["color_space"]) == ("h264", "45", "bt709")
    assert float(said["duration"]) == pytest.approx(3.0, abs=0.01)


def test_odd_sizes_and_changes_of_size_stay_in_one_video(tmp_path: Path) -> None:
    colour = (190, 60, 110)
    output = Mp4Sink(tmp_path / "a.mp4")
    for number, (height, width) in enumerate([(49, 65), (49, 65), (24, 65), (98, 130), (49, 65)]):
        output.write(np.full((height, width, 3), colour, np.uint8), number / 5)
    output.close()
    got = read_video(tmp_path / "a.mp4")
    assert {image.shape for _, image in got} == {(50, 66, 3)}
    for _, image in got:
        np.testing.assert_allclose(image[25, 33].astype(int), colour, atol=5)
    # The flat one is fitted in its own shape: black above and below.
    assert got[2][1][2, 33].max() < 20
    assert got[1][1][2, 33].min() > 40


def test_a_clock_that_stands_or_steps_back_costs_no_picture(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")
    for number, moment in enumerate([0, 0, 0.1, 0.05, -3, 0.2]):
        output.write(numbered(number), moment)
    output.close()
    assert numbers_in(tmp_path / "a.mp4") == list(range(6))
    assert read_video(tmp_path / "a.mp4")[-1][0] == pytest.approx(0.2)


def test_without_pictures_there_is_no_file(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")
    assert output.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("there.mp4", "output-exists"),
        ("no/folder.mp4", "output-folder-missing"),
        ("folder.mp4", "output-is-folder"),
        ("input.mp4", "output-is-input"),
    ],
)
def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "there.mp4").write_bytes(b"old")
    (tmp_path / "input.mp4").write_bytes(b"video")
    (tmp_path / "folder.mp4").mkdir()
    overwrite = code == "output-is-input"
    with pytest.raises(EmraError) as caught:
        Mp4Sink(tmp_path / name, overwrite=overwrite, inputs=[str(tmp_path / "input.mp4")])
    assert caught.value.code == code
    assert (tmp_path / "there.mp4").read_bytes() == b"old"


def test_an_existing_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    output = Mp4Sink(tmp_path / "a.mp4", overwrite=True)
    output.write(numbered(1), 0)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    output.close()
    assert len(read_video(tmp_path / "a.mp4")) == 1


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")
    output.write(numbered(1), 0)
    (tmp_path / "a.mp4").write_bytes(b"mine")
    with pytest.raises(EmraError) as caught:
        output.close()
    assert caught.value.code == "output-exists"
    assert (tmp_path / "a.mp4").read_bytes() == b"mine"


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit of a file's size fails as a full disk does, in the middle of writing."""
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    output = Mp4Sink(tmp_path / "a.mp4")

    def write_all() -> None:
        for number in range(200):
            output.write(np.roll(noise, number * 7, axis=1), number / 10)
        output.close()

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(EmraError) as caught:
            write_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.code == "output-write"
    assert list(tmp_path.iterdir()) == []
    assert output.close()
    assert not output.write(noise, 99.0)


def test_a_killed_writer_leaves_no_file_of_that_name_and_a_part_that_plays(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from tests.emra_deploy.stream.videos import numbered\n"
        "from emra_deploy.stream.video_sinks import Mp4Sink\n"
        "output = Mp4Sink('a.mp4')\n"
        "for number in range(100): output.write(numbered(number), number / 10)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    [part] = tmp_path.iterdir()
    assert part.name.startswith(".a.")
    got = numbers_in(part)
    # All but the fragment that was not finished, of two seconds.
    assert len(got) >= 80
    assert got == list(range(len(got)))


def test_closing_does_not_wait_for_a_thread_that_hangs_in_writing(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")
    entered, release = threading.Event(), threading.Event()

    class Hanging(np.ndarray):
        @property
        def shape(self) -> tuple[int, ...]:  # type: ignore[override]
            entered.set()
            release.wait(20)
            return (48, 64, 3)

    thread = threading.Thread(target=lambda: output.write(numbered(0).view(Hanging), 0), daemon=True)
    thread.start()
    entered.wait(20)
    assert output.close(patience=0.01) is False
    release.set()
    thread.join(20)
    assert output.close(patience=20)


def test_pictures_that_no_encoder_takes_are_refused(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")
    with pytest.raises(EmraError) as caught:
        output.write(np.zeros((2, MAX_SIDE + 2, 3), np.uint8), 0)
    assert caught.value.code == "video-encoder"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["a.avi", "a", "udp://127.0.0.1:1", "http://h/a.mp4", "-"])
def test_other_kinds_of_overlay_are_refused(text: str) -> None:
    with pytest.raises(EmraError) as caught:
        open_sink(text)
    assert caught.value.code == "overlay-kind"


def test_a_window_needs_opencv_and_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(EmraError, match="opencv-python") as caught:
        open_sink("window")
    assert caught.value.code == "library-missing"
    monkeypatch.setitem(sys.modules, "cv2", sys)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EmraError) as caught:
        open_sink("window")
    assert caught.value.code == "window-none"


def test_overlays_are_published_by_rtsp_and_again_after_the_server_was_away(tmp_path: Path) -> None:
    require_rtsp_server()
    server = RtspServer()
    output = open_sink(f"rtsp://127.0.0.1:{server.port}/overlay")
    number = 0

    def send(enough: Callable[[], bool]) -> bool:
        nonlocal number
        output.write(numbered(number % 256), number / 50)
        number += 1
        time.sleep(0.02)
        return enough()

    try:
        for name in ("first.mkv", "second.mkv"):
            server.take(tmp_path / name)
            before = output.written
            wait_for(lambda before=before: send(lambda: output.written >= before + 30), "pictures sent")
            wait_for(lambda name=name: send(lambda: (tmp_path / name).stat().st_size > 2000), "pictures taken")
            server.kill()
    finally:
        assert output.close()
    for name in ("first.mkv", "second.mkv"):
        got = numbers_in(tmp_path / name)
        assert len(got) >= 10
        # In order, modulo 256, and no picture twice.
        assert all(0 < (after - first) % 256 < 128 for first, after in pairwise(got))


def test_a_server_that_is_away_never_slows_the_work_down(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    monkeypatch.setattr(video_sinks.Backoff, "next_wait", lambda self, outage: tries.append(outage) or 0.0)
    output = RtspSink(f"rtsp://user:secret@127.0.0.1:{free_port()}/overlay")

    def send() -> bool:
        assert output.write(numbered(1), 0.0)
        return len(tries) >= 3

    wait_for(send, "three tries")
    assert output.close()
    assert output.written == 0
