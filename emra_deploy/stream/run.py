"""A stream that is read and segmented: an iterator of results, with a state and counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
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
from emra_deploy.stream.buffer import FrameBuffer
from emra_deploy.stream.frames import Frame, Picture
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.reader import Reader, Waiting
from emra_deploy.stream.source import SourceLike, make_opener
from emra_deploy.stream.status import Ledger, StateChange, StreamState, StreamStatus

LATE = "results are older than the age limit"
_LATE_STREAK = 5
"""Results in a row that have to be too old before the stream counts as degraded: one hiccup is none."""


@dataclass(frozen=True, eq=False)
class StreamResult:
    """A frame and its masks.

    Attributes:
        frame: The picture, its index and times.
        segmentation: Label map and classes.
        age: Seconds from the picture to its result.
        seconds: Spent on segmenting it.
    """

    frame: Frame
    segmentation: Segmentation
    age: float
    seconds: float

    @property
    def image(self) -> Picture:
        """The picture: uint8 H×W×3, RGB."""
        return self.frame.image

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """The masks: uint8 H×W, indices of classes."""
        return self.segmentation.labels

    def areas(self, pixel_area_m2: float | None = None) -> tuple[ClassArea, ...]:
        """How much each class covers; see `Segmentation.areas`."""
        return self.segmentation.areas(pixel_area_m2)

    def overlay(self, opacity: float = 0.5) -> Picture:
        """The classes' colours over the picture: uint8 H×W×3."""
        return self.segmentation.overlay(self.frame.image, opacity)

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, as JSON values."""
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
    """The stream was stopped, and the frame at work takes too long."""


class _StoppableSource(ArraySource):
    """A picture whose reading ends when its time is over, so that a large frame ends between two tiles."""

    def __init__(self, image: Picture, late: Callable[[], bool]) -> None:
        super().__init__(image)
        self._late = late

    def read(self, window: Window) -> Picture:
        """The pixels of a window: uint8 h×w×3, a view."""
        if self._late():
            raise _OutOfTimeError
        return super().read(window)


class SegmentsSources(Protocol):
    """What a stream needs of a `Segmenter`."""

    @property
    def restarts(self) -> int:
        """Processes of the model that were lost and replaced so far."""
        ...

    def segment_source(self, source: ImageSource) -> Segmentation:
        """Label a picture."""
        ...


class Stream:
    """Results of a source, one at a time: iterate over it, in one thread. Best used in a ``with`` block.

    Reading, and with it the ageing of frames, begins at once, in a thread. `stop`, `status` and `changes` may be
    called by any thread while it runs.

    Args:
        segmenter: Labels the pictures.
        source: A video file, ``camera:0``, an RTSP, UDP, HTTP, ... URL, ``gst:`` and a GStreamer pipeline; or an
            iterable of uint8 H×W×3 RGB pictures, or a function that returns the next one and None at the end.
        options: How to read and run; by default live sources give the newest frame, recordings every one.
        watch: Tells what slows the machine down.

    Raises:
        EmraError: What is wrong with the source as far as that shows without connecting. Iterating raises the rest:
            for a recording at the end of what could be read.
    """

    def __init__(
        self,
        segmenter: SegmentsSources,
        source: SourceLike,
        options: StreamOptions | None = None,
        watch: ThrottleWatch | None = None,
    ) -> None:
        self._options = options or StreamOptions()
        opener = make_opener(source, self._options)
        self._segmenter = segmenter
        self._restarts_booked = segmenter.restarts
        self._watch = ThrottleWatch() if watch is None else watch
        self._owner = Owner()
        self._live = opener.live
        self._ledger = Ledger()
        self._buffer: FrameBuffer[Waiting] = FrameBuffer(self._ledger, live=opener.live)
        self._stop_at: float | None = None
        self._size: tuple[int, int] | None = None
        self._late = 0
        self._closed = False
        self._reader = Reader(opener, self._options, self._ledger, self._buffer)

    @property
    def live(self) -> bool:
        """Whether the newest frame wins."""
        return self._live

    def status(self) -> StreamStatus:
        """State and counters at this moment."""
        return self._ledger.snapshot()

    def changes(self, since: int = 0) -> list[StateChange]:
        """Changes of state from number ``since`` on, oldest first; the last 256 are remembered."""
        return self._ledger.changes(since)

    @property
    def hanging(self) -> int:
        """Threads that are in a native call; after `close`, those that did not come back from it."""
        return self._reader.hanging

    def stop(self) -> None:
        """End the stream after the frame at work. May be called in a signal handler: it takes no lock."""
        if self._stop_at is None:
            self._stop_at = time.monotonic()

    def close(self) -> None:
        """Stop reading and let go of the source. Waits at most a moment, whatever the source is doing."""
        self.stop()
        if not self._closed and self._owner.here:
            self._closed = True
            self._reader.close()
            self._buffer.clear()
            self._ledger.enter(StreamState.ENDED)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> StreamResult:
        self._owner.check("the Stream")
        while self._stop_at is None:
            self._ledger.machine_seen(self._watch.look(), self._watch.began)
            try:
                waiting = self._buffer.take()
            except BaseException:
                # It ended, or failed.
                self.close()
                raise
            if waiting is not None:
                result = self._run(waiting)
                if result is not None:
                    return result
        self.close()
        raise StopIteration

    def _run(self, waiting: Waiting) -> StreamResult | None:
        """Segment one frame; None when it is not to be delivered. In every case it is booked."""
        if self._too_old(waiting):
            self._expire()
            return None
        began = time.monotonic()
        try:
            image = waiting.grab.picture()
            segmentation = self._segmenter.segment_source(_StoppableSource(image, self._out_of_time))
        except _OutOfTimeError:
            self._ledger.count(left=1, waiting=-1)
            return None
        except BaseException as error:
            self._ledger.count(left=1, waiting=-1)
            why = f": {error.cause}" if isinstance(error, EmraError) else ""
            self._ledger.enter(StreamState.FAILED, f"segmenting failed{why}")
            self.close()
            raise
        finally:
            restarts = self._segmenter.restarts
            self._ledger.count(restarts=restarts - self._restarts_booked)
            self._restarts_booked = restarts
        now = time.monotonic()
        if self._too_old(waiting):
            self._expire()
            return None
        self._late = 0
        with self._ledger.lock:
            self._ledger.count(delivered=1, waiting=-1)
            if self._ledger.reason == LATE:
                self._ledger.enter(StreamState.RUNNING)
        size = (int(image.shape[0]), int(image.shape[1]))
        frame = Frame(
            image=image,
            index=waiting.index,
            time=waiting.time,
            captured=waiting.captured,
            connection=waiting.connection,
            resized=self._size is not None and size != self._size,
            damaged=waiting.grab.damaged,
        )
        self._size = size
        return StreamResult(frame, segmentation, age=now - waiting.captured, seconds=now - began)

    def _out_of_time(self) -> bool:
        return self._stop_at is not None and time.monotonic() - self._stop_at > self._options.finish_within

    def _too_old(self, waiting: Waiting) -> bool:
        limit = self._options.max_age
        return self._live and limit is not None and time.monotonic() - waiting.captured > limit

    def _expire(self) -> None:
        self._late += 1
        self._ledger.count(expired=1, waiting=-1)
        if self._late >= _LATE_STREAK and self._ledger.state is StreamState.RUNNING:
            self._ledger.enter(StreamState.DEGRADED, LATE)
