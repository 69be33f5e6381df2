"""Live streams and recordings: frames in, masks out, for hours, whatever the network does.

A frame's way: `Connection.read` decodes it in the reader thread, `FrameQueue` holds it, `Stream` takes it in the
caller's thread, has the segmenter label it and returns a `StreamResult`, which may go to a `Sink`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emra_deploy.stream.options import StreamOptions
    from emra_deploy.stream.run import Stream, StreamResult
    from emra_deploy.stream.source import Connection, Frame, Source, SourceLostError
    from emra_deploy.stream.status import Counters, StateChange, StreamState, StreamStatus

_HOMES = {
    "Connection": "source",
    "Counters": "status",
    "Frame": "source",
    "Source": "source",
    "SourceLostError": "source",
    "StateChange": "status",
    "Stream": "run",
    "StreamOptions": "options",
    "StreamResult": "run",
    "StreamState": "status",
    "StreamStatus": "status",
}

__all__ = [
    "Connection",
    "Counters",
    "Frame",
    "Source",
    "SourceLostError",
    "StateChange",
    "Stream",
    "StreamOptions",
    "StreamResult",
    "StreamState",
    "StreamStatus",
]


# On demand, so that the command line can read the options without loading NumPy.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
