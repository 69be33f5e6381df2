"""Runs a stream into a sink, in a thread of its own, so that a signal ends it in time whatever hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from emra_deploy.stream.run import Stream, StreamResult
from emra_deploy.stream.sinks import Sink
from emra_deploy.stream.status import StreamStatus
from emra_deploy.stream.timing import TICK

logger = logging.getLogger(__name__)

HUNG_AFTER = 1.2
"""Seconds after `Stream.stop` at which the working thread counts as hung; more than ``StreamOptions.finish_within``."""

CLOSE_PATIENCE = 0.2
"""Seconds to wait for a sink that a hung thread may hold."""


@dataclass(frozen=True)
class StreamReport:
    """How a stream went.

    Attributes:
        status: Its last state and counters.
        written: Overlays written.
        error: What ended it, or None.
        hung: Whether a thread still hangs. End the process by ``os._exit`` then, because the libraries' clean-up at
            exit could wait for it.
        closed: Whether the sink is closed and its output whole.
    """

    status: StreamStatus
    written: int
    error: BaseException | None
    hung: bool
    closed: bool


def run_stream(
    stream: Stream,
    sink: Sink | None = None,
    *,
    opacity: float = 0.5,
    palette: str = "auto",
    on_result: Callable[[StreamResult], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    limit: int | None = None,
) -> StreamReport:
    """Run a stream to its end, or until `Stream.stop` is called, and close it and its sink.

    Args:
        stream: What to run.
        sink: Where overlays go, or None.
        opacity: Opacity of the class colours, 0 to 1.
        palette: Of the class colours; see `Segmentation.overlay`.
        on_result: Called with each result, in the working thread.
        on_tick: Called about 20 times a second, in the calling thread, which stays free for signals.
        limit: Number of results after which to stop, or None.
    """
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for count, result in enumerate(stream, 1):
                wanted = sink is None or sink.write(result.overlay(opacity, palette), result.frame.time)
                if on_result is not None:
                    on_result(result)
                if not wanted or count == limit:
                    break
        # Of any kind: the report hands it to the caller.
        except BaseException as error:
            errors.append(error)
        stream.close()
        try:
            if sink is not None:
                sink.close()
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, name="emra-stream-work", daemon=True)
    worker.start()
    while worker.is_alive() and not _overdue(stream):
        worker.join(TICK)
        try:
            if on_tick is not None:
                on_tick()
        # Nobody reads the reports any more, but the output has to become whole.
        except BaseException as error:
            errors.insert(0, error)
            on_tick = None
            stream.stop()
    closed, hung = True, worker.is_alive()
    if hung:
        logger.warning("the current frame did not finish in time and is abandoned")
        try:
            # In place of the thread that hangs somewhere else.
            closed = sink is None or sink.close(CLOSE_PATIENCE)
        except Exception as error:
            closed = False
            errors.append(error)
    written = 0 if sink is None else sink.written
    return StreamReport(stream.status(), written, errors[0] if errors else None, hung or stream.hanging > 0, closed)


def _overdue(stream: Stream) -> bool:
    return stream.stopped_at is not None and time.monotonic() - stream.stopped_at > HUNG_AFTER
