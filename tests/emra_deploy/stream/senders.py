"""Senders of MPEG-TS on this machine, and what tests need of the others."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.streams.rtsp import RtspServer, free_port, why_no_rtsp_server
from tests.emra_deploy.stream.http_sender import HttpSender
from tests.emra_deploy.stream.videos import save_video

__all__ = ["HttpSender", "RtspServer", "free_port", "require_rtsp_server", "transport_stream", "udp_sender"]


def transport_stream(folder: Path, pictures: int | Iterable[np.ndarray] = 50) -> bytes:
    """MPEG-TS of H.264, with a keyframe every five pictures."""
    return save_video(folder / "sent.ts", pictures, fps=50, options={"tune": "zerolatency"}).read_bytes()


@contextmanager
def udp_sender(content: bytes, port: int) -> Iterator[threading.Event]:
    """Sends the content by UDP over and over; what is yielded stalls it while it is set."""
    stalled, done = threading.Event(), threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for start in itertools.cycle(range(0, len(content), 1316)):
                if not stalled.is_set():
                    out.sendto(content[start : start + 1316], ("127.0.0.1", port))
                if done.wait(0.005):
                    return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield stalled
    done.set()
    thread.join(20)


def require_rtsp_server() -> None:
    """Skip the test where the system's Python has no GStreamer with an RTSP server and an H.264 encoder."""
    missing = why_no_rtsp_server()
    if missing is not None:
        pytest.skip(missing)
