"""The thread that reads a source, and the one that watches it: reconnects, notices stalls, replaces what hangs."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace

from emra_deploy.errors import EmraError
from emra_deploy.stream.backoff import Backoff
from emra_deploy.stream.buffer import TICK, FrameBuffer
from emra_deploy.stream.frames import Grab, SourceLostError
from emra_deploy.stream.lag import LagEstimator
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.source import FrameSource, Opener
from emra_deploy.stream.status import Ledger, StreamState

logger = logging.getLogger(__name__)

HANG_MARGIN = 2.0
"""Seconds beyond its own time-outs after which a native call counts as hung."""

SETTLED = 1.0
"""Seconds of frames after which a connection counts as good. A server that dies with each client is not hurried."""

MAX_HUNG = 8
"""Readers that may hang at once. Each holds a thread and a connection, so a process with more is better restarted."""

CLOSE_WITHIN = 0.3
"""Seconds that `Reader.close` waits for its threads. They are daemons: one that hangs ends with the process."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """A frame in the queue: what `Frame` will be made of.

    Attributes:
        grab: What was read.
        index: As in `Frame`, like the rest.
        time: Seconds.
        captured: Seconds.
        connection: From 1.
    """

    grab: Grab
    index: int
    time: float
    captured: float
    connection: int


class _Turn:
    """One reader thread's right to read. Taken away from a thread that hangs, which may come back much later."""

    def __init__(self) -> None:
        self._over = False
        self.beat = time.monotonic()
        self.thread: threading.Thread | None = None

    def over(self) -> bool:
        """Whether the thread has to leave everything as it is and end."""
        return self._over

    def end(self) -> None:
        """Take the right away, for good."""
        self._over = True


class Reader:
    """Reads a source into a buffer, in threads of its own.

    Args:
        opener: How to connect.
        options: How to read.
        ledger: Where everything is booked.
        buffer: Where frames go.
    """

    def __init__(self, opener: Opener, options: StreamOptions, ledger: Ledger, buffer: FrameBuffer[Waiting]) -> None:
        self._opener = opener
        self._options = options
        self._ledger = ledger
        self._buffer = buffer
        self._closing = False
        self._began: float | None = None
        self._down = False
        self._hung: list[threading.Thread] = []
        self._turn = self._start_turn()
        self._watch = threading.Thread(target=self._watch_loop, name="emra-stream-watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Stop reading. Waits only shortly for threads that are in native calls."""
        self._closing = True
        self._turn.end()
        self._buffer.finish()
        deadline = time.monotonic() + CLOSE_WITHIN
        for thread in (self._turn.thread, self._watch):
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def hanging(self) -> int:
        """Threads that are still in a native call."""
        threads = [*self._hung, self._turn.thread]
        return sum(thread is not None and thread.is_alive() for thread in threads)

    def _start_turn(self) -> _Turn:
        turn = _Turn()
        turn.thread = threading.Thread(target=self._read_loop, args=(turn,), name="emra-stream-read", daemon=True)
        turn.thread.start()
        return turn

    # The reading thread.

    def _read_loop(self, turn: _Turn) -> None:
        backoff = Backoff()
        try:
            while not turn.over():
                reason = self._read_once(turn, backoff)
                if reason is None or turn.over():
                    break
                self._lost(reason)
                self._wait(turn, backoff.next_wait(self._ledger.silence()))
        # Errors of the user's own iterator or function are the user's to see, as they are.
        except BaseException as error:
            if not turn.over():
                self._fail(error)
            return
        if not turn.over():
            self._buffer.finish()

    def _read_once(self, turn: _Turn, backoff: Backoff) -> str | None:
        """Connect and read to the end. Returns why the source was lost, or None when it is over."""
        source: FrameSource | None = None
        connection = self._ledger.counters.connections + 1
        first: float | None = None
        lag = LagEstimator()
        try:
            turn.beat = time.monotonic()
            self._ledger.count(attempts=1)
            source = self._opener.connect()
            while not turn.over():
                turn.beat = time.monotonic()
                grab = source.grab()
                if turn.over():
                    break
                self._ledger.count(bad_packets=source.take_bad_packets())
                if grab is None:
                    # A live source that ends has been cut: cameras do not come to an end.
                    return "the sender ended the stream" if self._opener.restartable else None
                if first is None:
                    first = turn.beat
                    self._ledger.count(connections=1)
                if turn.beat - first > SETTLED:
                    backoff.reset()
                self._accept(grab, turn, connection, lag)
            return None
        except SourceLostError as error:
            if not self._opener.restartable:
                raise EmraError("stream-lost", str(error), "Check the source", self._opener.shown) from error
            return str(error)
        except EmraError as error:
            # What is wrong with a source that has worked may pass: a camera that starts again answers 404 at first.
            if not self._opener.restartable or self._ledger.counters.connections == 0:
                raise
            return error.cause
        finally:
            if source is not None:
                turn.beat = time.monotonic()
                source.close()

    def _accept(self, grab: Grab, turn: _Turn, connection: int, lag: LagEstimator) -> None:
        arrived = time.monotonic()
        live = self._opener.live
        moment = arrived if live or grab.time is None else grab.time
        if self._began is None:
            self._began = moment
        captured = arrived - (lag.delay(arrived, grab.time) if live else 0.0)
        with self._ledger.lock:
            index = self._ledger.frame_came(grab.size)
            if self._down or index == 0:
                self._down = False
                self._enter(StreamState.RUNNING)
            if index % self._options.every:
                self._ledger.count(skipped=1, waiting=-1)
                return
            if grab.damaged:
                self._ledger.count(damaged=1)
                if live:
                    # A mask of a torn picture looks like any other mask.
                    self._ledger.count(dropped=1, waiting=-1)
                    return
        # Live pictures are converted when they are taken: most of those that are dropped never need it.
        ready = grab if live else _converted(grab)
        self._buffer.put(Waiting(ready, index, moment - self._began, captured, connection), turn.over)

    def _wait(self, turn: _Turn, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not turn.over() and (left := end - time.monotonic()) > 0:
            turn.beat = time.monotonic()
            time.sleep(min(TICK, left))

    def _lost(self, reason: str) -> None:
        with self._ledger.lock:
            if self._ledger.counters.connections:
                self._down = True
                self._enter(StreamState.DEGRADED, f"{reason}; reconnecting")
            else:
                self._enter(StreamState.CONNECTING, f"{reason}; trying again")

    def _fail(self, error: BaseException) -> None:
        self._enter(StreamState.FAILED, error.cause if isinstance(error, EmraError) else type(error).__name__)
        self._buffer.finish(error)

    def _enter(self, state: StreamState, reason: str = "") -> None:
        if self._ledger.enter(state, reason):
            logger.info("%s: %s%s", self._opener.shown, state.value, f" ({reason})" if reason else "")

    # The watching thread.

    def _watch_loop(self) -> None:
        while not self._closing and self._ledger.state not in (StreamState.FAILED, StreamState.ENDED):
            time.sleep(TICK)
            if self._opener.live and not self._turn.over():
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
            self._turn.end()
            last = self._ledger.reason or "no frames"
            self._fail(
                EmraError(
                    "stream-lost",
                    f"no frame for {options.give_up_after:g} s ({last})",
                    "Check the source and the network",
                    self._opener.shown,
                )
            )
            return
        patience = max(2 * options.open_timeout, options.read_timeout) + HANG_MARGIN
        if self._opener.restartable and time.monotonic() - self._turn.beat > patience:
            self._replace()

    def _replace(self) -> None:
        """Leave a thread that hangs to itself, and read on in a new one."""
        self._turn.end()
        assert self._turn.thread is not None
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        self._hung.append(self._turn.thread)
        self._ledger.count(hung=1)
        if len(self._hung) > MAX_HUNG:
            self._fail(
                EmraError(
                    "stream-hung",
                    f"{len(self._hung)} readers hang in calls of the source's library",
                    "Restart this process; if it happens again, check the camera's driver",
                    self._opener.shown,
                )
            )
            return
        self._lost("the reader hung")
        self._turn = self._start_turn()


def _converted(grab: Grab) -> Grab:
    picture = grab.picture()
    return replace(grab, picture=lambda: picture)
