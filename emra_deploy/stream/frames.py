"""One picture of a stream, and what a source hands over before it becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Grab:
    """What a source read: decoded, but not yet converted to RGB, because most dropped frames never need it.

    Attributes:
        picture: Makes the uint8 H×W×3 RGB array; called at most once, in any one thread.
        size: H and W of that array.
        time: Seconds by the source's own clock, or None where it has none.
        damaged: Whether the decoder says that parts of the picture are missing.
    """

    picture: Callable[[], Picture]
    size: tuple[int, int]
    time: float | None = None
    damaged: bool = False


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream.

    Attributes:
        image: uint8 H×W×3, RGB.
        index: Place among the frames that were read, from 0. Gaps are frames that were dropped or skipped.
        time: Seconds since the first frame: by the recording's clock, or as they arrived for a live source.
        captured: When the picture was taken as far as can be known, by ``time.monotonic()``: when it arrived, less
            the delay that the source's own timestamps reveal.
        connection: Number of the connection it came by, from 1.
        resized: Whether its size differs from that of the frame handed over before it.
        damaged: Whether the decoder says that parts of it are missing.
    """

    image: Picture
    index: int
    time: float
    captured: float
    connection: int = 1
    resized: bool = False
    damaged: bool = False

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.image.shape[1])


class SourceLostError(Exception):
    """The source cannot be reached now, or stopped talking: trying again may help. Its text says why."""
