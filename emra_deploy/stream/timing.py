"""Waits between two attempts to connect, and the delay of live frames."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

TICK = 0.05
"""Seconds between looks at whether to stop. Threads poll, because a signal handler cannot take a lock to wake them."""

FIRST = 0.1
"""Seconds before the first retry."""

SHORT_OUTAGE_CAP = 0.2
"""Longest wait in seconds during a short outage. Connecting takes a third of a second or more until the first keyframe,
and frames should be back within a second of their sender."""

OUTAGE_SHARE = 40
"""Part of the outage so far to which later waits may grow: after an hour's outage, seconds do not matter."""

CAP = 10.0
"""Longest wait in seconds."""

LEAK = 0.01
"""Rate at which `LagEstimator` forgets its reference, in seconds per second. Camera clocks drift far less, and a delay
of two seconds still shows for minutes."""

LONGEST_STEP = 10.0
"""Larger jumps of timestamps, in seconds, count as a new clock."""


@dataclass
class Backoff:
    """Waits that double with each attempt, with jitter, bounded by the length of the outage.

    The jitter removes up to half of the wait, so that a hundred receivers of one server do not return all at once.

    Attributes:
        random: Source of the jitter.
    """

    random: random.Random = field(default_factory=random.Random)
    _attempts: int = 0

    def reset(self) -> None:
        """Start the next outage from the shortest wait: the connection is good."""
        self._attempts = 0

    def next_wait(self, outage: float) -> float:
        """Seconds to wait now.

        Args:
            outage: Seconds since the last frame, or since the start.
        """
        cap = min(CAP, max(SHORT_OUTAGE_CAP, outage / OUTAGE_SHARE))
        # The exponent is bounded, because 2.0**1024 overflows after a night of attempts.
        wait = min(cap, FIRST * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        return wait * self.random.uniform(0.5, 1.0)


class LagEstimator:
    """Estimates the delay of each frame of a live source from the frame's own timestamp.

    Arrival less timestamp is the unknown offset between two clocks plus the frame's delay. The smallest value seen is
    taken as the offset. A packet that waited in a socket or for a slow decoder then shows its delay, although it was
    read only now.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._arrived = 0.0
        self._stamp = 0.0

    def delay(self, arrived: float, stamp: float | None) -> float:
        """Delay of a frame in seconds, 0 or more.

        Args:
            arrived: Time of arrival, ``time.monotonic()``.
            stamp: The frame's timestamp in seconds, or None.
        """
        if stamp is None:
            return 0.0
        offset = arrived - stamp
        if self._offset is None or not 0 < stamp - self._stamp <= LONGEST_STEP:
            self._offset = offset
        else:
            self._offset = min(offset, self._offset + LEAK * (arrived - self._arrived))
        self._arrived, self._stamp = arrived, stamp
        return offset - self._offset
