"""Validation of a whole data set before training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.windows import Window
from training.data.base import AerialDataset, Tile
from training.data.codecs import ColourCodec, IndexCodec
from training.data.pairing import Problems
from training.data.readers import is_tiff, mask_palette, read_stored

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
        ignored_values: The values of masks there, in words, with their numbers of pixels, the most frequent first.
        problems: One error per faulty file, or one for all of them.
        warnings: What may be intended, such as a class without a pixel.
    """

    tiles: int
    pixels: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    ignored_values: tuple[tuple[str, int], ...]
    problems: tuple[EmraError, ...]
    warnings: tuple[EmraError, ...]

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
    ignored: Counter[str] = Counter()
    problems: list[EmraError] = []
    warnings: list[EmraError] = []
    for tile in dataset.tiles:
        try:
            if not full:
                _exists(tile)
                continue
            here = _decode(tile)
            counts += here
            if here[IGNORE]:
                ignored += _ignored_values(tile)
            if not warnings and tile.label_path is not None:
                warnings += _palette_warnings(dataset, tile, here)
        except EmraError as error:
            problems.append(error)
    present = counts[: len(dataset.classes)]
    if full and dataset.labelled and not problems:
        fault, empty = _empty_classes(dataset, present, ignored)
        problems += fault
        warnings += empty
    return DatasetSummary(
        tiles=len(dataset.tiles),
        pixels=dataset.pixels,
        class_pixels=tuple(int(count) for count in present),
        ignored_pixels=int(counts[IGNORE]),
        ignored_values=tuple(ignored.most_common()),
        problems=tuple(problems),
        warnings=tuple(warnings),
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
    for warning in summary.warnings:
        logger.warning("%s", warning)
    return summary


def _empty_classes(
    dataset: AerialDataset, present: npt.NDArray[np.int64], ignored: Counter[str]
) -> tuple[list[EmraError], list[EmraError]]:
    """Problems and warnings about classes that no pixel has."""
    codec, path = dataset.tiles[0].codec, dataset.tiles[0].label_path
    names = dataset.classes.names
    empty = [name for name, count in zip(names, present, strict=True) if not count]
    if not empty:
        return [], []
    cause = f"no pixel of class {', '.join(empty)} in split {dataset.split!r}"
    remedy = "Check that the masks and the classes belong together"
    if ignored:
        share = sum(ignored.values()) / dataset.pixels
        shown = ", ".join(value for value, _ in ignored.most_common(3)) + (", ..." if len(ignored) > 3 else "")
        cause += f'; {shown} ({share:.2%} of the pixels) was read as "no label"'
        if dataset.described:
            remedy = _mapping(codec, names, empty, ignored)
    if len(empty) == len(names):
        cause = f"no pixel of split {dataset.split!r} has a label" + cause.partition("split " + repr(dataset.split))[2]
        return [EmraError("no-labels", cause, remedy, path)], []
    found = [EmraError("class-empty", cause, remedy, path)]
    # Nothing can be learned from one class, and nobody asked for these values to be dropped.
    unasked = not codec.strict or (isinstance(codec, IndexCodec) and codec.assumed)
    return (found, []) if ignored and unasked and len(empty) == len(names) - 1 else ([], found)


def _mapping(codec: ColourCodec | IndexCodec, names: tuple[str, ...], empty: list[str], ignored: Counter[str]) -> str:
    """The lines of ``classes.yaml`` that give the most frequent ignored value to the first empty class."""
    value = ignored.most_common(1)[0][0]
    label, stored = names.index(empty[0]), value.rpartition(" ")[2]
    if isinstance(codec, ColourCodec):
        return f'If {value} means {empty[0]}, give it the colour "{stored}" in the list of classes'
    of_class = {label: raw for raw, label in codec.labels}
    values = [stored if i == label else str(of_class[i]) for i in range(len(names))]
    rest = [str(raw) for raw, to in codec.labels if to == IGNORE and str(raw) != stored]
    return (
        f"If {value} means {empty[0]}, write values: [{', '.join(values)}] and ignore: [{', '.join(rest)}] in "
        f'classes.yaml; if it means "no label", write ignore: [{", ".join([*rest, stored])}]'
    )


def _palette_warnings(dataset: AerialDataset, tile: Tile, counts: npt.NDArray[np.int64]) -> list[EmraError]:
    """A warning when a mask's own palette gives its numbers the colours of other classes."""
    if not isinstance(tile.codec, IndexCodec) or tile.label_path is None:
        return []
    table = mask_palette(tile.label_path)
    if table is None:
        return []
    colours = list(dataset.classes.palette)
    for value, label in tile.codec.labels:
        shown = tuple(int(channel) for channel in table[value])
        if label == IGNORE or not counts[label] or shown == colours[label] or shown not in colours:
            continue
        other = dataset.classes.names[colours.index(shown)]
        return [
            EmraError(
                "mask-palette",
                f"value {value} is class {dataset.classes.names[label]}, but the mask's palette gives it the colour of "
                f"class {other}",
                "Write masks: colour in classes.yaml, or put the values of the classes in order",
                tile.label_path,
            )
        ]
    return []


def _ignored_values(tile: Tile) -> Counter[str]:
    """The values of a mask where it has no label, in words, with their numbers of pixels."""
    path, codec = tile.label_path, tile.codec
    found: Counter[str] = Counter()
    if path is None:
        return found
    for band in _bands(tile) if is_tiff(path) else [Window(0, 0, tile.height, tile.width)]:
        stored = read_stored(path, codec, band)
        pixels = stored[codec.decode(stored, path) == IGNORE]
        values, counts = np.unique(pixels, axis=0, return_counts=True)
        found.update({codec.describe(value): int(count) for value, count in zip(values, counts, strict=True)})
    return found


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
