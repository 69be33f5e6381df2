"""How a stream is read and processed."""

from __future__ import annotations

from dataclasses import dataclass, field

from emra_deploy.errors import EmraError

TRANSPORTS = ("tcp", "udp")
LONGEST = 86_400
"""Upper limit of every time, in seconds."""

FASTEST = 100_000
"""Upper limit of frames per second."""

_IN_ORDER = "deliver every frame in order, as of a file; for URLs and gst: pipelines that come to an end"


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is read and processed. All times are in seconds.

    `emra_deploy.cli.flags` makes the flags of ``emra stream`` of these attributes, with the texts below as their help.

    Attributes:
        live: False delivers every frame in order, True only the newest, with reconnection. None decides by the source:
            files and iterables are recordings, everything else is live.
        every: Segment one frame in N.
        fps: Frames per second of a recording, in place of its own times. Raw H.264, H.265, AV1 and MJPEG hold none.
        max_age: Discard results of a live source that are older than N seconds.
        stall_after: Report a live source as degraded after N seconds without a frame.
        timeout: Reconnect after waiting N seconds for a connection or for its next packet.
        give_up_after: Fail after N seconds without a frame.
        finish_within: Time that the current frame has after `Stream.stop`.
        rtsp_transport: Transport of RTSP packets. TCP loses none and passes firewalls.
        input_options: Option for FFmpeg's demuxer, such as video_size=1280x720 or framerate=30. May be repeated.

    Raises:
        EmraError: ``stream-option`` for values out of range.
    """

    live: bool | None = field(default=None, metadata={"flag": "--in-order", "value": False, "help": _IN_ORDER})
    every: int = 1
    fps: float | None = None
    max_age: float | None = None
    stall_after: float = 1.0
    timeout: float = 5.0
    give_up_after: float | None = field(default=None, metadata={"flag": "--give-up"})
    finish_within: float = field(default=1.0, metadata={"flag": False})
    rtsp_transport: str = field(default="tcp", metadata={"flag": "--transport", "one_of": TRANSPORTS})
    input_options: tuple[str, ...] = field(default=(), metadata={"flag": "--input-option", "metavar": "NAME=VALUE"})

    def __post_init__(self) -> None:
        if self.every < 1:
            raise _wrong("every", self.every, "1 or more")
        if self.fps is not None and not 0 < self.fps <= FASTEST:
            raise _wrong("fps", self.fps, f"more than 0 and at most {FASTEST}")
        for name in ("max_age", "stall_after", "timeout", "give_up_after"):
            value = getattr(self, name)
            # NaN fails every comparison, so it is refused as well.
            if value is not None and not 0 < value <= LONGEST:
                raise _wrong(name, value, f"more than 0 and at most {LONGEST} seconds")
        if not 0 <= self.finish_within <= LONGEST:
            raise _wrong("finish_within", self.finish_within, f"0 to {LONGEST} seconds")
        if self.rtsp_transport not in TRANSPORTS:
            raise _wrong("rtsp_transport", self.rtsp_transport, " or ".join(TRANSPORTS))
        for text in self.input_options:
            if not isinstance(text, str) or text.find("=") < 1:
                raise _wrong("input_options", repr(text), "NAME=VALUE")

    @property
    def demuxer(self) -> dict[str, str]:
        """`input_options` by name."""
        pairs = (text.partition("=") for text in self.input_options)
        return {name: value for name, _, value in pairs}


def _wrong(name: str, value: object, expected: str) -> EmraError:
    return EmraError("stream-option", f"{name} is {value}, expected {expected}", f"Correct {name}")
