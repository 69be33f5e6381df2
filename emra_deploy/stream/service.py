"""Runs a stream to its outputs in a thread, so that a signal ends it in time whatever hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from emra_deploy.stream.buffer import TICK
from emra_deploy.stream.outputs import OverlayOutput
from emra_deploy.stream.run import Stream, StreamResult
from emra_deploy.stream.status import StreamStatus

logger = logging.getLogger(__name__)

HUNG_AFTER = 1.2
"""Seconds after `Stream.stop` at which the working thread counts as hung; more than ``StreamOptions.finish_within``."""

CLOSE_PATIENCE = 0.2
"""Seconds to wait for an output that a hung thread may hold."""


@dataclass(frozen=True)
class Outcome:
    """How a stream went.

    Attributes:
        status: Its last state and counters.
        written: Overlay pictures written.
        error: What ended it, or None.
        hung: Whether a thread did not come back: the process should end by ``os._exit``, because the libraries'
            own clean-up at exit could wait for it.
        closed: Whether the output is whole.
    """

    status: StreamStatus
    written: int
    error: BaseException | None
    hung: bool
    closed: bool


class StreamService:
    """Runs a stream: results to a function, overlays to an output.

    Args:
        stream: What to run. It is closed at the end.
        output: Where overlays go, or None. It is closed at the end.
        opacity: Of the overlay's colours, 0 to 1.
        on_result: Called with each result, in the working thread.
        limit: Results after which to stop; None for all.
    """

    def __init__(
        self,
        stream: Stream,
        output: OverlayOutput | None = None,
        *,
        opacity: float = 0.5,
        on_result: Callable[[StreamResult], None] | None = None,
        limit: int | None = None,
    ) -> None:
        self._stream = stream
        self._output = output
        self._opacity = opacity
        self._on_result = on_result
        self._limit = limit
        self._stopped_at: float | None = None
        self._error: BaseException | None = None

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped_at is not None

    def stop(self) -> None:
        """End the stream after the frame at work. May be called in a signal handler: it takes no lock."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
        self._stream.stop()

    def run(self, on_tick: Callable[[], None] | None = None) -> Outcome:
        """Run to the end, in another thread; this one stays free for signals.

        Args:
            on_tick: Called about 20 times a second, in this thread.
        """
        worker = threading.Thread(target=self._work, name="emra-stream-work", daemon=True)
        worker.start()
        while worker.is_alive() and not self._overdue():
            worker.join(TICK)
            try:
                if on_tick is not None:
                    on_tick()
            # Nobody hears the reports any more; the output shall be whole all the same.
            except BaseException as error:
                self._error, on_tick = error, None
                self.stop()
        hung = worker.is_alive()
        closed = self._close_for(worker) if hung else True
        hung = hung or self._stream.hanging > 0
        written = 0 if self._output is None else self._output.written
        return Outcome(self._stream.status(), written, self._error, hung, closed)

    def _overdue(self) -> bool:
        return self._stopped_at is not None and time.monotonic() - self._stopped_at > HUNG_AFTER

    def _work(self) -> None:
        try:
            for count, result in enumerate(self._stream, 1):
                wanted = True
                if self._output is not None:
                    wanted = self._output.write(result.overlay(self._opacity), result.frame.time)
                if self._on_result is not None:
                    self._on_result(result)
                if not wanted or count == self._limit:
                    break
        # Of any kind: it is raised again in the thread that called run.
        except BaseException as error:
            self._error = error
        self._stream.close()
        try:
            if self._output is not None:
                self._output.close()
        except BaseException as error:
            self._error = self._error or error

    def _close_for(self, worker: threading.Thread) -> bool:
        """Finish the output in place of a thread that hangs somewhere else."""
        logger.warning("the frame at work did not end in time and is given up")
        if self._output is None:
            return True
        try:
            return self._output.close(CLOSE_PATIENCE)
        except Exception as error:
            self._error = self._error or error
            return False
