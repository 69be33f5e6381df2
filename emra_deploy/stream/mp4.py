"""Overlays as an MP4 file that survives whatever ends its writer."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.stream.encoder import Encoder
from emra_deploy.stream.frames import Picture
from emra_deploy.stream.video import load_av

_MUXER = {
    # Fragments, each with an index of its own: memory stays the same after hours, closing takes no time, and the
    # temporary file that a killed process leaves plays up to its last fragment.
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
}


class Mp4Output:
    """Writes an H.264 MP4 beside its place and renames it into it when it is closed.

    The file is begun with the first picture, and keeps that one's size. Without a picture, no file is made.

    Args:
        path: Wanted file.
        overwrite: Whether an existing one may be replaced.
        inputs: Files that must not be replaced.

    Raises:
        EmraError: As `check_output`; ``output-unwritable``, ``missing-library``.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str] = ()) -> None:
        self._av = load_av()
        place = check_output(path, overwrite=overwrite, inputs=inputs)
        if not os.access(place.parent, os.W_OK):
            raise EmraError(
                "output-unwritable",
                f"you may not write to {place.parent}",
                "Choose a folder that you may write to",
                path,
            )
        self._path, self._overwrite = path, overwrite
        # Closing may come from another thread, when the writing one hangs.
        self._lock = threading.Lock()
        self._closed = False
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._encoder: Encoder | None = None
        self._keyframes = 0
        self._disk: _DiskSync | None = None
        self.written = 0

    def write(self, image: Picture, time: float) -> bool:
        """Append a picture; see `OverlayOutput`."""
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
        """Finish the file and give it its name; see `OverlayOutput`."""
        if not self._lock.acquire(timeout=-1 if patience is None else patience):
            return False
        try:
            if self._closed:
                return True
            self._closed = True
            if self._encoder is None:
                return True
            try:
                for packet in self._encoder.flush():
                    self._container.mux(packet)
                self._container.close()
            except (self._av.FFmpegError, OSError) as error:
                raise self._discard(error) from error
            self._stack.close()
            return True
        finally:
            self._lock.release()

    def _begin(self, size: tuple[int, int]) -> Encoder:
        part = self._stack.enter_context(atomic_output(self._path, overwrite=self._overwrite))
        # "file:", because a name may contain a colon, which FFmpeg would take for a protocol.
        self._container = self._av.open(f"file:{part}", "w", format="mp4", options=_MUXER)
        self._disk = _DiskSync(part)
        return Encoder(self._container, size)

    def _discard(self, error: Exception) -> EmraError:
        """Remove what there is, and say why as the user shall hear it."""
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
    """Brings a growing file to the disk now and then, in the background.

    A drone's power may end at any moment, and on a slow card a first sync after an hour would take longer than a
    service manager waits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless the last one is still at work."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._sync, name="emra-stream-sync", daemon=True)
            self._thread.start()

    def _sync(self) -> None:
        # What is wrong with the disk is found, and told, by the writer.
        with contextlib.suppress(OSError):
            handle = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
