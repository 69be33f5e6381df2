"""Where overlays go: a file, an RTSP server or a window."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from emra_deploy.errors import EmraError
from emra_deploy.stream.address import redact
from emra_deploy.stream.frames import Picture

WINDOW = "window"
"""The name of an output that is a window on the screen."""


class OverlayOutput(Protocol):
    """Takes pictures one after the other."""

    @property
    def written(self) -> int:
        """Pictures written so far."""
        ...

    def write(self, image: Picture, time: float) -> bool:
        """Take a picture, uint8 H×W×3 RGB, that belongs to a moment in seconds.

        Returns:
            False when the user has closed the output and wants the stream to end.

        Raises:
            EmraError: When it cannot be written, and that is for good.
        """
        ...

    def close(self, patience: float | None = None) -> bool:
        """Finish, so that what was written is whole. Later calls do nothing.

        Args:
            patience: Seconds to wait for another thread that is writing; None for as long as it takes.

        Returns:
            Whether it is closed; False when another thread was busy with it for too long.

        Raises:
            EmraError: When it cannot be finished.
        """
        ...


def open_output(text: str, *, overwrite: bool = False, inputs: Iterable[str] = ()) -> OverlayOutput:
    """Prepare an output.

    Args:
        text: A name that ends in .mp4, an ``rtsp://`` URL of a server that takes streams, or ``window``.
        overwrite: Whether an existing file may be replaced.
        inputs: Files that must not be replaced.

    Raises:
        EmraError: ``overlay-kind``, ``missing-library``, ``window-none`` and those of `check_output`.
    """
    if text == WINDOW:
        from emra_deploy.stream.window import WindowOutput

        return WindowOutput()
    if text.lower().startswith(("rtsp://", "rtsps://")):
        from emra_deploy.stream.push import PushOutput

        return PushOutput(text)
    if "://" not in text and Path(text).suffix.lower() == ".mp4":
        from emra_deploy.stream.mp4 import Mp4Output

        return Mp4Output(text, overwrite=overwrite, inputs=inputs)
    raise EmraError(
        "overlay-kind",
        "an overlay is a file that ends in .mp4, an rtsp:// URL or the word window",
        "Correct --overlay",
        redact(text),
    )
