"""`Stream`: an iterator over the segmented frames of a source, with a state and counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.host.forks import Owner
from emra_deploy.host.throttling import ThrottleWatch
from emra_deploy.pictures.sources import ArraySource, ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.areas import ClassArea
from emra_deploy.segmenting.segmentation import Segmentation
from emra_deploy.stream.opening import SourceLike, find_source
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.reader import FrameQueue, Reader
from emra_deploy.stream.source import Frame, Image
from emra_deploy.stream.status import Ledger, StateChange, StreamState, StreamStatus

LATE = "results are older than the age limit"
_LATE_STREAK = 5
"""Expired results in a row after which the stream is degraded. A single one is no trend."""


@dataclass(frozen=True, eq=False)
class StreamResult:
    """A frame and its label map.

    Attributes:
        frame: The image, its index and times.
        segmentation: Label map and classes.
        age: Seconds from capture to result.
        seconds: Time spent on segmentation.
    """

    frame: Frame
    segmentation: Segmentation
    age: float
    seconds: float

    @property
    def image(self) -> Image:
        """The image: uint8 H×W×3, RGB."""
        return self.frame.image

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """The label map: uint8 H×W, indices of classes."""
        return self.segmentation.labels

    def areas(self, pixel_area_m2: float | None = None) -> tuple[ClassArea, ...]:
        """Area of each class; see `Segmentation.areas`."""
        return self.segmentation.areas(pixel_area_m2)

    def overlay(self, opacity: float = 0.5, palette: str = "auto") -> Image:
        """Class colours over the image: uint8 H×W×3; see `Segmentation.overlay`."""
        return self.segmentation.overlay(self.frame.image, opacity, palette)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values."""
        frame = self.frame
        return {
            "index": frame.index,
            "time": round(frame.time, 4),
            "age": round(self.age, 4),
            "seconds": round(self.seconds, 4),
            "height": frame.height,
            "width": frame.width,
            "resized": frame.resized,
            "damaged": frame.damaged,
            "connection": frame.connection,
            "areas": {area.name: {"pixels": area.pixels, "fraction": area.fraction} for area in self.areas()},
        }


class _OutOfTimeError(Exception):
    """The stream was stopped, and the current frame takes too long."""


class _StoppableImage(ArraySource):
    """An image whose reading fails once its time is over, which ends a large frame between two tiles."""

    def __init__(self, image: Image, late: Callable[[], bool]) -> None:
        super().__init__(image)
        self._late = late

    def read(self, window: Window) -> Image:
        """The pixels of a window: uint8 h×w×3, a view."""
        if self._late():
            raise _OutOfTimeError
        return super().read(window)


class StreamSegmenter(Protocol):
    """The part of `Segmenter` that a stream uses."""

    @property
    def restarts(self) -> int:
        """Restarts of the model's process so far."""

    def segment_source(self, source: ImageSource) -> Segmentation:
        """Label an image."""


class Stream:
    """Segments a source. Iterate over it in one thread, best in a ``with`` block.

    A thread starts reading at once. Any thread may call `stop`, `status` and `changes`.

    Args:
        segmenter: Labels the frames.
        source: A video file, ``camera:0``, an RTSP, UDP, HTTP, ... URL, ``gst:`` and a GStreamer pipeline; an iterable
            of uint8 H×W×3 RGB images; or a function that returns the next image, and None at the end.
        options: How to read and process it. By default live sources give the newest frame, recordings every frame.
        watch: Reports what slows the machine down.

    Attributes:
        stopped_at: When `stop` was called, ``time.monotonic()``, or None.

    Raises:
        EmraError: For a source that is wrong as far as that shows without connecting. Iterating raises the rest; for a
            recording, after the last frame that could be read; and ``closed`` when it begins after `close`.
    """

    def __init__(
        self,
        segmenter: StreamSegmenter,
        source: SourceLike,
        options: StreamOptions | None = None,
        watch: ThrottleWatch | None = None,
    ) -> None:
        self._options = options or StreamOptions()
        found = find_source(source, self._options)
        if found.live and self._options.fps is not None:
            cause = "fps is given, and the source is live: its frames have the time of their arrival"
            raise EmraError("stream-option", cause, "Leave fps out", found.shown)
        self._segmenter = segmenter
        self._counted_restarts = segmenter.restarts
        self._watch = ThrottleWatch() if watch is None else watch
        self._owner = Owner()
        self._live = found.live
        self._ledger = Ledger()
        self._queue = FrameQueue(self._ledger, live=found.live)
        self.stopped_at: float | None = None
        self._size: tuple[int, int] | None = None
        self._expired_in_a_row = 0
        self._closed_at: float | None = None
        self._begun = False
        self._reader = Reader(found, self._options, self._ledger, self._queue)

    def status(self) -> StreamStatus:
        """State and counters at this moment."""
        return self._ledger.snapshot()

    def changes(self, since: int = 0) -> list[StateChange]:
        """State changes from number ``since`` on, oldest first; the last 256 are kept."""
        return self._ledger.changes(since)

    @property
    def hanging(self) -> int:
        """Reader threads in a native call; after `close`, those that did not return from it."""
        return self._reader.hanging

    def stop(self) -> None:
        """End the stream after the current frame. Safe in a signal handler: it takes no lock."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()

    def close(self) -> None:
        """Stop reading and free the source. Waits at most 0.3 s, even if the source hangs.

        A loop over the stream ends; beginning one is an error from then on. State and counters can still be read.
        """
        if self._owner.release():
            self._end()

    def _end(self) -> None:
        if self._closed_at is None:
            self._closed_at = time.monotonic()
            self._reader.close()
            self._queue.clear()
            self._ledger.enter(StreamState.ENDED)

    def __enter__(self) -> Stream:
        self._owner.check("the Stream")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Stream:
        self._owner.check("the Stream")
        return self

    def __next__(self) -> StreamResult:
        if not self._begun or not self._owner.here:
            self._owner.check("the Stream")
        self._begun = True
        while self.stopped_at is None and self._closed_at is None:
            self._ledger.set_throttling(self._watch.look(), self._watch.began)
            try:
                frame = self._queue.take()
            except BaseException:
                # The source ended or failed.
                self._end()
                raise
            result = None if frame is None else self._process(frame)
            if result is not None:
                return result
        self._end()
        raise StopIteration

    def _process(self, frame: Frame) -> StreamResult | None:
        """Segment a frame; None if it is not delivered. It is counted in every case."""
        if self._too_old(frame):
            self._expire()
            return None
        began = time.monotonic()
        try:
            frame = replace(frame.converted(), resized=self._size is not None and frame.size != self._size)
            segmentation = self._segmenter.segment_source(_StoppableImage(frame.image, self._out_of_time))
        except _OutOfTimeError:
            self._ledger.count(left=1, waiting=-1)
            return None
        except BaseException as error:
            self._ledger.count(left=1, waiting=-1)
            why = f": {error.cause}" if isinstance(error, EmraError) else ""
            self._ledger.enter(StreamState.FAILED, f"segmentation failed{why}")
            self._end()
            raise
        finally:
            restarts = self._segmenter.restarts
            self._ledger.count(restarts=restarts - self._counted_restarts)
            self._counted_restarts = restarts
        now = time.monotonic()
        if self._too_old(frame):
            self._expire()
            return None
        self._expired_in_a_row = 0
        with self._ledger.lock:
            self._ledger.count(delivered=1, waiting=-1)
            if self._ledger.reason == LATE:
                self._ledger.enter(StreamState.RUNNING)
        self._size = frame.size
        return StreamResult(frame, segmentation, age=now - frame.captured, seconds=now - began)

    def _out_of_time(self) -> bool:
        ended_at = self._closed_at if self.stopped_at is None else self.stopped_at
        return ended_at is not None and time.monotonic() - ended_at > self._options.finish_within

    def _too_old(self, frame: Frame) -> bool:
        limit = self._options.max_age
        return self._live and limit is not None and time.monotonic() - frame.captured > limit

    def _expire(self) -> None:
        self._expired_in_a_row += 1
        self._ledger.count(expired=1, waiting=-1)
        if self._expired_in_a_row >= _LATE_STREAK and self._ledger.state is StreamState.RUNNING:
            self._ledger.enter(StreamState.DEGRADED, LATE)
