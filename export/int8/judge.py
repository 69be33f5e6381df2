"""The judge of the search: windows of labelled pictures, and what a choice of linears loses on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.evaluation.metrics import ConfusionMatrix, Scores
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.windows import plan_tiles
from export.int8.search import Outcome
from export.int8.sensitivity import Quantizer

DEFAULT_WINDOWS = 48
"""The search compares choices on these; what it chooses is then measured on all pictures."""


@dataclass(frozen=True)
class LabelledWindows:
    """Windows of the model's size, spread evenly over labelled pictures.

    Attributes:
        tiles: uint8 K x H x W x 3.
        truth: uint8 K x H x W; 255 is no label.
    """

    tiles: np.ndarray
    truth: np.ndarray


def read_windows(pictures: Sequence[LabelledTile], size: tuple[int, int], count: int) -> LabelledWindows:
    """Read windows with their labels.

    Args:
        pictures: With labels.
        size: Height and width of the model's input.
        count: Windows at most; every picture gives about as many, in even steps from its top to its bottom.

    Raises:
        EmraError: ``optimize-windows`` for a count below 1 or pictures without any label, and those of reading.
    """
    if count < 1:
        raise EmraError("optimize-windows", f"{count} windows, expected at least 1", "Change --windows")
    tiles, truth = [], []
    for number, picture in enumerate(pictures):
        quota = (number + 1) * count // len(pictures) - number * count // len(pictures)
        source = picture.source()
        plan = [tile.read for tile in plan_tiles(source.height, source.width, *size, 0)]
        quota = min(quota, len(plan))
        for k in range(quota):
            window = plan[(2 * k + 1) * len(plan) // (2 * quota)]
            missing = [(0, full - have) for full, have in zip(size, (window.height, window.width), strict=True)]
            # As the segmenter fills a tile: the last row and column are repeated, and nobody asks about them.
            tiles.append(np.pad(source.read(window), [*missing, (0, 0)], mode="edge"))
            truth.append(np.pad(picture.read_labels(window), missing, constant_values=IGNORE))
    found = LabelledWindows(np.stack(tiles), np.stack(truth))
    if (found.truth == IGNORE).all():
        raise EmraError("optimize-windows", "no pixel of the windows has a label", "Give more --windows")
    return found


class Judge:
    """Says what a choice of linears loses.

    Args:
        quantizer: Makes the variants.
        windows: What they are judged on.
        classes: Of the model.
    """

    def __init__(self, quantizer: Quantizer, windows: LabelledWindows, classes: ClassSet) -> None:
        self._quantizer = quantizer
        self._windows = windows
        self._classes = classes
        self._labels = quantizer.labels((), windows.tiles)
        self.scores = self._score(self._labels)

    def __call__(self, names: Iterable[str]) -> Outcome:
        """Quantise these linears and compare with FP32."""
        return self.outcome(self._quantizer.labels(names, self._windows.tiles))

    def outcome(self, labels: np.ndarray) -> Outcome:
        """Labels of the windows, uint8 K x H x W, compared with FP32's."""
        scores = self._score(labels)
        drops = {
            name: 100 * (before - after)
            for name, before, after in zip(self._classes.names, self.scores.iou, scores.iou, strict=True)
            if not (np.isnan(before) or np.isnan(after))
        }
        return Outcome(100 * (self.scores.miou - scores.miou), drops, float((labels == self._labels).mean()))

    def _score(self, labels: np.ndarray) -> Scores:
        matrix = ConfusionMatrix(len(self._classes))
        matrix.update(self._windows.truth, labels)
        return matrix.scores(self._classes)
