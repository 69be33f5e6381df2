"""Overlays in a window on the screen, by OpenCV where it is installed."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import pip_install
from emra_deploy.stream.frames import Picture

_TITLE = "emra stream"
_ESCAPE = 27


class WindowOutput:
    """Shows each picture as it comes. Escape, q, or closing the window ends the stream.

    Raises:
        EmraError: ``missing-library`` without OpenCV, ``window-none`` without a screen.
    """

    def __init__(self) -> None:
        try:
            self._cv2: Any = import_module("cv2")
        except ImportError as error:
            raise EmraError(
                "missing-library",
                f"a window needs OpenCV ({error})",
                f"Run: {pip_install('opencv-python')}; or give --overlay a file",
            ) from error
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise EmraError(
                "window-none",
                "there is no screen here: neither DISPLAY nor WAYLAND_DISPLAY is set",
                "Log in with a screen, or give --overlay a file or an rtsp:// URL",
            )
        self._open = False
        self.written = 0

    def write(self, image: Picture, time: float) -> bool:
        """Show a picture; see `OverlayOutput`. All calls have to come from one thread."""
        try:
            # OpenCV wants blue first.
            self._cv2.imshow(_TITLE, np.ascontiguousarray(image[..., ::-1]))
            key = self._cv2.waitKey(1) & 0xFF
            visible = self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE) >= 1
        except self._cv2.error as error:
            raise EmraError(
                "window-none",
                f"OpenCV cannot show a window ({str(error).splitlines()[0]})",
                f"Run: {pip_install('--force-reinstall', 'opencv-python')}, not the headless one",
            ) from error
        self._open = True
        self.written += 1
        return visible and key not in (_ESCAPE, ord("q"))

    def close(self, patience: float | None = None) -> bool:
        """Close the window."""
        if self._open:
            self._open = False
            self._cv2.destroyAllWindows()
        return True
