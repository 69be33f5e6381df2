"""A small IP camera: MJPEG by HTTP on the loopback, with numbered pictures and faults on demand."""

from __future__ import annotations

import io
import itertools
import socket
import threading

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.streams.rtsp import free_port

BITS = 8
"""Numbers are drawn as 8 black or white columns, which survive any lossy codec."""

PERIOD = 0.02
"""Seconds from picture to picture."""


def numbered(number: int, height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """A picture of its number, modulo 256: uint8 H×W×3."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.asarray(bits, np.uint8) * 255, width // BITS)
    row = np.pad(row, (0, width - row.size), mode="edge")
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(image: npt.NDArray[np.uint8]) -> int:
    """The number that a picture of `numbered` was made of."""
    width = image.shape[1] // BITS
    columns = [image[:, bit * width + width // 4 : (bit + 1) * width - width // 4].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, value in enumerate(columns) if value > 127)


class HttpSender:
    """Serves numbered MJPEG by HTTP on 127.0.0.1: a small IP camera that can be made to misbehave.

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
                self._down.wait(PERIOD)
            connection.close()
        except OSError:
            pass


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()
