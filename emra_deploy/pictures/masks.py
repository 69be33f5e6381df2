"""The one place that decides which pixels of a raster hold data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Read = Callable[[Sequence[int]], NDArray[Any]]
"""Reads bands, numbered from 1, of a window: n x h x w."""


class DataMask:
    """The rules by which a pixel holds data; it does where all of them say so.

    - No alpha band is 0 there. GDAL looks only at the last of two or four bands, and at none where there is a nodata
      value.
    - The file's own mask (internal, or ``.msk``) is not 0. GDAL then ignores nodata values.
    - Not all bands hold their nodata value: in a raster with nodata 0, red has it in two bands. A nodata value that
      cannot be a colour must be in none of the bands that are read.
    - No band that is read holds a value that is not finite.

    Args:
        dataset: The open rasterio dataset.
        flags: What GDAL says of the mask of each of its bands.
        bands: Numbers of the bands that are read as colours.
        alpha: Numbers of the alpha bands.
        is_colour: Whether a stored value of a band, given by its number, may be a colour.
    """

    def __init__(
        self,
        dataset: Any,
        flags: Sequence[Sequence[Any]],
        bands: Sequence[int],
        alpha: Sequence[int],
        is_colour: Callable[[int, float], bool],
    ) -> None:
        from rasterio.enums import MaskFlags

        # The rules that are applied here, by alpha bands and nodata values; what is left are masks of the file.
        ours = ({MaskFlags.all_valid}, {MaskFlags.nodata}, {MaskFlags.per_dataset, MaskFlags.alpha})
        self.in_file = any(set(flags[band - 1]) not in ours for band in bands)
        self._bands, self._alpha = tuple(bands), tuple(alpha)
        self._others = tuple(set(range(1, dataset.count + 1)) - {*bands, *alpha})
        self._floating = any(np.dtype(dataset.dtypes[band - 1]).kind == "f" for band in bands)
        self._nodata = dict(enumerate(dataset.nodatavals, 1))
        self._foreign = [
            index
            for index, band in enumerate(bands)
            if self._nodata[band] is not None and not is_colour(band, self._nodata[band])
        ]

    def of(self, read: Read, valid: NDArray[np.bool_]) -> None:
        """Clear what holds no data by its values, in ``valid``, h x w of the window that ``read`` reads."""
        if self._alpha:
            # Comparison is false for alpha that is not a number, too.
            valid &= (read(self._alpha) > 0).all(axis=0)
        nodata = all(self._nodata[band] is not None for band in self._bands)
        if not (self._floating or self._foreign or nodata):
            return
        values = read(self._bands)
        if self._floating:
            valid &= np.isfinite(values).all(axis=0)
        for index in self._foreign:
            valid &= values[index] != self._nodata[self._bands[index]]
        if nodata:
            empty = self._empty(self._bands, values)
            if self._others and empty.any():
                empty &= self._empty(self._others, read(self._others))
            valid &= ~empty

    def _empty(self, bands: Sequence[int], values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where all bands hold their nodata value; nowhere if one of them has none."""
        empty = np.ones(values.shape[1:], bool)
        for band, plane in zip(bands, values, strict=True):
            empty &= plane == self._nodata[band] if self._nodata[band] is not None else False
        return empty
