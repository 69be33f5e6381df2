"""A stream run to its outputs: it ends in time, and leaves whole files, whatever hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.segmenting.segmentation import Segmentation
from emra_deploy.stream import Stream, StreamOptions, reader, service
from emra_deploy.stream.mp4 import Mp4Output
from emra_deploy.stream.service import StreamService
from tests.emra_deploy.stream.fakes import Script, label_all, labelling, numbers, wait_for
from tests.emra_deploy.stream.videos import number_of

av = pytest.importorskip("av")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CLOSE_WITHIN", 0.02)


def frames(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_it_runs_to_the_end(tmp_path: Path) -> None:
    seen, ticks = [], []
    stream = Stream(label_all, numbers(20))
    output = Mp4Output(tmp_path / "a.mp4")
    running = StreamService(stream, output, opacity=0.0, on_result=lambda result: seen.append(result.frame.index))
    outcome = running.run(lambda: ticks.append(1))
    assert (outcome.error, outcome.hung, outcome.closed, outcome.written) == (None, False, True, 20)
    assert seen == list(range(20))
    assert ticks
    assert frames(tmp_path / "a.mp4") == list(range(20))


def test_it_stops_after_the_wanted_number() -> None:
    outcome = StreamService(Stream(label_all, numbers(20)), limit=5).run()
    assert outcome.status.counters.delivered == 5
    assert outcome.status.counters.waiting == 0


def test_a_stop_while_the_model_hangs_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame at work is lost, what was written before it is not."""
    monkeypatch.setattr(service, "HUNG_AFTER", 0.1)
    script, release = Script(live=False), threading.Event()
    runs = []

    def segment(source: ImageSource) -> Segmentation:
        runs.append(1)
        if len(runs) == 4:
            running.stop()
            release.wait(20)
        return label_all.segment_source(source)

    for number in range(10):
        script.push(number)
    running = StreamService(Stream(labelling(segment), script.opener), Mp4Output(tmp_path / "a.mp4"), opacity=0.0)
    outcome = running.run()
    assert (outcome.hung, outcome.closed, outcome.written, outcome.error) == (True, True, 3, None)
    assert frames(tmp_path / "a.mp4") == [0, 1, 2]
    release.set()
    # The thread that comes back finds everything closed.
    wait_for(lambda: all(thread.name != "emra-stream-work" for thread in threading.enumerate()))
    assert frames(tmp_path / "a.mp4") == [0, 1, 2]


def test_a_stop_while_the_source_hangs_is_said(tmp_path: Path) -> None:
    script = Script()
    script.push(1)
    script.hang()
    running = StreamService(Stream(label_all, script.opener), on_result=lambda _: running.stop())
    outcome = running.run()
    assert outcome.hung
    assert outcome.status.counters.delivered == 1
    script.release.set()


def test_an_output_that_fails_ends_the_stream_and_leaves_nothing(tmp_path: Path) -> None:
    output = Mp4Output(tmp_path / "a.mp4")

    def sabotage(_: object) -> None:
        (tmp_path / "a.mp4").write_bytes(b"mine")

    outcome = StreamService(Stream(label_all, numbers(3)), output, on_result=sabotage).run()
    assert isinstance(outcome.error, EmraError)
    assert outcome.error.code == "output-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_of_the_source_keeps_what_was_written(tmp_path: Path) -> None:
    script = Script(live=False)
    script.push(7)
    script.lose("torn")
    outcome = StreamService(Stream(label_all, script.opener), Mp4Output(tmp_path / "a.mp4"), opacity=0.0).run()
    assert isinstance(outcome.error, EmraError)
    assert outcome.error.code == "stream-lost"
    assert frames(tmp_path / "a.mp4") == [7]


def test_an_output_that_the_user_closed_ends_the_stream() -> None:
    class Closed:
        written = 0

        def write(self, image: object, time: float) -> bool:
            self.written += 1
            return self.written < 3

        def close(self, patience: float | None = None) -> bool:
            return True

    outcome = StreamService(Stream(label_all, numbers(100)), Closed()).run()
    assert outcome.written == 3
    assert outcome.status.counters.delivered == 3


def test_reports_that_nobody_hears_end_it_with_a_whole_file(tmp_path: Path) -> None:
    def tick() -> None:
        raise BrokenPipeError

    script = Script()
    script.push(7)
    running = StreamService(Stream(label_all, script.opener), Mp4Output(tmp_path / "a.mp4"), opacity=0.0)
    outcome = running.run(tick)
    assert isinstance(outcome.error, BrokenPipeError)
    assert frames(tmp_path / "a.mp4") == [7]


def test_a_large_frame_is_given_up_between_two_tiles(tmp_path: Path) -> None:
    script = Script()

    def segment(source: ImageSource) -> Segmentation:
        running.stop()
        while True:
            label_all.segment_source(source)
            time.sleep(0.001)

    script.push(1)
    running = StreamService(Stream(labelling(segment), script.opener, StreamOptions(finish_within=0.05)))
    outcome = running.run()
    assert outcome.error is None
    assert outcome.status.counters.left == 1
