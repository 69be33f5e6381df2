"""Overlays as H.264: in an MP4 file that survives whatever ends its writer, or published to an RTSP server."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time as clock
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import pip_install
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.stream.opening import parse_address
from emra_deploy.stream.source import Image
from emra_deploy.stream.timing import Backoff
from emra_deploy.stream.video import load_av

logger = logging.getLogger(__name__)

CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders in order of preference; builds of FFmpeg differ in which they have."""

CLOCK = 90_000
"""Ticks per second of the timestamps: the clock of MPEG and RTP."""

KEYFRAME_EVERY = 2.0
"""Seconds between keyframes. A player can join at each, and a file that was cut off plays up to the last."""

MAX_SIDE = 16_384
"""Pixels. H.264's highest level allows less."""

CLOSE_WITHIN = 0.3
"""Seconds that `RtspSink.close` waits for its thread."""

_BT709 = 1

_MUXER = {
    # Fragments with an index each: memory stays constant, closing takes no time, and the temporary file that a killed
    # process leaves plays up to its last fragment.
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
}


class Encoder:
    """Encodes images into one video stream of a container.

    The video has the size of the first image; images of other sizes are fitted into it.

    Args:
        container: PyAV's output container.
        size: Height and width of the first image; odd ones are made even, as 4:2:0 needs.

    Raises:
        EmraError: ``video-encoder`` if this FFmpeg has no encoder, or the image is too large for it.
    """

    def __init__(self, container: Any, size: tuple[int, int]) -> None:
        self._av = load_av()
        self.height, self.width = (side + side % 2 for side in size)
        if max(self.height, self.width) > MAX_SIDE:
            cause = f"a video of {self.width}×{self.height} pixels is too large"
            raise EmraError("video-encoder", cause, "Leave --overlay out")
        self._stream = container.add_stream(self._codec(), rate=30)
        context = self._stream.codec_context
        self._stream.height, self._stream.width = self.height, self.width
        self._stream.pix_fmt = "yuv420p"
        # Without these, players guess the colour space by the size of the image.
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.time_base = Fraction(1, CLOCK)
        # Keyframes are requested by time; the number is only an upper bound.
        context.gop_size = 600
        # zerolatency holds no frames back, so that closing a file takes no time.
        context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
        self._first: float | None = None
        self._last = -1
        self._last_keyframe = 0

    def encode(self, image: Image, time: float) -> Iterator[Any]:
        """Packets of an image.

        Args:
            image: uint8 H×W×3, RGB.
            time: Seconds by any clock. The first image is at 0.
        """
        if self._first is None:
            self._first = time
        # A clock that stands or steps back must not cost the file.
        stamp = max(self._last + 1, round((time - self._first) * CLOCK))
        fitted = self._av.VideoFrame.from_ndarray(self._fit(image), format="rgb24")
        frame = fitted.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = stamp, Fraction(1, CLOCK)
        if self._last < 0 or stamp - self._last_keyframe >= KEYFRAME_EVERY * CLOCK:
            frame.pict_type = self._av.video.frame.PictureType.I
            self._last_keyframe = stamp
        # Files use only the duration of the last packet, which no later timestamp gives.
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
        cause = f"this FFmpeg has none of the encoders {', '.join(CODECS)}"
        raise EmraError("video-encoder", cause, f"Run: {pip_install('--force-reinstall', 'av')}")

    def _fit(self, image: Image) -> Image:
        """The image at the video's size: as it is, or scaled to fit on black with its aspect ratio kept."""
        height, width = image.shape[:2]
        if (height + height % 2, width + width % 2) == (self.height, self.width):
            if height % 2 or width % 2:
                image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            return np.ascontiguousarray(image)
        scale = min(self.height / height, self.width / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
        scaled = frame.reformat(width=inner[1], height=inner[0]).to_ndarray()
        canvas[top : top + inner[0], left : left + inner[1]] = scaled
        return canvas


class Mp4Sink:
    """Writes an H.264 MP4 beside its destination and renames it when it is closed.

    The file starts with the first image. Without an image, no file is made.

    Args:
        path: Destination.
        overwrite: Whether an existing file may be replaced.
        inputs: Files that must not be replaced.

    Raises:
        EmraError: As `check_output`; ``output-unwritable``, ``library-missing``.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str] = ()) -> None:
        self._av = load_av()
        folder = check_output(path, overwrite=overwrite, inputs=inputs).parent
        if not os.access(folder, os.W_OK):
            cause = f"no permission to write to {folder}"
            raise EmraError("output-unwritable", cause, "Choose a folder that you may write to", path)
        self._path, self._overwrite = path, overwrite
        # Another thread closes the file when the writing one hangs.
        self._lock = threading.Lock()
        self._closed = False
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._encoder: Encoder | None = None
        self._disk: _DiskSync | None = None
        self.written = 0

    def write(self, image: Image, time: float) -> bool:
        """Append an image; see `Sink`."""
        with self._lock:
            if self._closed:
                return False
            try:
                if self._encoder is None:
                    self._encoder = self._begin((int(image.shape[0]), int(image.shape[1])))
                for packet in self._encoder.encode(image, time):
                    self._container.mux(packet)
                    if packet.is_keyframe and self._disk is not None:
                        self._disk.start()
                self.written += 1
            except (self._av.FFmpegError, OSError, EmraError) as error:
                self._closed = True
                raise self._discard(error) from error
        return True

    def close(self, patience: float | None = None) -> bool:
        """Finish the file and rename it; see `Sink`."""
        if not self._lock.acquire(timeout=-1 if patience is None else patience):
            return False
        try:
            if not self._closed and self._encoder is not None:
                for packet in self._encoder.flush():
                    self._container.mux(packet)
                self._container.close()
                self._stack.close()
            return True
        except (self._av.FFmpegError, OSError) as error:
            raise self._discard(error) from error
        finally:
            self._closed = True
            self._lock.release()

    def _begin(self, size: tuple[int, int]) -> Encoder:
        part = self._stack.enter_context(atomic_output(self._path, overwrite=self._overwrite))
        # "file:", because FFmpeg would take a name with a colon for a protocol.
        self._container = self._av.open(f"file:{part}", "w", format="mp4", options=_MUXER)
        self._disk = _DiskSync(part)
        return Encoder(self._container, size)

    def _discard(self, error: Exception) -> EmraError:
        """Remove the unfinished file, and return the error to raise."""
        with contextlib.suppress(self._av.FFmpegError, OSError):
            if self._container is not None:
                self._container.close()
        # atomic_output removes its file when its block raises.
        self._stack.__exit__(type(error), error, error.__traceback__)
        if isinstance(error, EmraError):
            return error
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "Make room on the disk or choose another"
        if getattr(error, "errno", None) == errno.EINVAL:
            remedy = "Leave the overlay out; this FFmpeg cannot write it"
        return EmraError("output-write", f"writing failed ({reason})", remedy, self._path)


class _DiskSync:
    """Flushes a growing file to the disk now and then, in the background.

    A drone may lose its power at any moment, and on a slow card a first sync after an hour would take longer than a
    service manager waits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless the previous sync is still running."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._sync, name="emra-stream-sync", daemon=True)
            self._thread.start()

    def _sync(self) -> None:
        # The writer meets the disk's errors too, and reports them.
        with contextlib.suppress(OSError):
            handle = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


class RtspSink:
    """Publishes images to an RTSP server such as MediaMTX (ANNOUNCE and RECORD, over TCP).

    A thread of its own sends the newest image and skips those that the network is too slow for, so that viewers never
    slow segmentation down. Lost connections are retried with back-off.

    Args:
        url: ``rtsp://`` URL to publish to.

    Raises:
        EmraError: ``library-missing``, ``stream-source``.
    """

    def __init__(self, url: str) -> None:
        self._av = load_av()
        address = parse_address(url)
        self._url, self._shown = address.target, address.shown
        self._newest: deque[tuple[Image, float]] = deque(maxlen=1)
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self.written = 0
        self._thread = threading.Thread(target=self._publish, name="emra-stream-push", daemon=True)
        self._thread.start()

    def write(self, image: Image, time: float) -> bool:
        """Leave an image to be sent; see `Sink`. Never waits."""
        self._newest.append((image, time))
        self._arrived.set()
        return True

    def close(self, patience: float | None = None) -> bool:
        """Disconnect, unless that takes too long; see `Sink`."""
        self._closing.set()
        self._arrived.set()
        self._thread.join(CLOSE_WITHIN if patience is None else patience)
        return not self._thread.is_alive()

    def _images(self) -> Iterator[tuple[Image, float]]:
        while not self._closing.is_set():
            self._arrived.wait()
            self._arrived.clear()
            if self._newest:
                yield self._newest.popleft()

    def _publish(self) -> None:
        backoff, lost_at = Backoff(), clock.monotonic()
        while not self._closing.is_set():
            before = self.written
            try:
                self._publish_once()
            except (self._av.FFmpegError, OSError) as error:
                if self.written > before:
                    backoff.reset()
                    lost_at = clock.monotonic()
                wait = backoff.next_wait(clock.monotonic() - lost_at)
                reason = getattr(error, "strerror", None) or type(error).__name__
                logger.info("%s: %s; publishing again in %.1f s", self._shown, reason, wait)
                self._closing.wait(wait)

    def _publish_once(self) -> None:
        """Connect with the first image, and send until the connection breaks or the size changes."""
        encoder: Encoder | None = None
        size: tuple[int, ...] = ()
        with contextlib.ExitStack() as stack:
            for image, time in self._images():
                if encoder is None:
                    size = image.shape
                    container = self._av.open(self._url, "w", format="rtsp", options={"rtsp_transport": "tcp"})
                    stack.callback(self._disconnect, container)
                    encoder = Encoder(container, (image.shape[0], image.shape[1]))
                if image.shape != size:
                    return
                for packet in encoder.encode(image, time):
                    container.mux(packet)
                self.written += 1

    def _disconnect(self, container: Any) -> None:
        with contextlib.suppress(self._av.FFmpegError, OSError):
            container.close()
