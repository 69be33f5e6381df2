"""Pictures that another program makes: an iterable of arrays, or a function that returns the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from emra_deploy.pictures.sources import ArraySource
from emra_deploy.stream.frames import Grab, Picture


class IterableSource:
    """Frames out of an iterable of uint8 H×W×3 RGB arrays."""

    def __init__(self, pictures: Iterable[Picture]) -> None:
        self._pictures: Iterator[Picture] = iter(pictures)

    def grab(self) -> Grab | None:
        """The next one; None at the end.

        Raises:
            EmraError: ``image-array`` for something else than a picture.
        """
        # Not "for picture in": the iterator may be a generator that is to be resumed once per frame.
        for picture in self._pictures:
            return _own(picture)
        return None

    def take_bad_packets(self) -> int:
        """Always 0."""
        return 0

    def close(self) -> None:
        """End a generator, so that what it holds open is closed."""
        close = getattr(self._pictures, "close", None)
        if close is not None:
            close()


class CallableSource:
    """Frames out of a function that waits for the next uint8 H×W×3 RGB array, and returns None at the end."""

    def __init__(self, function: Callable[[], Picture | None]) -> None:
        self._function = function

    def grab(self) -> Grab | None:
        """The next one; None at the end.

        Raises:
            EmraError: ``image-array`` for something else than a picture.
        """
        picture = self._function()
        return None if picture is None else _own(picture)

    def take_bad_packets(self) -> int:
        """Always 0."""
        return 0

    def close(self) -> None:
        """Nothing to do."""


def _own(picture: Picture) -> Grab:
    """A copy of the picture: cameras fill one buffer again and again, and a frame may wait in the queue."""
    checked = ArraySource(picture)
    owned = picture.copy()
    return Grab(lambda: owned, (checked.height, checked.width))
