"""Live streams and recordings: frames in, masks out, for hours, whatever the network does.

`Stream` is the heart: a reader thread puts decoded frames into a bounded `FrameBuffer`, a watching thread keeps an
eye on it, and the iterating thread segments.
"""

from emra_deploy.stream.frames import Frame
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.run import Stream, StreamResult
from emra_deploy.stream.status import Counters, StateChange, StreamState, StreamStatus

__all__ = ["Counters", "Frame", "StateChange", "Stream", "StreamOptions", "StreamResult", "StreamState", "StreamStatus"]
