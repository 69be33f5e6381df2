"""A picture resampled to a model's ground sample distance (GSD): models know objects by their size in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.windows import Window

if TYPE_CHECKING:
    from emra_deploy.pictures.sources import ImageSource
    from emra_deploy.segmenting.segmenter import Segmenter

TOLERANCE = 0.1
"""Models are trained over a range of scales; a GSD that is off by less than this share is left as it is."""

FACTORS = (1 / 16, 16.0)
"""Outside this range the model does not suit the picture, or one of the two sizes is wrong."""

Gsd = float | tuple[float, float] | None
"""Metres a pixel, or the least and the most of a range, or not known."""

_PIECE_BYTES = 4 * 2**20


FAR = 2.0
"""From this factor on the scales are far apart, and the user is told."""


def scale_factor(picture: float | None, model: Gsd) -> float:
    """Factor by which a picture has to be enlarged to match the model's training data.

    Args:
        picture: GSD in metres a pixel, or None.
        model: Likewise, the Manifest's; of a range the end that is nearer counts, and `FACTORS` limit the change.

    Returns:
        1 where either is unknown or they differ by less than `TOLERANCE`.

    Raises:
        EmraError: ``gsd`` for a factor outside `FACTORS` where the model has one GSD.
    """
    if picture is None or model is None:
        return 1.0
    factor = _apart(picture, model)
    if abs(factor - 1) < TOLERANCE:
        return 1.0
    if not FACTORS[0] <= factor <= FACTORS[1]:
        if isinstance(model, tuple):
            return FACTORS[0] if factor < 1 else FACTORS[1]
        raise EmraError(
            "gsd",
            f"a pixel of the picture is {picture:.4g} m, the model was trained on {model:.4g} m",
            "Use a model for such pictures; if a size is wrong, give the right one with --gsd, or --gsd off",
        )
    return factor


def scale_warning(picture: float | None, model: Gsd) -> str | None:
    """What the user should know of scales that are far apart or not known, or None."""
    if model is None:
        # Without either there is nothing to compare, and nothing that the user could do.
        return None if picture is None else f"the model's GSD is unknown, and a pixel of the picture is {picture:.3g} m"
    trained = f"{model[0]:.4g} to {model[1]:.4g} m" if isinstance(model, tuple) else f"{model:.4g} m"
    if picture is None:
        return f"the picture's GSD is unknown, and the model was trained on {trained}: give it with --gsd METRES"
    factor = _apart(picture, model)
    if 1 / FAR < factor < FAR:
        return None
    seen = picture / scale_factor(picture, model)
    return (
        f"a pixel of the picture is {picture:.3g} m, and the model was trained on {trained}: "
        f"it sees pixels of {seen:.3g} m, and what they show may be new to it"
    )


def _apart(picture: float, model: float | tuple[float, float]) -> float:
    low, high = model if isinstance(model, tuple) else (model, model)
    return picture / min(max(picture, low), high)


class ResampledSource:
    """A source enlarged or reduced, window by window; an `ImageSource`.

    Pixels are interpolated linearly, and averaged where they are reduced; those without data have no part in it.
    Every window has the pixels of the whole picture resampled at once, except for rounding.

    Args:
        source: The picture.
        factor: New pixels per old one, on each side.
    """

    def __init__(self, source: ImageSource, factor: float) -> None:
        self._source = source
        self.factor = factor
        self.height = max(1, round(source.height * factor))
        self.width = max(1, round(source.width * factor))

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """The pixels of a window: uint8 h×w×3."""
        from PIL import Image

        down, across = self._source.height / self.height, self._source.width / self.width
        top, left, bottom, right = (
            window.top * down,
            window.left * across,
            window.bottom * down,
            window.right * across,
        )
        # The filter's reach beyond the window: one old pixel, or one new one where that is larger.
        y0, y1 = _reach(top, bottom, down, self._source.height)
        x0, x1 = _reach(left, right, across, self._source.width)
        outer = Window(y0, x0, y1 - y0, x1 - x0)
        box = (left - x0, top - y0, min(right, x1) - x0, min(bottom, y1) - y0)

        def resized(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
            picture = Image.fromarray(plane)
            return np.asarray(picture.resize((window.width, window.height), Image.Resampling.BILINEAR, box))

        pixels, valid = self._source.read(outer), self._source.valid(outer)
        if valid is None:
            return resized(pixels)
        # The share of each new pixel that holds data; 0 only where `valid` is False, too.
        share = resized(valid.astype(np.float32))
        result = np.zeros((window.height, window.width, 3), np.uint8)
        for band in range(3):
            total = resized(np.where(valid, pixels[..., band], 0).astype(np.float32))
            mean = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
            result[..., band] = np.rint(np.clip(mean, 0, 255))
        return result

    def valid(self, window: Window) -> npt.NDArray[np.bool_] | None:
        """Which pixels hold data: those that touch a pixel of the source that does; None when all do."""
        top, bottom = _touched(self.height, self._source.height, window.top, window.bottom)
        left, right = _touched(self.width, self._source.width, window.left, window.right)
        outer = Window(int(top[0]), int(left[0]), int(bottom[-1] - top[0]), int(right[-1] - left[0]))
        valid = self._source.valid(outer)
        if valid is None:
            return None
        rows = _any(valid, top - outer.top, bottom - outer.top)
        touched: npt.NDArray[np.bool_] = _any(rows.T, left - outer.left, right - outer.left).T
        return touched

    def rows(self, segmenter: Segmenter, start: int = 0) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """Segment the picture; yield labels on the grid of the source, from its row ``start`` on.

        Each pixel of the source gets the label of the new pixel in which its middle lies, unless it holds no data.
        """
        rows = _nearest(self._source.height, self.height)
        columns = _nearest(self._source.width, self.width)
        if start >= self._source.height:
            return
        width = self._source.width
        step = max(1, _PIECE_BYTES // width)
        for window, labels in segmenter.segment_rows(self, int(rows[start])):
            first, last = np.searchsorted(rows, [window.top, window.bottom])
            # In pieces: where the model's pixels are larger, one row of tiles becomes many rows of the source.
            for top in range(max(int(first), start), int(last), step):
                bottom = min(top + step, int(last))
                part, whole = labels[rows[top:bottom] - window.top][:, columns], Window(top, 0, bottom - top, width)
                valid = self._source.valid(whole)
                if valid is not None:
                    part[~valid] = IGNORE
                yield whole, part


def _reach(first: float, last: float, scale: float, length: int) -> tuple[int, int]:
    margin = max(1.0, scale) + 1
    return max(0, math.floor(first - margin)), min(length, math.ceil(last + margin))


def _touched(count: int, others: int, first: int, last: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which of ``others`` equal parts of a line each of its ``count`` equal parts touches, from ``first`` to ``last``.

    Returns:
        The first of them, and the one after the last.
    """
    index = np.arange(first, last, dtype=np.int64)
    return index * others // count, -(-(index + 1) * others // count)


def _any(
    valid: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether any of the rows from each start to its stop holds data, column by column."""
    # Every other of the ranges between a start and a stop is one; the last stop may be the end.
    bounds = np.stack([starts, stops], axis=1).reshape(-1)
    found: npt.NDArray[np.bool_] = np.logical_or.reduceat(np.pad(valid, ((0, 1), (0, 0))), bounds, axis=0)[::2]
    return found


def _nearest(count: int, others: int) -> npt.NDArray[np.int64]:
    """For each of ``count`` equal parts of a line, which of ``others`` equal parts its middle lies in."""
    index: npt.NDArray[np.int64] = ((2 * np.arange(count, dtype=np.int64) + 1) * others) // (2 * count)
    return index
