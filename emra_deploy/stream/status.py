"""State and counters of a stream, readable from any thread while it runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

KEPT_CHANGES = 256
"""State changes that are kept for slow readers."""


class StreamState(str, Enum):
    """What a stream is doing."""

    CONNECTING = "connecting"
    """No frame has arrived yet."""
    RUNNING = "running"
    """Frames arrive."""
    DEGRADED = "degraded"
    """Frames arrived before, but not now, or too late. The stream tries to recover."""
    FAILED = "failed"
    """It has given up."""
    ENDED = "ended"
    """The recording is over, or the stream was stopped."""


@dataclass(frozen=True)
class Counters:
    """Counts of frames and incidents.

    At every moment ``received`` is the sum of ``skipped``, ``dropped``, ``expired``, ``delivered``, ``left`` and
    ``waiting``.

    Attributes:
        received: Frames decoded.
        skipped: Frames left out by ``every``.
        dropped: Frames replaced by a newer one before segmentation, and damaged frames of a live source.
        expired: Frames older than ``max_age``, before or after segmentation.
        delivered: Results handed to the caller.
        left: Frames not processed because the stream stopped.
        waiting: Frames queued or being segmented, at most 2 for a live source.
        damaged: Frames, among all received, that the decoder reports as incomplete.
        bad_packets: Damaged packets, and those that gave no frame because others are missing.
        connections: Connections that gave at least one frame.
        attempts: Attempts to connect.
        stalls: Times without a frame for longer than ``stall_after``.
        resizes: Changes of the frame size.
        hung: Reader threads that were replaced because a native call did not return.
        restarts: Restarts of the model's process, if it runs in one of its own.
        throttles: Times that heat or current began to slow the machine down.
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
    """One change of a stream's state.

    Attributes:
        number: Position among all changes, from 0.
        state: The new state.
        reason: Explanation for people, or "".
        time: Seconds since the epoch.
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
    """A stream at one moment.

    Attributes:
        state: What it is doing.
        reason: Explanation for people, or "".
        counters: Counts so far.
        frame_age: Seconds since the newest frame arrived, or None before the first.
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
    """Keeps state and counters of one stream. Every method may be called from any thread.

    Attributes:
        lock: Guards each update. The frame queue uses it too, so that every frame is in exactly one counter.
        counters: Counts at this moment.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.counters = Counters()
        self._started = time.monotonic()
        self._changes: deque[StateChange] = deque(maxlen=KEPT_CHANGES)
        self._last_frame: float | None = None
        self._size: tuple[int, int] | None = None
        self._throttled: tuple[str, ...] = ()
        self._changes.append(StateChange(0, StreamState.CONNECTING, "", time.time()))

    def count(self, **changes: int) -> None:
        """Add to counters, such as ``count(dropped=1, waiting=-1)``."""
        with self.lock:
            now = self.counters
            self.counters = replace(now, **{name: getattr(now, name) + value for name, value in changes.items()})

    def frame_arrived(self, size: tuple[int, int]) -> int:
        """Count a decoded frame as received and waiting.

        Args:
            size: Its height and width.

        Returns:
            Its index, from 0.
        """
        with self.lock:
            index = self.counters.received
            resized = self._size is not None and size != self._size
            self._size, self._last_frame = size, time.monotonic()
            self.count(received=1, waiting=1, resizes=int(resized))
            return index

    def enter(self, state: StreamState, reason: str = "") -> bool:
        """Change the state. Failed and ended are final.

        Returns:
            Whether state or reason changed.
        """
        with self.lock:
            last = self._changes[-1]
            if last.state in (StreamState.FAILED, StreamState.ENDED) or (last.state, last.reason) == (state, reason):
                return False
            self._changes.append(StateChange(last.number + 1, state, reason, time.time()))
            return True

    def set_throttling(self, throttled: tuple[str, ...], began: int) -> None:
        """Set what slows the machine down now, and how often something began to since the stream was made."""
        with self.lock:
            self._throttled = throttled
            self.count(throttles=began - self.counters.throttles)

    @property
    def state(self) -> StreamState:
        """What the stream is doing."""
        return self._changes[-1].state

    @property
    def reason(self) -> str:
        """Why it is in this state."""
        return self._changes[-1].reason

    def silence(self) -> float:
        """Seconds since the last frame, or since the start if there was none."""
        last = self._last_frame
        return time.monotonic() - (self._started if last is None else last)

    def snapshot(self) -> StreamStatus:
        """State and counters of one moment."""
        with self.lock:
            return StreamStatus(
                state=self.state,
                reason=self.reason,
                counters=self.counters,
                frame_age=None if self._last_frame is None else self.silence(),
                size=self._size,
                uptime=time.monotonic() - self._started,
                throttled=self._throttled,
            )

    def changes(self, since: int = 0) -> list[StateChange]:
        """State changes from number ``since`` on, oldest first, among the last `KEPT_CHANGES`."""
        with self.lock:
            return [change for change in self._changes if change.number >= since]
