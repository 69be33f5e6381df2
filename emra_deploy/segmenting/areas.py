"""The area that each class covers in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, ClassSet

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ClassArea:
    """The extent of one class.

    Attributes:
        name: Name of the class.
        pixels: Number of pixels with its label.
        fraction: Of the labelled pixels, 0 to 1; 0 when there are none.
        square_metres: Ground area, or None where the size of a pixel is unknown.
    """

    name: str
    pixels: int
    fraction: float
    square_metres: float | None


def count_labels(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count each label: int64 with 256 values for uint8 of any shape. Counts of parts of a raster may be added."""
    counts = np.zeros(256, np.int64)
    flat = labels.reshape(-1)
    # bincount needs 8 bytes per pixel, so a large map is counted in pieces.
    for start in range(0, flat.size, _CHUNK):
        counts += np.bincount(flat[start : start + _CHUNK], minlength=256)
    return counts


def class_areas(
    counts: npt.NDArray[np.int64], classes: ClassSet, pixel_area_m2: float | npt.NDArray[np.float64] | None = None
) -> tuple[ClassArea, ...]:
    """Areas of all classes, in label order.

    Args:
        counts: Result of `count_labels`, 256 values; unlabelled pixels (255) are ignored.
        classes: The C classes.
        pixel_area_m2: Ground area of a pixel in square metres, or the mean of each label's pixels, or None.

    Raises:
        EmraError: ``class-count`` when there are labels from C to 254.
    """
    beyond = np.flatnonzero(counts[len(classes) : IGNORE])
    if beyond.size:
        raise EmraError(
            "class-count",
            f"Label {len(classes) + int(beyond[0])} occurs, and there are {len(classes)} classes",
            "Use the classes that the labels were made with",
        )
    total = int(counts[: len(classes)].sum())
    metres = None if pixel_area_m2 is None else counts * pixel_area_m2
    return tuple(
        ClassArea(
            name=name,
            pixels=pixels,
            fraction=pixels / total if total else 0.0,
            square_metres=None if metres is None else float(metres[label]),
        )
        for label, (name, pixels) in enumerate(zip(classes.names, map(int, counts), strict=False))
    )
