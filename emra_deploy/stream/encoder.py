"""Pictures into H.264 packets: one encoder for files and for network outputs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import pip_install
from emra_deploy.stream.frames import Picture
from emra_deploy.stream.video import load_av

CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders in order of preference; builds of FFmpeg differ in which they have."""

CLOCK = 90_000
"""Ticks per second of the timestamps: the clock of MPEG and RTP."""

KEYFRAME_EVERY = 2.0
"""Seconds from one keyframe to the next; a player can enter, and a file that was cut is whole, up to each of them."""

_BT709 = 1

MAX_SIDE = 16_384
"""Pixels; the largest side of H.264's levels is below that."""


class Encoder:
    """Encodes pictures of one size into one stream of a container; others are fitted into that size.

    Args:
        container: PyAV's output container.
        size: Height and width of the first picture; odd ones are made even, as 4:2:0 needs.

    Raises:
        EmraError: ``video-encoder`` when this FFmpeg has no encoder, or the pictures are too large for it.
    """

    def __init__(self, container: Any, size: tuple[int, int]) -> None:
        self._av = load_av()
        self.height, self.width = (side + side % 2 for side in size)
        if max(self.height, self.width) > MAX_SIDE:
            raise EmraError(
                "video-encoder", f"a video of {self.width}×{self.height} pixels is too large", "Leave --overlay out"
            )
        self._stream = container.add_stream(self._codec(), rate=30)
        context = self._stream.codec_context
        self._stream.height, self._stream.width = self.height, self.width
        self._stream.pix_fmt = "yuv420p"
        # Without these, players guess the colours by the size of the picture.
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.time_base = Fraction(1, CLOCK)
        # Keyframes are asked for by time; the number only bounds them.
        context.gop_size = 600
        # zerolatency holds no frames back, so that closing a file takes no time.
        context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
        self._first: float | None = None
        self._last = -1
        self._last_keyframe = 0

    def encode(self, image: Picture, time: float) -> Iterator[Any]:
        """Packets of a picture.

        Args:
            image: uint8 H×W×3, RGB.
            time: Seconds, of any clock that grows. The first picture is at 0.
        """
        if self._first is None:
            self._first = time
        # Two pictures of one moment, or a clock that steps back, must not cost the file.
        stamp = max(self._last + 1, round((time - self._first) * CLOCK))
        picture = self._av.VideoFrame.from_ndarray(self._fit(image), format="rgb24")
        frame = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = stamp, Fraction(1, CLOCK)
        if self._last < 0 or stamp - self._last_keyframe >= KEYFRAME_EVERY * CLOCK:
            frame.pict_type = self._av.video.frame.PictureType.I
            self._last_keyframe = stamp
        # Only the last one's counts, for which a file has no next picture to tell.
        step, self._last = stamp - max(self._last, 0), stamp
        for packet in self._stream.encode(frame):
            packet.duration = step
            yield packet

    def flush(self) -> Iterator[Any]:
        """The packets that the encoder still holds. Nothing can be encoded afterwards."""
        if self._first is not None:
            yield from self._stream.encode(None)

    def _codec(self) -> str:
        for name in CODECS:
            if name in self._av.codecs_available:
                return name
        raise EmraError(
            "video-encoder",
            f"this FFmpeg has none of the encoders {', '.join(CODECS)}",
            f"Run: {pip_install('--force-reinstall', 'av')}",
        )

    def _fit(self, image: Picture) -> Picture:
        """The picture at the video's size: as it is, or scaled with its shape kept, on black."""
        height, width = image.shape[:2]
        if (height + height % 2, width + width % 2) == (self.height, self.width):
            if height % 2 or width % 2:
                return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            return np.ascontiguousarray(image)
        scale = min(self.height / height, self.width / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        scaled = frame.reformat(width=inner[1], height=inner[0]).to_ndarray()
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
        canvas[top : top + inner[0], left : left + inner[1]] = scaled
        return canvas
