"""Turns what the caller names as a source, be it text, images or a function, into a `Source`."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from emra_deploy.errors import EmraError
from emra_deploy.host.files import check_input
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.source import Address, Connection, Frame, Image, Kind, Source, redact

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "http", "https")
"""Network protocols that are read. FFmpeg has others (concat, subfile, data, ...) that combine local files, which only
an attacker would name here."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_CAMERA = re.compile(r"^camera:(\d+)$")

SourceLike = str | Source | Iterable[Image] | Callable[[], Image | None]
"""What a stream reads: text as for `parse_address`, images, a function that returns the next image, or a `Source`."""


def find_source(source: SourceLike, options: StreamOptions) -> Source:
    """Make a `Source` of what the caller gave, and check it as far as possible without connecting.

    Raises:
        EmraError: As `parse_address`; ``stream-source`` for other objects, ``stream-option``, ``library-missing``.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str):
        return _addressed(parse_address(source), options)
    live = bool(options.live)
    if isinstance(source, Iterable):
        images = source
        return Source(lambda: ImageConnection(images), "the iterable", live, restartable=False)
    if callable(source):
        function = source
        return Source(lambda: ImageConnection(_until_none(function)), "the function", live, restartable=False)
    raise EmraError(
        "stream-source",
        f"a {type(source).__name__} was given, expected text, an iterable of images or a function",
        "Give one of these",
    )


def parse_address(text: str) -> Address:
    """Parse the text of a source.

    Args:
        text: A video file, ``camera:N`` or a device such as ``/dev/video0``, a URL of one of `SCHEMES`, or ``gst:``
            and a GStreamer pipeline.

    Raises:
        EmraError: ``stream-source``, ``stream-protocol``, ``camera-missing``, and those of `check_input` for files.
    """
    if not text.strip() or "\0" in text:
        raise EmraError("stream-source", "the source is empty", "Give a file, a camera, a URL or gst:PIPELINE")
    if text.startswith("gst:"):
        pipeline = text.removeprefix("gst:").strip()
        if not pipeline:
            raise EmraError("stream-source", "the pipeline after gst: is empty", "Write it as for gst-launch-1.0")
        return Address(Kind.GSTREAMER, pipeline)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return _parse_url(scheme.group(1).lower(), text)
    camera = _CAMERA.match(text)
    device = Path(f"/dev/video{camera.group(1)}") if camera is not None else Path(text)
    try:
        mode = device.stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if stat.S_ISCHR(mode):
        return Address(Kind.CAMERA, str(device))
    if camera is not None or text.startswith("/dev/video"):
        raise EmraError("camera-missing", "there is no such camera", "List cameras with: ls /dev/video*", str(device))
    # Absolute, because a program may change its working folder before it reconnects.
    return Address(Kind.FILE, str(check_input(text).absolute()))


def _parse_url(scheme: str, text: str) -> Address:
    if scheme not in SCHEMES:
        cause = f"{scheme}:// is not supported"
        raise EmraError("stream-protocol", cause, f"Use one of {', '.join(SCHEMES)}", redact(text))
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise EmraError("stream-source", f"not a valid URL ({error})", "Correct it", redact(text)) from error
    if not parts.netloc or (parts.hostname is None and scheme not in ("udp", "rtp")):
        raise EmraError("stream-source", "the URL names no host", f"Write {scheme}://HOST:PORT/...", redact(text))
    return Address(Kind.NETWORK, urlunsplit(parts._replace(scheme=scheme)))


def _addressed(address: Address, options: StreamOptions) -> Source:
    live = address.live if options.live is None else options.live
    if live and address.kind is Kind.FILE:
        cause = "a file cannot be read as a live source"
        raise EmraError("stream-option", cause, "Leave live out", address.target)
    connect: Callable[[], Connection]
    if address.kind is Kind.GSTREAMER:
        from emra_deploy.stream.gstreamer import GStreamerConnection, load_gstreamer

        load_gstreamer()
        connect = partial(GStreamerConnection, address.target, options, live=live)
    else:
        from emra_deploy.stream.video import VideoConnection, load_av

        load_av()
        connect = partial(VideoConnection, address, options)
    return Source(connect, address.shown, live, restartable=live)


class ImageConnection:
    """Reads an iterable of uint8 H×W×3 RGB arrays.

    Attributes:
        bad_packets: 0.
    """

    bad_packets = 0

    def __init__(self, images: Iterable[Image]) -> None:
        self._images = iter(images)

    def read(self) -> Frame | None:
        """The next image; None at the end.

        Raises:
            EmraError: ``image-array`` for anything but an image.
        """
        # Not next(images, None), because a None in the iterable is a mistake to report.
        for image in self._images:
            size = ArraySource(image)
            # Cameras refill one buffer, and a frame may wait in the queue.
            return Frame(image.copy(), (size.height, size.width))
        return None

    def close(self) -> None:
        """Close a generator, and with it what it holds open."""
        close = getattr(self._images, "close", None)
        if close is not None:
            close()


def _until_none(function: Callable[[], Image | None]) -> Iterator[Image]:
    while (image := function()) is not None:
        yield image
