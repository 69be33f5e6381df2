"""Streams from end to end, with a scripted source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.streams.follow import reconciles
from emra_deploy.errors import EmraError
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.segmenting.segmentation import Segmentation
from emra_deploy.stream import Stream, StreamOptions, StreamState, reader
from emra_deploy.stream.run import LATE
from tests.emra_deploy.stream.fakes import Script, label_all, labelling, wait_for
from tests.emra_deploy.stream.videos import number_of
from tests.onnx_models import CLASSES

pytestmark = pytest.mark.usefixtures("hurry")


def states(stream: Stream) -> list[str]:
    return [change.state.value for change in stream.changes()]


def test_the_newest_frame_wins() -> None:
    script = Script()
    with Stream(label_all, script.source) as stream:
        for number in range(30):
            script.push(number)
        wait_for(lambda: stream.status().counters.received == 30)
        assert stream.status().counters.waiting == 1
        result = next(stream)
        assert (result.frame.index, number_of(result.image)) == (29, 29)
        assert stream.status().counters.dropped == 29
        script.push(30)
        assert number_of(next(stream).image) == 30
    assert reconciles(stream.status().counters)
    assert stream.status().counters.left == 0


def test_a_recording_gives_every_frame_in_order_and_ends() -> None:
    script = Script(live=False)
    for number in range(100):
        script.push(number, stamp=5 + number / 10)
    script.end()
    with Stream(label_all, script.source) as stream:
        results = list(stream)
    assert [number_of(result.image) for result in results] == list(range(100))
    assert [result.frame.time for result in results] == pytest.approx([number / 10 for number in range(100)])
    status = stream.status()
    assert (status.state, status.counters.delivered, status.counters.dropped) == (StreamState.ENDED, 100, 0)
    assert states(stream) == ["connecting", "running", "ended"]
    assert script.closes == 1


def test_one_frame_in_n_is_segmented() -> None:
    script = Script(live=False)
    for number in range(10):
        script.push(number)
    script.end()
    with Stream(label_all, script.source, StreamOptions(every=4)) as stream:
        assert [result.frame.index for result in stream] == [0, 4, 8]
    assert stream.status().counters.skipped == 7
    assert reconciles(stream.status().counters)


def test_a_slow_consumer_holds_two_frames_and_every_frame_is_accounted_for() -> None:
    script = Script()
    seen = []

    def slow(source: ImageSource) -> Segmentation:
        # Ten more frames come while this one is at work.
        before = stream.status().counters.received
        for number in range(10):
            script.push(number)
        wait_for(lambda: stream.status().counters.received == before + 10)
        counters = stream.status().counters
        seen.append(counters.waiting)
        assert reconciles(counters)
        return label_all.segment_source(source)

    with Stream(labelling(slow), script.source) as stream:
        script.push(0)
        for _ in range(20):
            next(stream)
    counters = stream.status().counters
    assert set(seen) == {2}
    assert (counters.received, counters.delivered, counters.dropped, counters.left) == (201, 20, 180, 1)


def test_results_older_than_the_limit_are_not_delivered_and_the_state_says_so() -> None:
    script, slow = Script(), True

    def segment(source: ImageSource) -> Segmentation:
        if slow:
            time.sleep(0.06)
            script.push(1)
        return label_all.segment_source(source)

    with Stream(labelling(segment), script.source, StreamOptions(max_age=0.05)) as stream:
        got = []
        thread = threading.Thread(target=lambda: got.append(next(stream)), daemon=True)
        thread.start()
        script.push(0)
        wait_for(lambda: stream.status().reason == LATE)
        assert stream.status().state is StreamState.DEGRADED
        assert not got
        slow = False
        wait_for(lambda: bool(got) or not script.push(2))
        thread.join(20)
        assert stream.status().state is StreamState.RUNNING
    assert got[0].age <= 0.05
    counters = stream.status().counters
    assert counters.expired >= 5
    assert counters.delivered == 1
    assert reconciles(counters)


def test_a_frame_that_grew_old_in_the_queue_is_not_even_segmented() -> None:
    script, runs = Script(), []

    def segment(source: ImageSource) -> Segmentation:
        runs.append(1)
        return label_all.segment_source(source)

    with Stream(labelling(segment), script.source, StreamOptions(max_age=0.05)) as stream:
        script.push(0)
        wait_for(lambda: stream.status().counters.waiting == 1)
        time.sleep(0.06)
        script.say(None)
        stream_thread = threading.Thread(target=lambda: next(stream, None), daemon=True)
        stream_thread.start()
        wait_for(lambda: stream.status().counters.expired == 1)
    assert not runs


def test_a_change_of_size_is_survived_counted_and_flagged() -> None:
    script = Script(live=False)
    for number, size in enumerate([(48, 64), (48, 64), (40, 80), (40, 80), (48, 64)]):
        script.push(number, size)
    script.end()
    with Stream(label_all, script.source) as stream:
        results = list(stream)
    assert [result.frame.resized for result in results] == [False, False, True, False, True]
    assert [result.labels.shape for result in results] == [(48, 64)] * 2 + [(40, 80)] * 2 + [(48, 64)]
    assert stream.status().counters.resizes == 2


def test_torn_pictures_of_a_live_source_are_dropped() -> None:
    script = Script()
    with Stream(label_all, script.source) as stream:
        script.push(1, damaged=True)
        script.push(2)
        assert number_of(next(stream).image) == 2
    counters = stream.status().counters
    assert (counters.damaged, counters.dropped) == (1, 1)
    assert reconciles(counters)


def test_torn_pictures_of_a_recording_are_delivered_and_flagged() -> None:
    script = Script(live=False)
    script.push(1, damaged=True)
    script.end()
    with Stream(label_all, script.source) as stream:
        assert [result.frame.damaged for result in stream] == [True]


def test_a_lost_source_is_found_again() -> None:
    script = Script()
    with Stream(label_all, script.source) as stream:
        script.push(1)
        assert next(stream).frame.connection == 1
        script.lose("cable cut")
        script.push(2)
        result = next(stream)
        assert (number_of(result.image), result.frame.connection, result.frame.index) == (2, 2, 1)
        # A camera that ends its stream is lost as well.
        script.end()
        script.push(3)
        assert next(stream).frame.connection == 3
    assert states(stream) == ["connecting", "running", "degraded", "running", "degraded", "running", "ended"]
    assert [change.reason for change in stream.changes() if change.reason] == [
        "cable cut; reconnecting",
        "the sender ended the stream; reconnecting",
    ]
    assert script.closes >= 2
    assert stream.status().counters.connections == 3


@pytest.mark.parametrize(("settled", "resets"), [(0.0, True), (1e9, False)])
def test_only_a_connection_that_lasted_makes_the_next_wait_short(
    monkeypatch: pytest.MonkeyPatch, settled: float, resets: bool
) -> None:
    monkeypatch.setattr(reader, "SETTLED", settled)
    waits: list[float] = []
    tries: list[int] = []
    monkeypatch.setattr(reader.Backoff, "reset", lambda self: tries.append(len(waits)))
    monkeypatch.setattr(reader.Backoff, "next_wait", lambda self, outage: waits.append(outage) or 0.0)
    script = Script()
    with Stream(label_all, script.source) as stream:
        for number in range(3):
            script.push(number)
            next(stream)
            time.sleep(0.002)
            script.push(number)
            next(stream)
            script.lose()
        wait_for(lambda: len(waits) == 3)
    assert bool(tries) is resets


def test_until_the_first_frame_it_is_connecting() -> None:
    script = Script()
    script.lose("connection refused")
    script.lose("connection refused")
    with Stream(label_all, script.source) as stream:
        script.push(1)
        next(stream)
    assert states(stream) == ["connecting", "connecting", "running", "ended"]
    assert stream.status().counters.attempts == 3


def test_what_will_not_help_to_try_again_fails_at_once() -> None:
    script = Script()
    script.refuse = EmraError("stream-not-found", "no such stream", "Check the path", "rtsp://x")
    with Stream(label_all, script.source) as stream, pytest.raises(EmraError, match="no such stream"):
        next(stream)
    assert stream.status().state is StreamState.FAILED
    assert stream.status().reason == "no such stream"
    assert script.connects == 1


def test_a_source_that_has_worked_is_tried_again_whatever_it_says() -> None:
    script = Script()
    with Stream(label_all, script.source) as stream:
        script.push(1)
        next(stream)
        script.refuse = EmraError("stream-not-found", "no such stream", "Check the path", "rtsp://x")
        script.lose()
        wait_for(lambda: script.connects >= 3)
        script.refuse = None
        script.push(2)
        assert number_of(next(stream).image) == 2


def test_after_the_time_to_give_up_it_fails() -> None:
    script = Script()
    with Stream(label_all, script.source, StreamOptions(give_up_after=0.2, stall_after=0.1)) as stream:
        script.push(1)
        next(stream)
        with pytest.raises(EmraError, match=r"no frame for 0\.2 s") as caught:
            next(stream)
        assert caught.value.code == "stream-lost"
    assert states(stream)[-1] == "failed"


def test_a_stall_is_noticed_while_the_consumer_waits_and_mended_by_the_next_frame() -> None:
    script = Script()
    with Stream(label_all, script.source, StreamOptions(stall_after=0.1)) as stream:
        script.push(1)
        next(stream)
        wait_for(lambda: stream.status().state is StreamState.DEGRADED)
        assert stream.status().reason == "no frame for more than 0.1 s"
        age = stream.status().frame_age
        assert age is not None
        assert age > 0.1
        script.push(2)
        next(stream)
        assert stream.status().state is StreamState.RUNNING
    assert stream.status().counters.stalls == 1
    assert stream.status().counters.connections == 1


def test_a_reader_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "HANG_MARGIN", 0.0)
    script = Script()
    options = StreamOptions(stall_after=0.05, timeout=0.05)
    with Stream(label_all, script.source, options) as stream:
        script.push(1)
        next(stream)
        script.hang()
        wait_for(lambda: script.connects == 2, "a second reader")
        script.push(2)
        assert number_of(next(stream).image) == 2
        assert stream.status().counters.hung == 1
        # The one that hung comes back: it must not disturb its successor.
        script.release.set()
        script.push(3)
        assert number_of(next(stream).image) == 3
    assert reconciles(stream.status().counters)


def test_a_source_that_always_hangs_fails_before_it_eats_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "HANG_MARGIN", 0.0)
    monkeypatch.setattr(reader, "MAX_HUNG", 2)
    script = Script()
    for _ in range(5):
        script.hang()
    options = StreamOptions(timeout=0.015)
    with Stream(label_all, script.source, options) as stream:
        with pytest.raises(EmraError, match="readers hang") as caught:
            next(stream)
        assert caught.value.code == "stream-hung"
        assert script.connects == 3
    script.release.set()


def test_stop_ends_it_although_the_source_hangs() -> None:
    script = Script()
    stream = Stream(label_all, script.source)
    script.push(1)
    next(stream)
    script.hang()
    wait_for(lambda: not script.items)
    stream.stop()
    assert next(stream, None) is None
    assert stream.hanging == 1
    assert stream.status().state is StreamState.ENDED
    script.release.set()
    wait_for(lambda: stream.hanging == 0)


def test_stop_lets_the_frame_at_work_finish() -> None:
    script = Script()

    def segment(source: ImageSource) -> Segmentation:
        stream.stop()
        return label_all.segment_source(source)

    stream = Stream(labelling(segment), script.source)
    script.push(5)
    assert number_of(next(stream).image) == 5
    assert next(stream, None) is None


@pytest.mark.parametrize("end", [Stream.stop, Stream.close])
def test_a_frame_that_takes_too_long_after_the_end_is_left(end: Callable[[Stream], None]) -> None:
    script = Script()

    def segment(source: ImageSource) -> Segmentation:
        end(stream)
        while True:  # As many tiles as there are, until the source says that it is enough.
            label_all.segment_source(source)

    stream = Stream(labelling(segment), script.source, StreamOptions(finish_within=0.05))
    script.push(5)
    assert next(stream, None) is None
    counters = stream.status().counters
    assert (counters.left, counters.waiting) == (1, 0)
    assert reconciles(counters)


def test_an_error_of_the_model_is_passed_on() -> None:
    script = Script()

    def segment(source: ImageSource) -> Segmentation:
        raise EmraError("class-count", "label 9", "Export again")

    with Stream(labelling(segment), script.source) as stream:
        script.push(1)
        with pytest.raises(EmraError, match="label 9"):
            next(stream)
    assert stream.status().state is StreamState.FAILED
    assert reconciles(stream.status().counters)


def test_no_thread_stays_behind() -> None:
    before = set(threading.enumerate())
    for live in (True, False):
        script = Script(live=live)
        with Stream(label_all, script.source) as stream:
            script.push(1)
            next(stream)
            if not live:
                script.push(2)
            script.end()
    wait_for(lambda: set(threading.enumerate()) <= before)


def test_results_say_what_json_needs() -> None:
    script = Script(live=False)
    script.push(1, stamp=2.0)
    script.end()
    with Stream(label_all, script.source) as stream:
        result = next(stream)
    content = result.to_dict()
    assert (content["index"], content["time"], content["height"], content["width"]) == (0, 0.0, 48, 64)
    assert content["areas"][CLASSES.names[0]] == {"pixels": 48 * 64, "fraction": 1.0}
    assert result.overlay(1.0).shape == (48, 64, 3)
    np.testing.assert_array_equal(result.overlay(1.0)[0, 0], CLASSES.palette[0])
    assert stream.status().to_dict()["state"] == "ended"
