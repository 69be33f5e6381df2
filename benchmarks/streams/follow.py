"""A thread that iterates over a stream and keeps its results."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emra_deploy.errors import EmraError
from emra_deploy.stream import Counters, Stream, StreamResult, StreamState

KEPT = 1000
"""Results that are kept: a list of all would grow like the leak that a long run looks for."""

PATIENCE = 60.0
"""Seconds after which an event that does not happen ends the measurement with an error."""


@dataclass(frozen=True)
class Delivered:
    """A delivered result, without its arrays.

    Attributes:
        moment: Time of delivery, by ``time.monotonic()``.
        connection: Number of its frame's connection.
        age: Seconds from frame to result.
    """

    moment: float
    connection: int
    age: float


class Follower:
    """Iterates over a stream in a thread, and keeps its last results.

    Args:
        stream: The stream; `close` closes it.
        keep: Called with each result.

    Attributes:
        delivered: The last `KEPT` results.
        error: What ended the iteration, or None.
        thread: The thread that iterates.
    """

    def __init__(self, stream: Stream, keep: Callable[[StreamResult], None] | None = None) -> None:
        self.stream = stream
        self.delivered: deque[Delivered] = deque(maxlen=KEPT)
        self._keep = keep
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._iterate, daemon=True)
        self.thread.start()

    def wait(self, condition: Callable[[], bool], event: str) -> float:
        """Wait until something holds, and give the moment.

        Raises:
            EmraError: ``benchmark-stuck`` when it does not come to pass, or the stream's own error.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.error is not None:
                raise self.error
            if time.monotonic() > deadline:
                cause = f"{event}: not within {PATIENCE:g} s; the stream is {self.stream.status().to_dict()}"
                raise EmraError("benchmark-stuck", cause, "Look at the sender")
            time.sleep(0.001)
        return time.monotonic()

    def wait_state(self, state: StreamState) -> float:
        """Wait for a state, and give the moment."""
        return self.wait(lambda: self.stream.status().state is state, state.value)

    def wait_received(self, count: int) -> None:
        """Wait until the stream has received so many frames."""
        self.wait(lambda: self.stream.status().counters.received >= count, "frames")

    def wait_results(self, count: int, *, after: float = 0.0) -> float:
        """Wait for so many results after a moment, and give the moment of the last of them."""

        def later() -> list[Delivered]:
            return [one for one in self.delivered.copy() if one.moment > after]

        self.wait(lambda: len(later()) >= count, "results")
        return later()[count - 1].moment

    def close(self) -> None:
        """End the stream."""
        self.stream.stop()
        self.thread.join(PATIENCE)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _iterate(self) -> None:
        try:
            for result in self.stream:
                if self._keep is not None:
                    self._keep(result)
                self.delivered.append(Delivered(time.monotonic(), result.frame.connection, result.age))
        except BaseException as error:
            self.error = error


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that ``share`` (0 to 1) of the values do not exceed; None without values."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def reconciles(counters: Counters) -> bool:
    """True if every received frame is counted in exactly one place."""
    parts = ("skipped", "dropped", "expired", "delivered", "left", "waiting")
    return counters.received == sum(int(getattr(counters, part)) for part in parts)
