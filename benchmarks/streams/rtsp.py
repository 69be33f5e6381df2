"""GStreamer's RTSP server in a separate process."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"


def why_no_rtsp_server() -> str | None:
    """The requirement of `RtspServer` that this machine lacks, or None."""
    if not Path(SYSTEM_PYTHON).exists() or shutil.which("gst-inspect-1.0") is None:
        return "no GStreamer here: apt-get install gstreamer1.0-tools python3-gi"
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode:
        return "no RTSP server here: apt-get install gir1.2-gst-rtsp-server-1.0"
    if subprocess.run(["gst-inspect-1.0", "--exists", "x264enc"], capture_output=True, check=False).returncode:
        return "no H.264 encoder here: apt-get install gstreamer1.0-plugins-ugly"
    return None


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """An unused port of the loopback."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class RtspServer:
    """GStreamer's RTSP server in a separate process, which can be killed, stopped and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"rtsp://user:secret@127.0.0.1:{self.port}/live"
        self.process: subprocess.Popen[str] | None = None

    def start(self, width: int = 64, height: int = 48, fps: int = 50) -> None:
        """Serve a moving ball."""
        self._start(width, height, fps)

    def take(self, path: Path) -> None:
        """Receive a stream at the path /overlay into a file."""
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
