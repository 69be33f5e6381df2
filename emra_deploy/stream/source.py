"""What frames come from: an address, a source that can be connected to, a connection, and the frames it reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, on its whole way from the decoder to the caller.

    A connection sets the first four attributes, the reader the next four, and `Stream` the last.

    Attributes:
        pixels: The image, or a function that makes it: most dropped frames are never converted to RGB. The function is
            called at most once, by any thread.
        size: Height and width of the image in pixels.
        stamp: Seconds by the source's own clock, or None if it has none.
        damaged: Whether the decoder reports that parts of the image are missing.
        index: Position among all frames read, from 0. Dropped and skipped frames leave gaps.
        time: Seconds since the first frame: by the clock of a recording, or by the arrival at a live source.
        captured: Estimated time of capture by ``time.monotonic()``: that of arrival, less the delay that the source's
            own timestamps show.
        connection: Number of the connection that read it, from 1.
        resized: Whether its size differs from that of the frame delivered before it.
    """

    pixels: Image | Callable[[], Image] = field(repr=False)
    size: tuple[int, int]
    stamp: float | None = None
    damaged: bool = False
    index: int = 0
    time: float = 0.0
    captured: float = 0.0
    connection: int = 1
    resized: bool = False

    @property
    def image(self) -> Image:
        """The image, uint8 H×W×3 RGB."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels()

    def converted(self) -> Frame:
        """The same frame with its image made, which lets go of the decoder's buffer."""
        return replace(self, pixels=self.image)

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.size[1]


class SourceLostError(Exception):
    """The source cannot be reached now, or stopped sending: reconnecting may help. The text is the reason."""


class Connection(Protocol):
    """One connection to a source. A single thread makes, uses and closes it."""

    @property
    def bad_packets(self) -> int:
        """Damaged packets so far."""

    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end of the source.

        Raises:
            SourceLostError: If reconnecting may help.
            EmraError: If it will not.
        """

    def close(self) -> None:
        """Free the connection. Called once, last."""


@dataclass(frozen=True)
class Source:
    """A source of frames. Make one of your own for a source that can be lost and found again, such as a camera's SDK.

    Attributes:
        connect: Makes a connection and returns once it stands. Raises what `Connection.read` raises.
        shown: Name for messages, without passwords.
        live: Whether only the newest frame counts.
        restartable: Whether ``connect`` may be called again.
    """

    connect: Callable[[], Connection]
    shown: str
    live: bool
    restartable: bool


class Kind(Enum):
    """What an address names."""

    FILE = "file"
    CAMERA = "camera"
    NETWORK = "network"
    GSTREAMER = "gstreamer"


@dataclass(frozen=True)
class Address:
    """The parsed text of a source.

    Attributes:
        kind: What it names.
        target: Path, URL or pipeline.
    """

    kind: Kind
    target: str

    @property
    def live(self) -> bool:
        """Whether its frames are lost unless they are read in time."""
        return self.kind is not Kind.FILE

    @property
    def shown(self) -> str:
        """The target for logs and messages, without the passwords in it."""
        return redact(self.target)


def redact(text: str) -> str:
    """The text with the user names, passwords and keys of its URLs replaced by ``***``."""
    text = re.sub(r"(\b[A-Za-z][A-Za-z0-9+.\-]*://)[^/\s]*@", r"\1***@", text)
    return re.sub(r"(?i)\b(passphrase|password|passwd|token|key|secret)=[^&\s!]+", r"\1=***", text)
