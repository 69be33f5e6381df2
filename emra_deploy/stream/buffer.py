"""Where the reader leaves frames and the segmenter takes them: bounded, and for live sources the newest wins."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from emra_deploy.stream.status import Ledger

RECORDED_DEPTH = 2
"""Frames of a recording that are decoded ahead."""

TICK = 0.05
"""Seconds between looks at whether to stop. Polling, because a signal handler must not take locks to wake anybody."""

T = TypeVar("T")


class FrameBuffer(Generic[T]):
    """A bounded queue between one reader at a time and one taker.

    A live buffer holds one item, and a newer one replaces it: together with the one at work, two frames are held. A
    buffer of a recording makes its reader wait instead.

    Args:
        ledger: Where replaced items are booked as dropped.
        live: Whether the newest wins.
    """

    def __init__(self, ledger: Ledger, *, live: bool) -> None:
        self._ledger = ledger
        self._live = live
        self._depth = 1 if live else RECORDED_DEPTH
        self._items: deque[T] = deque()
        self._changed = threading.Condition(ledger.lock)
        self._finished = False
        self._error: BaseException | None = None

    def put(self, item: T, stopped: Callable[[], bool]) -> bool:
        """Leave an item; for a recording, wait for room.

        Args:
            item: What to leave.
            stopped: Asked while waiting; True ends the wait.

        Returns:
            Whether the item was left. If not, it is booked as left over.
        """
        with self._changed:
            if self._live and len(self._items) == self._depth:
                self._items.popleft()
                self._ledger.count(dropped=1, waiting=-1)
            while len(self._items) == self._depth and not stopped():
                self._changed.wait(TICK)
            if len(self._items) == self._depth or stopped():
                self._ledger.count(left=1, waiting=-1)
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self) -> T | None:
        """The oldest item; None when none came for a moment.

        Raises:
            StopIteration: When the reader has finished and all is taken.
            BaseException: Whatever the reader finished with, once all is taken.
        """
        with self._changed:
            if not self._items and not self._finished:
                self._changed.wait(TICK)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if not self._finished:
                return None
            if self._error is not None:
                raise self._error
            raise StopIteration

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing will come any more. The first call counts."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
            self._changed.notify_all()

    def clear(self) -> None:
        """Throw away what is there; booked as left over."""
        with self._changed:
            self._ledger.count(left=len(self._items), waiting=-len(self._items))
            self._items.clear()
            self._changed.notify_all()
