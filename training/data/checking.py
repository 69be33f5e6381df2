"""Validation of a whole data set before training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.windows import Window
from training.data.base import AerialDataset, Tile
from training.data.pairing import Problems

logger = logging.getLogger(__name__)

_BAND_ROWS = 1024


@dataclass(frozen=True)
class DatasetSummary:
    """Contents and problems of a split.

    Attributes:
        tiles: Number of tiles.
        pixels: Pixels of all tiles.
        class_pixels: C counts of labelled pixels, in label order; all 0 if labels were not read.
        ignored_pixels: Pixels without a label.
        problems: One error per faulty file.
    """

    tiles: int
    pixels: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    problems: tuple[EmraError, ...]

    @property
    def fractions(self) -> tuple[float, ...]:
        """C shares of the labelled pixels, 0 to 1; all 0 if nothing is labelled."""
        total = sum(self.class_pixels)
        return tuple(count / total if total else 0.0 for count in self.class_pixels)


def summarise(dataset: AerialDataset, full: bool = True) -> DatasetSummary:
    """Collect problems without raising them.

    Args:
        dataset: The split.
        full: Decode every pixel of every picture and mask; otherwise only check that the files still exist.
    """
    counts = np.zeros(256, np.int64)
    problems: list[EmraError] = []
    for tile in dataset.tiles:
        try:
            if full:
                counts += _decode(tile)
            else:
                _exists(tile)
        except EmraError as error:
            problems.append(error)
    classes = len(dataset.classes)
    return DatasetSummary(
        tiles=len(dataset.tiles),
        pixels=dataset.pixels,
        class_pixels=tuple(int(count) for count in counts[:classes]),
        ignored_pixels=int(counts[IGNORE]),
        problems=tuple(problems),
    )


def check(dataset: AerialDataset, full: bool = True) -> DatasetSummary:
    """Validate a data set, and raise all its problems at once.

    Args:
        dataset: The split.
        full: Decode every pixel of every picture and mask: finds truncated files and unknown labels. Dubai
            takes seconds, LoveDA some minutes.

    Returns:
        Its contents.

    Raises:
        EmraError: The problem, or one error that lists them.
    """
    summary = summarise(dataset, full)
    if summary.problems:
        folder = Path(os.path.commonpath([tile.image_path.parent for tile in dataset.tiles]))
        Problems(list(summary.problems)).throw(folder)
    if full and dataset.labelled:
        if not any(summary.class_pixels):
            raise EmraError(
                "no-labels",
                f"no pixel of split {dataset.split!r} has a label",
                "Check that the masks and the classes belong together",
                dataset.tiles[0].label_path,
            )
        absent = [name for name, count in zip(dataset.classes.names, summary.class_pixels, strict=True) if not count]
        if absent:
            logger.warning("%s, split %s: no pixel of class %s", dataset.name, dataset.split, ", ".join(absent))
    return summary


def _decode(tile: Tile) -> npt.NDArray[np.int64]:
    counts = np.zeros(256, np.int64)
    for band in _bands(tile):
        tile.read_image(band)
        if tile.label_path is not None:
            counts += np.bincount(tile.read_labels(band).ravel(), minlength=256)
    return counts


def _bands(tile: Tile) -> Iterator[Window]:
    for top in range(0, tile.height, _BAND_ROWS):
        yield Window(top, 0, min(_BAND_ROWS, tile.height - top), tile.width)


def _exists(tile: Tile) -> None:
    for path in (tile.image_path, tile.label_path):
        if path is not None and not path.is_file():
            raise EmraError("input-missing", "there is no such file", "Restore it from the original data", path)
