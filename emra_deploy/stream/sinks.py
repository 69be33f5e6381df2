"""Where overlays go: the `Sink` that video files, RTSP servers and the screen have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import pip_install
from emra_deploy.stream.source import Image, redact

_TITLE = "emra stream"
_ESCAPE = 27


class Sink(Protocol):
    """Takes images one after the other."""

    @property
    def written(self) -> int:
        """Images written so far."""

    def write(self, image: Image, time: float) -> bool:
        """Write an image, uint8 H×W×3 RGB, with its time in seconds.

        Returns:
            False when the user has closed the sink and wants the stream to end.

        Raises:
            EmraError: If it cannot be written, now or later.
        """

    def close(self, patience: float | None = None) -> bool:
        """Finish what was written. Later calls do nothing.

        Args:
            patience: Seconds to wait for another thread that is writing; None for as long as it takes.

        Returns:
            Whether it is closed; False if another thread kept it busy for too long.

        Raises:
            EmraError: If it cannot be finished.
        """


def open_sink(text: str, *, overwrite: bool = False, inputs: Iterable[str] = ()) -> Sink:
    """Prepare a sink.

    Args:
        text: A name that ends in .mp4, the ``rtsp://`` URL of a server that takes streams, or ``window``.
        overwrite: Whether an existing file may be replaced.
        inputs: Files that must not be replaced.

    Raises:
        EmraError: ``overlay-kind``, ``library-missing``, ``window-none`` and those of `check_output`.
    """
    if text == "window":
        return ScreenSink()
    if text.lower().startswith(("rtsp://", "rtsps://")):
        from emra_deploy.stream.video_sinks import RtspSink

        return RtspSink(text)
    if "://" not in text and Path(text).suffix.lower() == ".mp4":
        from emra_deploy.stream.video_sinks import Mp4Sink

        return Mp4Sink(text, overwrite=overwrite, inputs=inputs)
    raise EmraError(
        "overlay-kind",
        "an overlay is a file that ends in .mp4, an rtsp:// URL or the word window",
        "Correct --overlay",
        redact(text),
    )


class ScreenSink:
    """Shows each image in a window on the screen, by OpenCV. Escape, q, or closing the window ends the stream.

    Raises:
        EmraError: ``library-missing`` without OpenCV, ``window-none`` without a screen.
    """

    def __init__(self) -> None:
        try:
            self._cv2: Any = import_module("cv2")
        except ImportError as error:
            raise EmraError(
                "library-missing",
                f"a window needs OpenCV ({error})",
                f"Run: {pip_install('opencv-python')}; or give --overlay a file",
            ) from error
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise EmraError(
                "window-none",
                "there is no screen: neither DISPLAY nor WAYLAND_DISPLAY is set",
                "Log in with a screen, or give --overlay a file or an rtsp:// URL",
            )
        self.written = 0

    def write(self, image: Image, time: float) -> bool:
        """Show an image; see `Sink`. All calls have to come from one thread."""
        try:
            # OpenCV expects BGR.
            self._cv2.imshow(_TITLE, np.ascontiguousarray(image[..., ::-1]))
            key = self._cv2.waitKey(1) & 0xFF
            visible = self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE) >= 1
        except self._cv2.error as error:
            raise EmraError(
                "window-none",
                f"OpenCV cannot show a window ({str(error).splitlines()[0]})",
                f"Run: {pip_install('--force-reinstall', 'opencv-python')}, not the headless build",
            ) from error
        self.written += 1
        return visible and key not in (_ESCAPE, ord("q"))

    def close(self, patience: float | None = None) -> bool:
        """Close the window."""
        if self.written:
            self._cv2.destroyAllWindows()
        return True
