"""Sources whose every move is decided by the test, and a segmenter that costs nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from emra_deploy.pictures.sources import ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.segmentation import Segmentation
from emra_deploy.stream.source import Frame, Source, SourceLostError
from tests.emra_deploy.stream.videos import numbered
from tests.onnx_models import CLASSES

PATIENCE = 20.0
"""Seconds after which a test that waits for something fails. Never a measure of speed."""


def wait_for(condition: Callable[[], bool], what: str = "") -> None:
    """Return when the condition holds; fail when it does not in a long time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.002)


def _label(source: ImageSource) -> Segmentation:
    source.read(Window(0, 0, source.height, source.width))
    return Segmentation(np.zeros((source.height, source.width), np.uint8), CLASSES)


def labelling(label: Callable[[ImageSource], Segmentation]) -> Any:
    """A segmenter that is one function."""
    return SimpleNamespace(segment_source=label, restarts=0)


label_all = labelling(_label)
"""Label 0 for each pixel, after reading the picture as a segmenter does."""


class Script:
    """A scripted source: frames are pushed by `push`; `lose`, `end` and `hang` do as they say."""

    bad_packets = 0

    def __init__(self, *, live: bool = True, restartable: bool | None = None) -> None:
        self.changed = threading.Condition()
        self.items: list[object] = []
        self.connects = 0
        self.closes = 0
        self.refuse: Exception | None = None
        self.release = threading.Event()
        self.source = Source(self.connect, "the script", live, live if restartable is None else restartable)

    def connect(self) -> Script:
        self.connects += 1
        if self.refuse is not None:
            raise self.refuse
        return self

    def push(self, number: int, size: tuple[int, int] = (48, 64), **changes: object) -> None:
        self.say(Frame(lambda: numbered(number, *size), size, **changes))

    def say(self, item: object) -> None:
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def lose(self, reason: str = "cable cut") -> None:
        self.say(SourceLostError(reason))

    def end(self) -> None:
        self.say(None)

    def hang(self) -> None:
        self.say("hang")

    def read(self) -> Frame | None:
        with self.changed:
            while not self.items:
                if not self.changed.wait(PATIENCE):
                    return None
            item = self.items.pop(0)
        if item == "hang":
            self.release.wait(PATIENCE)
            return None
        if isinstance(item, Exception):
            raise item
        assert item is None or isinstance(item, Frame)
        return item

    def close(self) -> None:
        self.closes += 1


def numbers(count: int) -> Iterator[np.ndarray]:
    """Numbered pictures."""
    return (numbered(number) for number in range(count))
