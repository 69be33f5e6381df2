"""The one place that turns the values a raster stores into 8-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.pictures.scaling import Scale, depth_error
from emra_deploy.pictures.units import Units


def check_depth(dataset: Any, scale: Scale | None, path: str) -> int:
    """Bits of a raster's values.

    Args:
        dataset: The open rasterio dataset.
        scale: Range of values to stretch; rasters of other than 8 bits are refused without it.
        path: Of the file, for errors.

    Raises:
        EmraError: ``image-depth``.
    """
    kinds = {np.dtype(kind) if kind != "complex_int16" else np.dtype("complex64") for kind in dataset.dtypes}
    bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * max(kind.itemsize for kind in kinds)))
    if any(kind.kind not in "uif" for kind in kinds):
        raise EmraError("image-depth", "the raster holds complex values", "Give an RGB raster", path)
    if scale is None and kinds != {np.dtype(np.uint8)}:
        whole = next(iter(kinds)).kind == "u" and bits < 16
        names = " and ".join(sorted(kind.name for kind in kinds))
        raise depth_error(names, path, f"0 {2**bits - 1}" if whole else "")
    return bits


class PixelValues:
    """Conversion of a raster's values to colours: stretch, depths below 8 bits, palette, white as zero.

    Args:
        dataset: The open rasterio dataset.
        scale: Range of values to stretch, or None.
        bands: Numbers of the bands that are read.
        bits: Of a value, from `check_depth`.
        path: Of the file, for errors.

    Raises:
        EmraError: ``scale-range`` for a range that leaves nothing of the values.
    """

    def __init__(self, dataset: Any, scale: Scale | None, bands: Sequence[int], bits: int, path: str) -> None:
        self._scale = scale
        self._units = Units.of(dataset, bands)
        if scale is not None:
            self._units.check(scale, path)
        # Viewers stretch greys of 1 to 7 bits to 0 to 255; the values of a palette are not brightness.
        self._factor = 255 // (2**bits - 1) if scale is None else 1
        self._inverted = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        self._palette: NDArray[np.uint8] | None = None
        if dataset.colorinterp[0].name == "palette":
            # A pixel may hold any value of its type; those beyond the palette are black, as in viewers.
            self._palette = np.zeros((2 ** (8 * np.dtype(dataset.dtypes[0]).itemsize), 3), np.uint8)
            for value, colour in dataset.colormap(1).items():
                self._palette[value] = colour[:3]
            if scale is not None:
                self._palette = scale.apply(self._palette)

    def may_be_colour(self, band: int, value: float) -> bool:
        """Whether a stored value may be a colour: it does not lie further outside the range than its width."""
        if self._scale is None:
            return True
        width = self._scale.high - self._scale.low
        return self._scale.low - width <= self._units.of_one(band, value) <= self._scale.high + width

    def to_rgb(self, values: NDArray[Any], opacity: NDArray[Any] | None = None) -> NDArray[np.uint8]:
        """Colours of stored values: h×w×3 uint8 RGB.

        Args:
            values: 3×h×w, or 1×h×w that are grey or numbers of the palette.
            opacity: h×w, of the same type, where the values were multiplied by it: 1 in floats and the type's greatest
                number in others leave them as they are.
        """
        if opacity is not None:
            values = _divide(values, opacity)
        if self._palette is not None and len(values) == 1:
            coloured: NDArray[np.uint8] = self._palette[values[0]]
            return coloured
        if self._scale is not None:
            values = self._scale.apply(self._units.apply(values))
        elif self._factor != 1:
            values = values * np.uint8(self._factor)
        if self._inverted:
            values = 255 - values
        if len(values) == 1:
            return np.repeat(values[0][..., None], 3, axis=2)
        return np.ascontiguousarray(values.transpose(1, 2, 0))


def _divide(values: NDArray[Any], opacity: NDArray[Any]) -> NDArray[Any]:
    """The colours that were multiplied by their opacity; 0 where they are wholly transparent."""
    whole = values.dtype.kind != "f"
    full = float(np.iinfo(values.dtype).max) if whole else 1.0
    colours = np.divide(values * full, opacity, out=np.zeros(values.shape), where=opacity > 0)
    if whole:
        colours = np.minimum(np.rint(colours), full)
    divided: NDArray[Any] = colours.astype(values.dtype)
    return divided
