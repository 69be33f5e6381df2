"""How late a live frame is when it arrives, as far as the source's own timestamps tell."""

from __future__ import annotations

LEAK = 0.01
"""How fast the reference is forgotten, in seconds per second. Clocks of cameras drift by far less, and a delay of
two seconds stays visible for minutes."""

LONGEST_STEP = 10.0
"""Timestamps that jump by more seconds than this are taken as a new clock."""


class LagEstimator:
    """Estimates the delay of each frame of one source.

    A frame's arrival less its timestamp is the unknown offset between two clocks plus the frame's delay. The smallest
    value seen is taken as the offset: packets that wait, in a socket or for a slow decoder, then show as a delay,
    although they were read just now.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._arrived = 0.0
        self._stamp = 0.0

    def delay(self, arrived: float, stamp: float | None) -> float:
        """Seconds that a frame is late, 0 or more.

        Args:
            arrived: When it arrived, ``time.monotonic()``.
            stamp: Its own time in seconds, or None where it has none.
        """
        if stamp is None:
            return 0.0
        offset = arrived - stamp
        step = stamp - self._stamp
        if self._offset is None or not 0 < step <= LONGEST_STEP:
            self._offset = offset
        else:
            self._offset = min(offset, self._offset + LEAK * (arrived - self._arrived))
        self._arrived, self._stamp = arrived, stamp
        return offset - self._offset
