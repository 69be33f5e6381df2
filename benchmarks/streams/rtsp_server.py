"""A real RTSP server, GStreamer's: run by the system's Python, which has the bindings.

Usage: python3 rtsp_server.py PORT WIDTH HEIGHT FPS serves a moving ball as rtsp://127.0.0.1:PORT/live;
python3 rtsp_server.py PORT OUT.mkv takes a stream at rtsp://127.0.0.1:PORT/overlay and keeps it in a file. Both print
"ready". It stands alone: nothing of the project is imported, because the system's Python lacks it.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    """Serve until killed."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    port, *words = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    path = _serve(factory, *words) if len(words) == 3 else _take(factory, GstRtspServer, *words)
    server.get_mount_points().add_factory(path, factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


def _serve(factory: Any, width: str, height: str, fps: str) -> str:
    factory.set_launch(
        f"( videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate={fps}/1 "
        "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 threads=1 ! rtph264pay name=pay0 pt=96 )"
    )
    return "/live"


def _take(factory: Any, library: Any, path: str) -> str:
    factory.set_transport_mode(library.RTSPTransportMode.RECORD)
    factory.set_launch(
        "( rtph264depay name=depay0 ! h264parse ! matroskamux streamable=true "
        f"! filesink location={path} sync=false buffer-mode=unbuffered )"
    )
    return "/overlay"


if __name__ == "__main__":
    main()
