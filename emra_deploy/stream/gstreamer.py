"""Frames out of GStreamer pipelines, by the system's python3-gi.

GStreamer is not on the package registry: it comes with the system (on a Jetson with its hardware decoders), so an
environment sees it when it was made with ``--system-site-packages``.
"""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.stream.address import redact
from emra_deploy.stream.frames import Grab, Picture, SourceLostError
from emra_deploy.stream.options import StreamOptions

_SINK = "emra_sink"
_POLL = 0.1
"""Seconds of one wait for a sample, between looks at the pipeline's messages."""


def load_gstreamer() -> Any:
    """The namespace ``Gst``, initialised.

    Raises:
        EmraError: ``missing-library``.
    """
    try:
        gi: Any = import_module("gi")
        gi.require_version("Gst", "1.0")
        gst: Any = import_module("gi.repository.Gst")
    except (ImportError, ValueError) as error:
        raise EmraError(
            "missing-library",
            f"gst: needs GStreamer and its Python bindings ({error})",
            "Run: sudo apt install python3-gi gir1.2-gstreamer-1.0; make the environment with --system-site-packages",
        ) from error
    if not gst.is_initialized():
        gst.init(None)
    return gst


class GStreamerSource:
    """One run of a pipeline.

    Args:
        pipeline: As for gst-launch-1.0, without a sink.
        options: Time-outs.
        live: Whether frames that nobody fetched are replaced by newer ones.

    Raises:
        SourceLostError: When it gives no frames now.
        EmraError: ``gstreamer-pipeline`` when it cannot be built.
    """

    def __init__(self, pipeline: str, options: StreamOptions, *, live: bool) -> None:
        self._gst = gst = load_gstreamer()
        self._shown = redact(pipeline)
        # sync=false: frames are wanted when they are there, not when they would be shown.
        sink = f"appsink name={_SINK} sync=false max-buffers=1 drop={'true' if live else 'false'}"
        try:
            self._pipeline = gst.parse_launch(f"{pipeline} ! videoconvert ! video/x-raw,format=RGB ! {sink}")
        # GLib's error, which has no class of its own to import before gi is there.
        except Exception as error:
            raise self._cannot(getattr(error, "message", str(error))) from error
        self._sink = self._pipeline.get_by_name(_SINK)
        self._bus = self._pipeline.get_bus()
        self._read_timeout = options.read_timeout
        if self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
            reason = self._message() or "it does not start"
            self.close()
            raise SourceLostError(reason)
        self._patience = options.open_timeout

    def grab(self) -> Grab | None:
        """The next frame; None when the pipeline ends."""
        deadline = time.monotonic() + self._patience
        while True:
            sample = self._sink.emit("try-pull-sample", int(_POLL * self._gst.SECOND))
            if sample is not None:
                self._patience = self._read_timeout
                return self._grab(sample)
            reason = self._message()
            if reason is not None:
                raise SourceLostError(reason)
            if self._sink.get_property("eos"):
                return None
            if time.monotonic() > deadline:
                raise SourceLostError("the pipeline gives no frames")

    def take_bad_packets(self) -> int:
        """Always 0: GStreamer does not tell."""
        return 0

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _grab(self, sample: Any) -> Grab:
        buffer = sample.get_buffer()
        stamp = None if buffer.pts == self._gst.CLOCK_TIME_NONE else buffer.pts / self._gst.SECOND
        corrupted = bool(buffer.has_flags(self._gst.BufferFlags.CORRUPTED))
        caps = sample.get_caps().get_structure(0)
        size = (int(caps.get_value("height")), int(caps.get_value("width")))
        return Grab(partial(_picture, self._gst, buffer, size), size, stamp, corrupted)

    def _message(self) -> str | None:
        """What went wrong in the pipeline, or None."""
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        if message is None:
            return None
        error, _ = message.parse_error()
        return redact(f"{message.src.get_name()}: {error.message}".rstrip("."))

    def _cannot(self, reason: str) -> EmraError:
        return EmraError(
            "gstreamer-pipeline",
            f"the pipeline cannot be built ({redact(reason).rstrip('.')})",
            "Try it with gst-launch-1.0 PIPELINE ! fakesink; leave the sink out here",
            self._shown,
        )


def _picture(gst: Any, buffer: Any, size: tuple[int, int]) -> Picture:
    """A buffer of RGB video as uint8 H×W×3."""
    height, width = size
    readable, mapped = buffer.map(gst.MapFlags.READ)
    if not readable:
        raise SourceLostError("a frame cannot be read")
    try:
        # Rows are padded to a multiple of four bytes.
        rows = np.frombuffer(mapped.data, np.uint8).reshape(height, -1)
        image: Picture = rows[:, : 3 * width].reshape(height, width, 3).copy()
        return image
    finally:
        buffer.unmap(mapped)
