"""How a stream is read and run."""

from __future__ import annotations

from dataclasses import dataclass

from emra_deploy.errors import EmraError

TRANSPORTS = ("tcp", "udp")
"""How RTSP may carry its packets. TCP loses none, and passes firewalls."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is read and run; times are seconds.

    Attributes:
        live: True for newest-frame-wins with reconnection, False for every frame in order, None to decide by the
            source: files and iterables are recordings, everything else is live.
        every: One frame in this many is segmented.
        max_age: Results of frames older than this are not delivered; None for no limit. Of live sources only.
        stall_after: A live source without a frame for so long is degraded.
        open_timeout: Longest wait for a connection and its first packets.
        read_timeout: Longest wait for a packet before the connection is given up.
        give_up_after: Without any frame for so long, the stream fails; None for never.
        finish_within: After `stop`, the frame at work has this long to be finished.
        rtsp_transport: One of `TRANSPORTS`.
        input_options: Names and values for FFmpeg's demuxer, such as ``(("video_size", "1280x720"),)``.

    Raises:
        EmraError: ``stream-option`` for values out of range.
    """

    live: bool | None = None
    every: int = 1
    max_age: float | None = None
    stall_after: float = 1.0
    open_timeout: float = 5.0
    read_timeout: float = 5.0
    give_up_after: float | None = None
    finish_within: float = 1.0
    rtsp_transport: str = "tcp"
    input_options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise _wrong("every", self.every, "1 or more")
        for name in ("max_age", "stall_after", "open_timeout", "read_timeout", "give_up_after"):
            value = getattr(self, name)
            # Not-a-number compares false, and so is refused as well.
            if value is not None and not 0 < value <= 86_400:
                raise _wrong(name, value, "more than 0 and at most 86400 seconds")
        if not 0 <= self.finish_within <= 86_400:
            raise _wrong("finish_within", self.finish_within, "0 to 86400 seconds")
        if self.rtsp_transport not in TRANSPORTS:
            raise _wrong("rtsp_transport", self.rtsp_transport, " or ".join(TRANSPORTS))


def _wrong(name: str, value: object, expected: str) -> EmraError:
    return EmraError("stream-option", f"{name} is {value}, expected {expected}", "Correct it")
