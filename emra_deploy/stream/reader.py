"""The thread that reads a source, the thread that watches it, and the queue they fill."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from emra_deploy.errors import EmraError
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.source import Connection, Frame, Source, SourceLostError
from emra_deploy.stream.status import Ledger, StreamState
from emra_deploy.stream.timing import TICK, Backoff, LagEstimator

logger = logging.getLogger(__name__)

RECORDED_DEPTH = 2
"""Frames of a recording that are decoded ahead."""

HANG_MARGIN = 2.0
"""Seconds beyond the library's own time limits after which a native call counts as hung."""

SETTLED = 1.0
"""Seconds of frames after which a connection counts as good. A server that dies with each client is not hurried."""

MAX_HUNG = 8
"""Readers that may hang at once. Each holds a thread and a connection; a process with more should be restarted."""

CLOSE_WITHIN = 0.3
"""Seconds that `Reader.close` waits for its threads. They are daemons: one that hangs ends with the process."""


class FrameQueue:
    """A bounded queue between one reader at a time and one taker.

    The queue of a live source holds one frame, and a newer one replaces it: with the frame being segmented, two are
    held. The queue of a recording makes its reader wait instead.

    Args:
        ledger: Counts replaced frames as dropped.
        live: Whether the newest frame replaces the waiting one.
    """

    def __init__(self, ledger: Ledger, *, live: bool) -> None:
        self._ledger = ledger
        self._live = live
        self._depth = 1 if live else RECORDED_DEPTH
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition(ledger.lock)
        self._finished = False
        self._error: BaseException | None = None

    def put(self, frame: Frame, stopped: Callable[[], bool]) -> None:
        """Add a frame; wait for room if the source is a recording.

        Args:
            frame: What to add.
            stopped: Asked while waiting; True ends the wait, and the frame is counted as left.
        """
        with self._changed:
            if self._live and len(self._frames) == self._depth:
                self._frames.popleft()
                self._ledger.count(dropped=1, waiting=-1)
            while len(self._frames) == self._depth and not stopped():
                self._changed.wait(TICK)
            if stopped():
                self._ledger.count(left=1, waiting=-1)
                return
            self._frames.append(frame)
            self._changed.notify_all()

    def take(self) -> Frame | None:
        """The oldest frame; None if none arrived for a moment.

        Raises:
            StopIteration: When the reader has finished and the queue is empty.
            BaseException: The reader's error, once the queue is empty.
        """
        with self._changed:
            if not self._frames and not self._finished:
                self._changed.wait(TICK)
            if self._frames:
                self._changed.notify_all()
                return self._frames.popleft()
            if not self._finished:
                return None
            raise StopIteration if self._error is None else self._error

    def finish(self, error: BaseException | None = None) -> None:
        """Announce that no more frames will come. The first call counts."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
            self._changed.notify_all()

    def clear(self) -> None:
        """Discard the waiting frames; they are counted as left."""
        with self._changed:
            self._ledger.count(left=len(self._frames), waiting=-len(self._frames))
            self._frames.clear()
            self._changed.notify_all()


class _Lease:
    """One thread's permission to read. It is revoked from a thread that hangs, which may return much later.

    Attributes:
        revoked: Set once the thread must end without touching anything.
        beat: When the thread entered the current call or ends its current wait, ``time.monotonic()``.
        thread: The thread.
    """

    def __init__(self, read: Callable[[_Lease], None]) -> None:
        self.revoked = threading.Event()
        self.beat = time.monotonic()
        self.thread = threading.Thread(target=read, args=(self,), name="emra-stream-read", daemon=True)
        self.thread.start()


class Reader:
    """Reads a source into a queue, in threads of its own: reconnects, notices stalls, replaces threads that hang.

    Args:
        source: What to read.
        options: How to read it.
        ledger: Keeps state and counters.
        queue: Receives the frames.
    """

    def __init__(self, source: Source, options: StreamOptions, ledger: Ledger, queue: FrameQueue) -> None:
        self._source = source
        self._options = options
        self._ledger = ledger
        self._queue = queue
        self._closing = threading.Event()
        self._began: float | None = None
        self._down = False
        self._hung: list[threading.Thread] = []
        self._lease = _Lease(self._read_loop)
        self._watch = threading.Thread(target=self._watch_loop, name="emra-stream-watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Stop reading. Waits at most `CLOSE_WITHIN` for threads that are in native calls."""
        self._closing.set()
        self._lease.revoked.set()
        self._queue.finish()
        deadline = time.monotonic() + CLOSE_WITHIN
        for thread in (self._lease.thread, self._watch):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def hanging(self) -> int:
        """Reader threads that are still alive."""
        return sum(thread.is_alive() for thread in (*self._hung, self._lease.thread))

    # The reading thread.

    def _read_loop(self, lease: _Lease) -> None:
        backoff = Backoff()
        try:
            while not lease.revoked.is_set():
                reason = self._read_connection(lease, backoff)
                if reason is None or lease.revoked.is_set():
                    break
                self._lost(reason)
                wait = backoff.next_wait(self._ledger.silence())
                lease.beat = time.monotonic() + wait
                lease.revoked.wait(wait)
        # Errors of the caller's own iterator or function reach the caller unchanged.
        except BaseException as error:
            if not lease.revoked.is_set():
                self._fail(error)
            return
        if not lease.revoked.is_set():
            self._queue.finish()

    def _read_connection(self, lease: _Lease, backoff: Backoff) -> str | None:
        """Connect and read to the end. Returns why the source was lost, or None if it is over."""
        connection: Connection | None = None
        number = self._ledger.counters.connections + 1
        first: float | None = None
        bad_packets = 0
        lag = LagEstimator()
        try:
            lease.beat = time.monotonic()
            self._ledger.count(attempts=1)
            connection = self._source.connect()
            while not lease.revoked.is_set():
                lease.beat = time.monotonic()
                frame = connection.read()
                if lease.revoked.is_set():
                    break
                self._ledger.count(bad_packets=connection.bad_packets - bad_packets)
                bad_packets = connection.bad_packets
                if frame is None:
                    # Cameras do not end: a live source that does was cut off.
                    return "the sender ended the stream" if self._source.restartable else None
                if first is None:
                    first = lease.beat
                    self._ledger.count(connections=1)
                if lease.beat - first > SETTLED:
                    backoff.reset()
                self._accept(frame, lease, number, lag)
            return None
        except SourceLostError as error:
            if not self._source.restartable:
                raise EmraError("stream-lost", str(error), "Check the source", self._source.shown) from error
            return str(error)
        except EmraError as error:
            # An error of a source that has worked may pass: a camera that restarts answers 404 at first.
            if not self._source.restartable or self._ledger.counters.connections == 0:
                raise
            return error.cause
        finally:
            if connection is not None:
                lease.beat = time.monotonic()
                connection.close()

    def _accept(self, frame: Frame, lease: _Lease, connection: int, lag: LagEstimator) -> None:
        arrived = time.monotonic()
        live = self._source.live
        with self._ledger.lock:
            index = self._ledger.frame_arrived(frame.size)
            if self._options.fps is not None:
                moment = index / self._options.fps
            else:
                moment = arrived if live or frame.stamp is None else frame.stamp
            if self._began is None:
                self._began = moment
            if self._down or index == 0:
                self._down = False
                self._enter(StreamState.RUNNING)
            captured = arrived - (lag.delay(arrived, frame.stamp) if live else 0.0)
            if index % self._options.every:
                self._ledger.count(skipped=1, waiting=-1)
                return
            if frame.damaged:
                self._ledger.count(damaged=1)
                if live:
                    # The mask of a damaged image looks like any other mask.
                    self._ledger.count(dropped=1, waiting=-1)
                    return
        frame = replace(frame, index=index, time=moment - self._began, captured=captured, connection=connection)
        # Live frames are converted when they are taken, because most of those that are dropped never need it.
        self._queue.put(frame if live else frame.converted(), lease.revoked.is_set)

    def _lost(self, reason: str) -> None:
        with self._ledger.lock:
            if self._ledger.counters.connections:
                self._down = True
                self._enter(StreamState.DEGRADED, f"{reason}; reconnecting")
            else:
                self._enter(StreamState.CONNECTING, f"{reason}; trying again")

    def _fail(self, error: BaseException) -> None:
        self._enter(StreamState.FAILED, error.cause if isinstance(error, EmraError) else type(error).__name__)
        self._queue.finish(error)

    def _enter(self, state: StreamState, reason: str = "") -> None:
        if self._ledger.enter(state, reason):
            logger.info("%s: %s%s", self._source.shown, state.value, f" ({reason})" if reason else "")

    # The watching thread.

    def _watch_loop(self) -> None:
        while not self._closing.wait(TICK) and self._ledger.state not in (StreamState.FAILED, StreamState.ENDED):
            if self._source.live and not self._lease.revoked.is_set():
                self._look()

    def _look(self) -> None:
        options, ledger = self._options, self._ledger
        with ledger.lock:
            silence = ledger.silence()
            if ledger.counters.connections and not self._down and silence > options.stall_after:
                self._down = True
                ledger.count(stalls=1)
                self._enter(StreamState.DEGRADED, f"no frame for more than {options.stall_after:g} s")
        if options.give_up_after is not None and silence > options.give_up_after:
            self._lease.revoked.set()
            cause = f"no frame for {options.give_up_after:g} s ({ledger.reason or 'no frames'})"
            remedy = "Check the source and the network"
            self._fail(EmraError("stream-lost", cause, remedy, self._source.shown))
        # Opening has two time limits: one to connect, one for the first packets.
        elif self._source.restartable and time.monotonic() - self._lease.beat > 2 * options.timeout + HANG_MARGIN:
            self._replace()

    def _replace(self) -> None:
        """Abandon a thread that hangs, and read on in a new one."""
        self._lease.revoked.set()
        self._hung = [*(thread for thread in self._hung if thread.is_alive()), self._lease.thread]
        self._ledger.count(hung=1)
        if len(self._hung) > MAX_HUNG:
            cause = f"{len(self._hung)} readers hang in calls of the source's library"
            remedy = "Restart this process; if it happens again, check the camera's driver"
            self._fail(EmraError("stream-hung", cause, remedy, self._source.shown))
            return
        self._lost("the reader hung")
        self._lease = _Lease(self._read_loop)
