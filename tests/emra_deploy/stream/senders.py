"""Senders on this machine: MJPEG by HTTP, MPEG-TS by TCP and UDP, and GStreamer's RTSP server."""

from __future__ import annotations

import io
import itertools
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.emra_deploy.stream.videos import numbered, save_video

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
_PERIOD = 0.02
"""Seconds from picture to picture."""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class HttpSender:
    """Serves numbered MJPEG by HTTP on 127.0.0.1: a small IP camera that can be told to misbehave.

    Attributes:
        size: Height and width of the pictures, may be changed while it runs.
        stalled: While set, connections stay open and nothing is sent.
        status: What a request is answered with.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.size = (48, 64)
        self.stalled = threading.Event()
        self.status = "200 OK"
        self.requests = 0
        self._numbers = itertools.count()
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._down = threading.Event()

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.port}/video"

    def start(self) -> HttpSender:
        self._down.clear()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def cut(self) -> None:
        """Die: connections are reset, new ones refused."""
        self._down.set()
        assert self._listener is not None
        # Closing alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def __enter__(self) -> HttpSender:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stalled.clear()
        if not self._down.is_set():
            self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.recv(65536)
            self.requests += 1
            head = f"HTTP/1.1 {self.status}\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n"
            connection.sendall(head.encode())
            while self.status.startswith("200") and not self._down.is_set():
                if not self.stalled.is_set():
                    jpeg = _jpeg(numbered(next(self._numbers) % 256, *self.size))
                    part = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    connection.sendall(part.encode() + jpeg + b"\r\n")
                self._down.wait(_PERIOD)
            connection.close()
        except OSError:
            pass


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()


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
    if not Path(SYSTEM_PYTHON).exists() or shutil.which("gst-inspect-1.0") is None:
        pytest.skip("no GStreamer here")
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    for command in ([SYSTEM_PYTHON, "-c", probe], ["gst-inspect-1.0", "--exists", "x264enc"]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no gir1.2-gst-rtsp-server-1.0, or no gstreamer1.0-plugins-ugly")


class RtspServer:
    """GStreamer's RTSP server in a process of its own, which may be killed, stopped and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"rtsp://user:secret@127.0.0.1:{self.port}/live"
        self.process: subprocess.Popen[str] | None = None

    def start(self, width: int = 64, height: int = 48, fps: int = 50) -> None:
        """Serve a moving ball."""
        self._start(width, height, fps)

    def take(self, path: Path) -> None:
        """Take a stream at the path /overlay and keep it in a file."""
        self._start(path)

    def _start(self, *words: object) -> None:
        command = [SYSTEM_PYTHON, str(SERVER), *map(str, (self.port, *words))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
