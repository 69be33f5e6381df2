"""A stream with its outputs: it ends in time and leaves complete files even if a part hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.segmenting.segmentation import Segmentation
from emra_deploy.stream import Stream, StreamOptions, service
from emra_deploy.stream.service import run_stream
from emra_deploy.stream.video_sinks import Mp4Sink
from tests.emra_deploy.stream.fakes import Script, label_all, labelling, numbers, wait_for
from tests.emra_deploy.stream.videos import numbers_in

pytest.importorskip("av")


pytestmark = pytest.mark.usefixtures("hurry")


def test_it_runs_to_the_end(tmp_path: Path) -> None:
    seen, ticks = [], []
    stream = Stream(label_all, numbers(20))
    sink = Mp4Sink(tmp_path / "a.mp4")
    report = run_stream(
        stream,
        sink,
        opacity=0.0,
        on_result=lambda result: seen.append(result.frame.index),
        on_tick=lambda: ticks.append(1),
    )
    assert (report.error, report.hung, report.closed, report.written) == (None, False, True, 20)
    assert seen == list(range(20))
    assert ticks
    assert numbers_in(tmp_path / "a.mp4") == list(range(20))


def test_it_stops_after_the_wanted_number() -> None:
    report = run_stream(Stream(label_all, numbers(20)), limit=5)
    assert report.status.counters.delivered == 5
    assert report.status.counters.waiting == 0


def test_a_stop_while_the_model_hangs_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame at work is lost, what was written before it is not."""
    monkeypatch.setattr(service, "HUNG_AFTER", 0.1)
    script, release = Script(live=False), threading.Event()
    runs = []

    def segment(source: ImageSource) -> Segmentation:
        runs.append(1)
        if len(runs) == 4:
            stream.stop()
            release.wait(20)
        return label_all.segment_source(source)

    for number in range(10):
        script.push(number)
    stream = Stream(labelling(segment), script.source)
    report = run_stream(stream, Mp4Sink(tmp_path / "a.mp4"), opacity=0.0)
    assert (report.hung, report.closed, report.written, report.error) == (True, True, 3, None)
    assert numbers_in(tmp_path / "a.mp4") == [0, 1, 2]
    release.set()
    # The thread that comes back finds everything closed.
    wait_for(lambda: all(thread.name != "emra-stream-work" for thread in threading.enumerate()))
    assert numbers_in(tmp_path / "a.mp4") == [0, 1, 2]


def test_a_stop_while_the_source_hangs_is_said(tmp_path: Path) -> None:
    script = Script()
    script.push(1)
    script.hang()
    stream = Stream(label_all, script.source)
    report = run_stream(stream, on_result=lambda _: stream.stop())
    assert report.hung
    assert report.status.counters.delivered == 1
    script.release.set()


def test_an_output_that_fails_ends_the_stream_and_leaves_nothing(tmp_path: Path) -> None:
    output = Mp4Sink(tmp_path / "a.mp4")

    def sabotage(_: object) -> None:
        (tmp_path / "a.mp4").write_bytes(b"mine")

    report = run_stream(Stream(label_all, numbers(3)), output, on_result=sabotage)
    assert isinstance(report.error, EmraError)
    assert report.error.code == "output-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_of_the_source_keeps_what_was_written(tmp_path: Path) -> None:
    script = Script(live=False)
    script.push(7)
    script.lose("torn")
    report = run_stream(Stream(label_all, script.source), Mp4Sink(tmp_path / "a.mp4"), opacity=0.0)
    assert isinstance(report.error, EmraError)
    assert report.error.code == "stream-lost"
    assert numbers_in(tmp_path / "a.mp4") == [7]


def test_an_output_that_the_user_closed_ends_the_stream() -> None:
    class Closed:
        written = 0

        def write(self, image: object, time: float) -> bool:
            self.written += 1
            return self.written < 3

        def close(self, patience: float | None = None) -> bool:
            return True

    report = run_stream(Stream(label_all, numbers(100)), Closed())
    assert report.written == 3
    assert report.status.counters.delivered == 3


def test_reports_that_nobody_hears_end_it_with_a_whole_file(tmp_path: Path) -> None:
    def tick() -> None:
        raise BrokenPipeError

    script = Script()
    script.push(7)
    sink = Mp4Sink(tmp_path / "a.mp4")
    report = run_stream(Stream(label_all, script.source), sink, opacity=0.0, on_tick=tick)
    assert isinstance(report.error, BrokenPipeError)
    assert numbers_in(tmp_path / "a.mp4") == [7]


def test_a_large_frame_is_given_up_between_two_tiles(tmp_path: Path) -> None:
    script = Script()

    def segment(source: ImageSource) -> Segmentation:
        stream.stop()
        while True:
            label_all.segment_source(source)
            time.sleep(0.001)

    script.push(1)
    stream = Stream(labelling(segment), script.source, StreamOptions(finish_within=0.05))
    report = run_stream(stream)
    assert report.error is None
    assert report.status.counters.left == 1
