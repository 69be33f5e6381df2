"""What can be read a frame at a time, and how the right one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from emra_deploy.errors import EmraError
from emra_deploy.stream.address import Address, Kind, parse_source
from emra_deploy.stream.frames import Grab, Picture
from emra_deploy.stream.options import StreamOptions


class FrameSource(Protocol):
    """One connection to a source. Made, used and closed by one thread."""

    def grab(self) -> Grab | None:
        """The next frame; None when the source says that it is over.

        Raises:
            SourceLostError: When trying again may help.
            EmraError: When it will not.
        """
        ...

    def take_bad_packets(self) -> int:
        """How many packets came damaged since the last call."""
        ...

    def close(self) -> None:
        """Let go of it. Called once, after which it is of no use."""
        ...


@dataclass(frozen=True)
class Opener:
    """How to connect to a source.

    Attributes:
        connect: Makes a connection; blocks until it stands. Raises as `FrameSource.grab`.
        shown: Its name for messages.
        live: Whether the newest frame wins.
        restartable: Whether `connect` may be called again.
    """

    connect: Callable[[], FrameSource]
    shown: str
    live: bool
    restartable: bool


SourceLike = str | Address | Opener | Iterable[Picture] | Callable[[], Picture | None]
"""What a stream can be made of: text as for `parse_source`, pictures, or a function that gives the next one. An
`Opener` is for sources of your own that can be lost and found again, such as the library of a camera's maker."""


def make_opener(source: SourceLike, options: StreamOptions) -> Opener:
    """Find out what a source is. Text is checked as far as that is possible without connecting.

    Raises:
        EmraError: As `parse_source`; ``stream-source`` for other objects, ``missing-library``.
    """
    if isinstance(source, Opener):
        return source
    if isinstance(source, str):
        source = parse_source(source)
    if isinstance(source, Address):
        return _address_opener(source, options)
    from emra_deploy.stream.arrays import CallableSource, IterableSource

    live = bool(options.live)
    if isinstance(source, Iterable):
        pictures = source
        return Opener(lambda: IterableSource(pictures), "the iterable", live, restartable=False)
    if callable(source):
        function = source
        return Opener(lambda: CallableSource(function), "the function", live, restartable=False)
    raise EmraError(
        "stream-source",
        f"a {type(source).__name__} was given, expected text, an iterable of pictures or a function",
        "Give one of these",
    )


def _address_opener(address: Address, options: StreamOptions) -> Opener:
    live = address.live if options.live is None else options.live
    if live and address.kind is Kind.FILE:
        raise EmraError("stream-option", "a file cannot be read as a live source", "Leave live out", address.target)
    connect: Callable[[], FrameSource]
    if address.kind is Kind.GSTREAMER:
        from emra_deploy.stream.gstreamer import GStreamerSource, load_gstreamer

        load_gstreamer()

        def connect() -> FrameSource:
            return GStreamerSource(address.target, options, live=live)
    else:
        from emra_deploy.stream.video import VideoSource, load_av

        load_av()

        def connect() -> FrameSource:
            return VideoSource(address, options)

    return Opener(connect, address.shown, live, restartable=live)
