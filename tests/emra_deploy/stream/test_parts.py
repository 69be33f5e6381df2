"""The small parts: options, waits, delays, books and the queue."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.streams.follow import reconciles
from emra_deploy.errors import EmraError
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.reader import RECORDED_DEPTH, FrameQueue
from emra_deploy.stream.source import Frame
from emra_deploy.stream.status import Ledger, StreamState
from emra_deploy.stream.timing import CAP, FIRST, OUTAGE_SHARE, SHORT_OUTAGE_CAP, Backoff, LagEstimator


def numbered_frame(number: int) -> Frame:
    return Frame(np.zeros((1, 1, 3), np.uint8), (1, 1), index=number)


def index(frame: Frame | None) -> int | None:
    return None if frame is None else frame.index


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every", 0),
        ("max_age", 0.0),
        ("max_age", float("nan")),
        ("stall_after", -1.0),
        ("timeout", float("inf")),
        ("timeout", 0.0),
        ("give_up_after", -0.1),
        ("finish_within", -1.0),
        ("rtsp_transport", "pigeon"),
        ("input_options", ("novalue",)),
        ("input_options", ("=value",)),
    ],
)
def test_options_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(EmraError, match=name) as caught:
        StreamOptions(**{name: value})
    assert caught.value.code == "stream-option"


@given(st.integers(0, 2**32), st.floats(0, 1e6))
def test_waits_double_with_jitter_within_their_bounds(seed: int, outage: float) -> None:
    backoff = Backoff(random.Random(seed))
    cap = min(CAP, max(SHORT_OUTAGE_CAP, outage / OUTAGE_SHARE))
    for tries in range(40):
        wait = backoff.next_wait(outage)
        full = min(cap, FIRST * 2**tries)
        assert full / 2 <= wait <= full
    backoff.reset()
    assert backoff.next_wait(outage) <= FIRST


def test_waits_of_two_receivers_differ() -> None:
    first, second = Backoff(random.Random(1)), Backoff(random.Random(2))
    assert [first.next_wait(1) for _ in range(5)] != [second.next_wait(1) for _ in range(5)]


def test_a_night_of_tries_does_not_overflow() -> None:
    backoff = Backoff()
    assert all(backoff.next_wait(1e5) <= CAP for _ in range(5000))


def test_packets_that_waited_are_late_although_they_were_read_just_now() -> None:
    lag = LagEstimator()
    assert [lag.delay(100 + stamp, stamp) for stamp in (0.0, 0.1, 0.2)] == [0.0] * 3
    assert lag.delay(102.3, 0.3) == pytest.approx(2.0, abs=0.05)
    assert lag.delay(102.35, 0.4) == pytest.approx(1.95, abs=0.05)
    assert lag.delay(100.5, 0.5) == pytest.approx(0.0, abs=0.05)


@given(st.floats(-300e-6, 300e-6), st.floats(0.01, 2.0))
def test_clocks_that_drift_apart_show_no_delay(drift: float, step: float) -> None:
    lag = LagEstimator()
    delays = [lag.delay(7 + frame * step * (1 + drift), frame * step) for frame in range(2000)]
    assert max(delays) < 1e-6


@pytest.mark.parametrize("jump", [-50.0, 60.0, -0.5])
def test_a_new_clock_of_the_source_is_no_delay(jump: float) -> None:
    lag = LagEstimator()
    for frame in range(10):
        lag.delay(10 + frame, frame)
    assert lag.delay(20, 10 + jump - 1) == pytest.approx(0, abs=0.11)


def test_without_timestamps_nothing_is_known_to_be_late() -> None:
    assert LagEstimator().delay(5.0, None) == 0


def test_a_finished_stream_stays_finished() -> None:
    ledger = Ledger()
    assert ledger.enter(StreamState.RUNNING)
    assert not ledger.enter(StreamState.RUNNING)
    assert ledger.enter(StreamState.FAILED, "gone")
    assert not ledger.enter(StreamState.RUNNING)
    assert [(change.state.value, change.reason) for change in ledger.changes()] == [
        ("connecting", ""),
        ("running", ""),
        ("failed", "gone"),
    ]
    assert [change.number for change in ledger.changes(since=1)] == [1, 2]


def test_changes_are_remembered_in_bounded_number() -> None:
    ledger = Ledger()
    for number in range(1000):
        ledger.enter(StreamState.DEGRADED, str(number))
    assert len(ledger.changes()) == 256
    assert ledger.changes()[-1].number == 1000


def test_a_live_queue_keeps_the_newest_and_books_the_rest() -> None:
    ledger = Ledger()
    queue = FrameQueue(ledger, live=True)
    for number in range(10):
        ledger.frame_arrived((1, 1))
        queue.put(numbered_frame(number), lambda: False)
    assert index(queue.take()) == 9
    assert ledger.counters.dropped == 9
    assert ledger.counters.waiting == 1
    assert reconciles(ledger.counters)
    assert queue.take() is None


def test_a_recorded_queue_makes_the_reader_wait_and_loses_nothing() -> None:
    ledger = Ledger()
    queue = FrameQueue(ledger, live=False)
    most = 0

    def read() -> None:
        for number in range(200):
            ledger.frame_arrived((1, 1))
            queue.put(numbered_frame(number), lambda: False)
        queue.finish()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    taken = []
    while True:
        try:
            item = queue.take()
        except StopIteration:
            break
        if item is not None:
            taken.append(item.index)
            ledger.count(delivered=1, waiting=-1)
            most = max(most, ledger.counters.waiting)
            assert reconciles(ledger.snapshot().counters)
    assert taken == list(range(200))
    # Those in the queue, and one in the hand of the reader.
    assert most <= RECORDED_DEPTH + 1


def test_a_reader_that_waits_for_room_can_be_called_off() -> None:
    ledger = Ledger()
    queue = FrameQueue(ledger, live=False)
    stopped = threading.Event()

    def read() -> None:
        for number in range(RECORDED_DEPTH + 1):
            ledger.frame_arrived((1, 1))
            queue.put(numbered_frame(number), stopped.is_set)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    stopped.set()
    thread.join(20)
    assert not thread.is_alive()
    assert ledger.counters.left == 1
    queue.clear()
    assert ledger.counters.left == RECORDED_DEPTH + 1
    assert reconciles(ledger.counters)


def test_the_error_comes_after_what_was_read_before_it() -> None:
    queue = FrameQueue(Ledger(), live=False)
    queue.put(numbered_frame(1), lambda: False)
    queue.finish(KeyError("broken"))
    queue.finish(None)
    assert index(queue.take()) == 1
    for _ in range(2):
        with pytest.raises(KeyError, match="broken"):
            queue.take()
