"""Frames from GStreamer pipelines, read through the system's python3-gi.

GStreamer comes with the system, on a Jetson with its hardware decoders, and not from a package registry. An environment
made with ``--system-site-packages`` sees it.
"""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.source import Frame, Image, SourceLostError, redact

_APPSINK = "emra_sink"
_POLL = 0.1
"""Seconds to wait for a sample before looking at the pipeline's messages."""


def load_gstreamer() -> Any:
    """The namespace ``Gst``, initialised.

    Raises:
        EmraError: ``library-missing``.
    """
    try:
        gi: Any = import_module("gi")
        gi.require_version("Gst", "1.0")
        gst: Any = import_module("gi.repository.Gst")
    except (ImportError, ValueError) as error:
        raise EmraError(
            "library-missing",
            f"gst: needs GStreamer and its Python bindings ({error})",
            "Run: sudo apt install python3-gi gir1.2-gstreamer-1.0; make the environment with --system-site-packages",
        ) from error
    if not gst.is_initialized():
        gst.init(None)
    return gst


class GStreamerConnection:
    """One run of a pipeline.

    Args:
        pipeline: As for gst-launch-1.0, without a sink.
        options: Time limit.
        live: Whether newer frames replace those not read in time.

    Attributes:
        bad_packets: 0, because GStreamer does not report them.

    Raises:
        SourceLostError: If the pipeline does not start.
        EmraError: ``gstreamer-pipeline`` if it cannot be built.
    """

    bad_packets = 0

    def __init__(self, pipeline: str, options: StreamOptions, *, live: bool) -> None:
        self._gst = gst = load_gstreamer()
        self._timeout = options.timeout
        # sync=false: frames are wanted when they arrive, not when they would be displayed.
        appsink = f"appsink name={_APPSINK} sync=false max-buffers=1 drop={'true' if live else 'false'}"
        try:
            self._pipeline = gst.parse_launch(f"{pipeline} ! videoconvert ! video/x-raw,format=RGB ! {appsink}")
        # GLib.Error, which cannot be named before gi is imported.
        except Exception as error:
            raise EmraError(
                "gstreamer-pipeline",
                f"the pipeline cannot be built ({redact(getattr(error, 'message', str(error))).rstrip('.')})",
                "Try it with gst-launch-1.0 PIPELINE ! fakesink; leave the sink out here",
                redact(pipeline),
            ) from error
        self._appsink = self._pipeline.get_by_name(_APPSINK)
        self._bus = self._pipeline.get_bus()
        if self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
            reason = self._failure() or "it does not start"
            self.close()
            raise SourceLostError(reason)

    def read(self) -> Frame | None:
        """The next frame; None when the pipeline ends."""
        deadline = time.monotonic() + self._timeout
        while True:
            sample = self._appsink.emit("try-pull-sample", int(_POLL * self._gst.SECOND))
            if sample is not None:
                return self._frame(sample)
            reason = self._failure()
            if reason is not None:
                raise SourceLostError(reason)
            if self._appsink.get_property("eos"):
                return None
            if time.monotonic() > deadline:
                raise SourceLostError("the pipeline delivers no frames")

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _frame(self, sample: Any) -> Frame:
        buffer = sample.get_buffer()
        stamp = None if buffer.pts == self._gst.CLOCK_TIME_NONE else buffer.pts / self._gst.SECOND
        damaged = bool(buffer.has_flags(self._gst.BufferFlags.CORRUPTED))
        caps = sample.get_caps().get_structure(0)
        size = (int(caps.get_value("height")), int(caps.get_value("width")))
        return Frame(partial(_image, self._gst, buffer, size), size, stamp, damaged)

    def _failure(self) -> str | None:
        """The error that the pipeline reports, or None."""
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        if message is None:
            return None
        error, _ = message.parse_error()
        return redact(f"{message.src.get_name()}: {error.message}".rstrip("."))


def _image(gst: Any, buffer: Any, size: tuple[int, int]) -> Image:
    """A buffer of RGB video as uint8 H×W×3."""
    height, width = size
    readable, mapped = buffer.map(gst.MapFlags.READ)
    if not readable:
        raise SourceLostError("a frame cannot be read")
    try:
        # Rows are padded to a multiple of four bytes.
        rows = np.frombuffer(mapped.data, np.uint8).reshape(height, -1)
        image: Image = rows[:, : 3 * width].reshape(height, width, 3).copy()
        return image
    finally:
        buffer.unmap(mapped)
