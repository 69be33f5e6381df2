"""Acceptance of a choice of linears by its losses on windows of labelled pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.windows import plan_tiles
from export.compare.cached import Cached
from export.compare.report import Report
from export.compare.tiles import PlainTile
from export.int8.search import Outcome
from export.int8.sensitivity import Quantizer

DEFAULT_WINDOWS = 48
"""The search compares choices on these; the one it finds is then measured on all pictures."""


def read_windows(pictures: Sequence[LabelledTile], size: tuple[int, int], count: int) -> list[PlainTile]:
    """Read windows with their labels.

    Args:
        pictures: With labels.
        size: Height and width of the model's input.
        count: Windows at most; every picture gives about as many, in even steps from its top to its bottom.

    Returns:
        Windows of that size, or of the picture where it is smaller.

    Raises:
        EmraError: ``optimize-windows`` for a count below 1 or pictures without any label, and those of reading.
    """
    if count < 1:
        raise EmraError("optimize-windows", f"{count} windows, expected at least 1", "Change --windows")
    found: list[PlainTile] = []
    for number, picture in enumerate(pictures):
        quota = (number + 1) * count // len(pictures) - number * count // len(pictures)
        source = picture.source()
        plan = [tile.read for tile in plan_tiles(source.height, source.width, *size, 0)]
        quota = min(quota, len(plan))
        for k in range(quota):
            window = plan[(2 * k + 1) * len(plan) // (2 * quota)]
            name = f"{picture.name} {window.top} {window.left}"
            found.append(PlainTile(name, source.read(window), picture.read_labels(window)))
    if all((one.read_labels() == IGNORE).all() for one in found):
        raise EmraError("optimize-windows", "no pixel of the windows has a label", "Give more --windows")
    return found


class Acceptance:
    """Measures the losses of a choice of linears against FP32.

    Args:
        quantizer: Makes the variants.
        windows: Labelled tiles to compare on.
    """

    def __init__(self, quantizer: Quantizer, windows: Sequence[LabelledTile]) -> None:
        self._quantizer = quantizer
        self._windows = windows
        self._reference = Cached(quantizer.open(()), ("classes",))

    def __call__(self, names: Iterable[str]) -> Outcome:
        """Quantise these linears and compare with FP32."""
        return outcome_of(self._quantizer.compare(self._reference, names, self._windows))


def outcome_of(report: Report) -> Outcome:
    """The losses in a comparison with FP32 on labelled tiles."""
    drops = {name: drop for name, drop in (report.iou_drop or {}).items() if not math.isnan(drop)}
    return Outcome(report.miou_drop or 0.0, drops, report.agreement)
