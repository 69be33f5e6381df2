"""What a stream is doing and what became of its frames: readable by any thread while it runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

KEPT_CHANGES = 256
"""Changes of state that are remembered for readers that are slow."""


class StreamState(str, Enum):
    """What a stream is doing."""

    CONNECTING = "connecting"
    """No frame has come yet."""
    RUNNING = "running"
    """Frames come."""
    DEGRADED = "degraded"
    """Frames came, but not now, or too late; the stream tries to mend that by itself."""
    FAILED = "failed"
    """It has given up."""
    ENDED = "ended"
    """The recording is over, or the stream was stopped."""


@dataclass(frozen=True)
class Counters:
    """What became of the frames.

    At any moment ``received`` is the sum of ``skipped``, ``dropped``, ``expired``, ``delivered``, ``left`` and
    ``waiting``.

    Attributes:
        received: Frames decoded.
        skipped: Passed over by ``every``.
        dropped: Replaced by a newer frame before they were segmented, or damaged frames of a live source.
        expired: Older than ``max_age``, before or after they were segmented.
        delivered: Results handed over.
        left: Neither, because the stream was stopped.
        waiting: In the queue or being segmented, at most 2 for a live source.
        damaged: Of all received, those that the decoder calls incomplete.
        bad_packets: Packets that came damaged, or gave no frame because others are missing.
        connections: Connections that gave at least one frame.
        attempts: Tries to connect.
        stalls: Times that no frame came for longer than ``stall_after``.
        resizes: Times that the size of the frames changed.
        hung: Readers that did not come back from a native call and were replaced.
        restarts: Processes of the model that were lost and replaced, where it runs in one of its own.
        throttles: Times that the machine began to be slowed down by heat or current.
    """

    received: int = 0
    skipped: int = 0
    dropped: int = 0
    expired: int = 0
    delivered: int = 0
    left: int = 0
    waiting: int = 0
    damaged: int = 0
    bad_packets: int = 0
    connections: int = 0
    attempts: int = 0
    stalls: int = 0
    resizes: int = 0
    hung: int = 0
    restarts: int = 0
    throttles: int = 0


@dataclass(frozen=True)
class StateChange:
    """A moment at which a stream's state changed.

    Attributes:
        number: From 0 up.
        state: The new state.
        reason: Why, for people; "" where it goes without saying.
        time: When, seconds since the epoch.
    """

    number: int
    state: StreamState
    reason: str
    time: float

    def to_dict(self) -> dict[str, Any]:
        """The change as JSON values."""
        return {"state": self.state.value, "reason": self.reason, "time": round(self.time, 3)}


@dataclass(frozen=True)
class StreamStatus:
    """All that is known about a stream at one moment.

    Attributes:
        state: What it is doing.
        reason: Why it is not running, for people; "" when it is.
        counters: What became of its frames.
        frame_age: Seconds since the newest frame came, or None before the first.
        size: Height and width of the newest frame, or None before the first.
        uptime: Seconds since the stream was made.
        throttled: What slows the machine down now, by the names of kernel and driver.
    """

    state: StreamState
    reason: str
    counters: Counters
    frame_age: float | None
    size: tuple[int, int] | None
    uptime: float
    throttled: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return {
            "state": self.state.value,
            "reason": self.reason,
            **asdict(self.counters),
            "frame_age": None if self.frame_age is None else round(self.frame_age, 3),
            "size": None if self.size is None else list(self.size),
            "uptime": round(self.uptime, 3),
            "throttled": list(self.throttled),
        }


class Ledger:
    """The books of one stream. Every method may be called by any thread.

    Attributes:
        lock: Held for each change. The frame buffer shares it, so that a frame is never in two places or none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self._clock = clock
        self._started = clock()
        self._counters = Counters()
        self._changes: deque[StateChange] = deque(maxlen=KEPT_CHANGES)
        self._number = 0
        self._last_frame: float | None = None
        self._size: tuple[int, int] | None = None
        self._throttled: tuple[str, ...] = ()
        self._set(StreamState.CONNECTING, "")

    def count(self, **changes: int) -> None:
        """Add to counters, such as ``count(dropped=1, waiting=-1)``."""
        with self.lock:
            now = self._counters
            self._counters = replace(now, **{name: getattr(now, name) + value for name, value in changes.items()})

    def frame_came(self, size: tuple[int, int]) -> int:
        """Book a frame that was decoded.

        Args:
            size: Its height and width.

        Returns:
            Its index, from 0.
        """
        with self.lock:
            index = self._counters.received
            resized = self._size is not None and size != self._size
            self._size, self._last_frame = size, self._clock()
            self.count(received=1, waiting=1, resizes=int(resized))
            return index

    def enter(self, state: StreamState, reason: str = "") -> bool:
        """Change the state. A stream that has failed or ended stays so.

        Returns:
            Whether anything changed.
        """
        with self.lock:
            last = self._changes[-1]
            if last.state in (StreamState.FAILED, StreamState.ENDED) or (last.state, last.reason) == (state, reason):
                return False
            self._set(state, reason)
            return True

    def machine_seen(self, throttled: tuple[str, ...], began: int) -> None:
        """Book what slows the machine down now, and how often something began to since the stream was made."""
        with self.lock:
            self._throttled = throttled
            self.count(throttles=began - self._counters.throttles)

    @property
    def state(self) -> StreamState:
        """What the stream is doing."""
        return self._changes[-1].state

    @property
    def reason(self) -> str:
        """Why the stream is in this state."""
        return self._changes[-1].reason

    @property
    def counters(self) -> Counters:
        """The counters at this moment."""
        return self._counters

    def silence(self) -> float:
        """Seconds since the last frame, or since the start when none has come."""
        last = self._last_frame
        return self._clock() - (self._started if last is None else last)

    def snapshot(self) -> StreamStatus:
        """Everything, as of one moment."""
        with self.lock:
            now, last = self._clock(), self._changes[-1]
            return StreamStatus(
                state=last.state,
                reason=last.reason,
                counters=self._counters,
                frame_age=None if self._last_frame is None else now - self._last_frame,
                size=self._size,
                uptime=now - self._started,
                throttled=self._throttled,
            )

    def changes(self, since: int = 0) -> list[StateChange]:
        """Changes of state from number ``since`` on, oldest first, of the last `KEPT_CHANGES`."""
        with self.lock:
            return [change for change in self._changes if change.number >= since]

    def _set(self, state: StreamState, reason: str) -> None:
        self._changes.append(StateChange(self._number, state, reason, time.time()))
        self._number += 1
