"""What the text of a SOURCE means."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from emra_deploy.errors import EmraError
from emra_deploy.host.files import check_input

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "http", "https")
"""Network protocols that are read. Others of FFmpeg's (concat, subfile, data, ...) combine local files in ways that
nobody asks for but attackers."""

GSTREAMER = "gst:"
"""What a GStreamer pipeline begins with."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_CAMERA = re.compile(r"^camera:(\d+)$")


class Kind(Enum):
    """What reads a source."""

    FILE = "file"
    CAMERA = "camera"
    NETWORK = "network"
    GSTREAMER = "gstreamer"


@dataclass(frozen=True)
class Address:
    """A source of frames that can be opened again and again.

    Attributes:
        kind: What reads it.
        target: Path, URL or pipeline.
    """

    kind: Kind
    target: str

    @property
    def live(self) -> bool:
        """Whether its frames pass whether or not anybody looks."""
        return self.kind is not Kind.FILE

    @property
    def shown(self) -> str:
        """Its name for logs and messages, without the password that a URL may hold."""
        return redact(self.target)


def parse_source(text: str) -> Address:
    """Say what a SOURCE is.

    Args:
        text: A video file, ``camera:N`` or a device such as ``/dev/video0``, a URL of one of `SCHEMES`, or ``gst:``
            and a GStreamer pipeline.

    Raises:
        EmraError: ``stream-source``, ``stream-protocol``, ``camera-missing``, and those of `check_input` for files.
    """
    if not text.strip() or "\0" in text:
        raise EmraError("stream-source", "the source is empty", "Give a file, a camera, a URL or gst:PIPELINE")
    if text.startswith(GSTREAMER):
        pipeline = text[len(GSTREAMER) :].strip()
        if not pipeline:
            raise EmraError("stream-source", "the pipeline after gst: is empty", "Write it as for gst-launch-1.0")
        return Address(Kind.GSTREAMER, pipeline)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return _network(scheme.group(1).lower(), text)
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
    # Absolute, because a program that runs for hours may change its folder before it reconnects.
    return Address(Kind.FILE, str(check_input(text).absolute()))


def redact(text: str) -> str:
    """The text with user names, passwords and keys of URLs in it replaced by ``***``."""
    text = re.sub(r"(\b[A-Za-z][A-Za-z0-9+.\-]*://)[^/\s]*@", r"\1***@", text)
    return re.sub(r"(?i)\b(passphrase|password|passwd|token|key|secret)=[^&\s!]+", r"\1=***", text)


def _network(scheme: str, text: str) -> Address:
    if scheme not in SCHEMES:
        raise EmraError("stream-protocol", f"{scheme}:// is not read", f"Use one of {', '.join(SCHEMES)}", redact(text))
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise EmraError("stream-source", f"not a valid URL ({error})", "Correct it", redact(text)) from error
    if not parts.netloc or (parts.hostname is None and scheme not in ("udp", "rtp")):
        raise EmraError("stream-source", "the URL names no host", f"Write {scheme}://HOST:PORT/...", redact(text))
    return Address(Kind.NETWORK, urlunsplit(parts._replace(scheme=scheme)))
