"""``emra stream`` as a user runs it, in a separate process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emra_deploy.cli.main import main
from tests.emra_deploy.cli.cli_helpers import emra
from tests.emra_deploy.stream.fakes import wait_for
from tests.emra_deploy.stream.senders import HttpSender
from tests.emra_deploy.stream.videos import numbered, numbers_in, save_video
from tests.onnx_models import CLASSES, build_model

pytest.importorskip("av")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_video(tmp_path_factory.mktemp("video") / "in.mp4", 30)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


class Running:
    """``emra stream`` at work; its lines of JSON can be waited for."""

    def __init__(self, *words: object, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "emra_deploy", "stream", *map(str, words), "--json"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.lines: list[dict[str, Any]] = []

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(json.loads(text))
            if wanted(self.lines[-1]):
                return self.lines[-1]
        pytest.fail(f"it ended: {self.lines[-3:]}, {self.process.stderr and self.process.stderr.read()}")

    def end(self) -> int:
        """Its exit status; fails when it does not end."""
        try:
            out, self.err = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        self.lines += lines(out)
        return self.process.returncode


@pytest.fixture
def sender() -> Iterator[HttpSender]:
    with HttpSender() as http:
        yield http


def test_a_file_gives_a_line_for_each_frame_and_a_whole_overlay(model: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    done = emra("stream", video, "--model", model, "--overlay", out, "--opacity", 0, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = lines(done.stdout)
    found = [line for line in said if line["event"] == "frame"]
    assert [line["index"] for line in found] == list(range(30))
    assert [line["time"] for line in found] == pytest.approx([number / 10 for number in range(30)])
    assert all(sum(area["pixels"] for area in line["areas"].values()) == 48 * 64 for line in found)
    assert set(found[0]["areas"]) == set(CLASSES.names)
    assert [line["state"] for line in said if line["event"] == "state"] == ["connecting", "running", "ended"]
    end = said[-1]
    assert (end["event"], end["delivered"], end["written"], end["overlay"]) == ("end", 30, 30, str(out))
    assert numbers_in(out) == list(range(30))


def test_people_get_a_summary(model: Path, video: Path, tmp_path: Path) -> None:
    done = emra("stream", video, "--model", model, "--every", 10, "--overlay", tmp_path / "o.mp4")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["emra: connecting", "emra: running", "emra: ended"]
    assert done.stdout.startswith("frames   30 received, 3 delivered, 27 skipped, 0 dropped\n")
    assert f"overlay  {tmp_path / 'o.mp4'}  (3 frames)" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_live_stream_with_a_whole_file(
    model: Path, sender: HttpSender, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out.mp4"
    running = Running(sender.url, "--model", model, "--overlay", out, "--opacity", 0)
    for _ in range(5):
        running.until(lambda line: line["event"] == "frame")
    running.process.send_signal(number)
    assert running.end() == 0
    assert running.err == ""
    end = running.lines[-1]
    assert (end["event"], end["state"]) == ("end", "ended")
    assert end["received"] == sum(end[part] for part in ("delivered", "dropped", "skipped", "expired", "left"))
    assert len(numbers_in(out)) == end["written"] == end["delivered"] >= 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert "secret" not in json.dumps(running.lines)


def test_a_signal_ends_a_file_in_the_middle(model: Path, tmp_path: Path) -> None:
    source = save_video(tmp_path / "in.mp4", (numbered(number % 256) for number in range(800)), gop=100)
    running = Running(source, "--model", model, "--overlay", tmp_path / "out.mp4", "--opacity", 0)
    running.until(lambda line: line["event"] == "frame" and line["index"] >= 5)
    running.process.terminate()
    assert running.end() == 0
    written = running.lines[-1]["written"]
    assert 5 <= written < 800
    assert numbers_in(tmp_path / "out.mp4") == [number % 256 for number in range(written)]


def test_a_signal_ends_a_source_that_does_not_answer(model: Path, sender: HttpSender) -> None:
    sender.stalled.set()
    running = Running(sender.url, "--model", model, "--timeout", 600)
    running.until(lambda line: line["event"] == "state")
    threading.Event().wait(0.3)
    running.process.terminate()
    assert running.end() == 0
    assert running.lines[-1]["delivered"] == 0


def test_a_stream_that_comes_back_is_reported_as_it_happens(model: Path, sender: HttpSender) -> None:
    running = Running(sender.url, "--model", model, "--stall-after", 0.2)
    running.until(lambda line: line["event"] == "frame")
    sender.stalled.set()
    reported = running.until(lambda line: line["event"] == "state" and line["state"] == "degraded")
    assert reported["reason"] == "no frame for more than 0.2 s"
    sender.stalled.clear()
    running.until(lambda line: line["event"] == "state" and line["state"] == "running")
    sender.cut()
    running.until(lambda line: line["event"] == "state" and line["state"] == "degraded")
    sender.start()
    running.until(lambda line: line["event"] == "frame" and line["connection"] == 2)
    running.process.terminate()
    assert running.end() == 0


def test_it_stops_after_n_frames(model: Path, sender: HttpSender, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["stream", sender.url, "--model", str(model), "--frames", "3", "--json", "--input-option", "probesize=5000"]
    assert main(words) == 0
    assert [line["event"] for line in lines(capsys.readouterr().out)].count("frame") == 3


def test_a_reader_that_has_seen_enough_ends_it(model: Path, sender: HttpSender, tmp_path: Path) -> None:
    running = Running(sender.url, "--model", model, "--overlay", tmp_path / "out.mp4")
    running.until(lambda line: line["event"] == "frame")
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(20) == 141
    assert len(numbers_in(tmp_path / "out.mp4")) >= 1
    assert running.process.stderr is not None
    assert running.process.stderr.read() == ""
    running.process.stderr.close()


def test_a_reader_that_stopped_reading_cannot_keep_it_from_ending(model: Path, tmp_path: Path) -> None:
    source = save_video(tmp_path / "in.mp4", (numbered(number % 256) for number in range(800)), gop=100)
    running = Running(source, "--model", model, "--overlay", tmp_path / "out.mp4", "--opacity", 0)
    running.until(lambda line: line["event"] == "frame")
    [part] = tmp_path.glob(".out.*.part.mp4")
    assert running.process.stdout is not None
    pipe = running.process.stdout.fileno()
    waiting = array("i", [0])

    def full() -> bool:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        # 16 pages, and a line that does not fit into the rest of one begins the next.
        return waiting[0] > 16 * (4096 - 600)

    wait_for(full, "a full pipe")
    threading.Event().wait(0.3)
    running.process.terminate()
    # 1 where the machine is too busy to close the file in time; its part plays all the same.
    status = running.process.wait(20)
    assert status in (0, 1)
    got = numbers_in(tmp_path / "out.mp4" if status == 0 else part)
    assert len(got) > 50
    assert got == [number % 256 for number in range(len(got))]
    running.process.communicate()


def test_a_recording_that_breaks_off_keeps_its_overlay_and_exits_with_2(
    model: Path, video: Path, tmp_path: Path
) -> None:
    whole = save_video(tmp_path / "w.mp4", 100, container_options={"movflags": "faststart"}, options={"qp": "1"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: -whole.stat().st_size // 3])
    done = emra("stream", cut, "--model", model, "--overlay", tmp_path / "out.mp4", "--opacity", 0, "--json")
    assert done.returncode == 2
    assert done.stderr.startswith(f"emra: {cut}: the video breaks off")
    said = lines(done.stdout)
    assert said[-1]["error"]["code"] == "video-truncated"
    assert (said[-2]["event"], said[-2]["state"]) == ("end", "failed")
    written = said[-2]["written"]
    assert 5 < written < 100
    assert numbers_in(tmp_path / "out.mp4") == list(range(written))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["missing.mp4"], "input-missing"),
        (["ftp://user:secret@host/x"], "stream-protocol"),
        (["camera:99"], "camera-missing"),
        (["http://127.0.0.1:1/x", "--give-up", "0.3"], "stream-lost"),
        (["VIDEO", "--every", "0"], "stream-option"),
        (["VIDEO", "--max-age", "-1"], "stream-option"),
        (["VIDEO", "--frames", "0"], "stream-option"),
        (["VIDEO", "--opacity", "1.5"], "opacity-range"),
        (["VIDEO", "--input-option", "novalue"], "stream-option"),
        (["VIDEO", "--input-option", "probesize=minus"], "stream-option"),
        (["VIDEO", "--overlay", "x.avi"], "overlay-kind"),
        (["VIDEO", "--overlay", "VIDEO", "--overwrite"], "output-is-input"),
        (["VIDEO", "--overlay", "MODEL.mp4"], "output-exists"),
    ],
)
def test_mistakes_are_one_line_and_one_object(
    model: Path, video: Path, tmp_path: Path, words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.mp4"
    there.write_bytes(b"old")
    words = [{"VIDEO": str(video), "MODEL.mp4": str(there)}.get(word, word) for word in words]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert main(["stream", *words, "--model", str(model), "--json"]) == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    out, err = capsys.readouterr()
    assert lines(out)[-1]["error"]["code"] == code
    assert len(err.splitlines()) == 1
    assert "secret" not in out + err
    assert there.read_bytes() == b"old"
