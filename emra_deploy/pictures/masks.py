"""The one place that decides which pixels of a raster hold data, and what GDAL hides of plain pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WITH_ALPHA = ("LA", "PA", "La", "RGBA", "RGBa")
"""Pillow's modes whose last band is opacity."""

_NODATA, _ORIENTATION = 42113, 274

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


def nodata_of_tiff(picture: Any) -> float | None:
    """The nodata value that GDAL wrote into a TIFF that Pillow opened; None where there is none."""
    try:
        return float(picture.tag_v2[_NODATA].strip(" \0"))
    except (AttributeError, KeyError, ValueError):
        return None


def mask_of_picture(
    path: str | os.PathLike[str],
    upright: Any,
    valid: NDArray[np.bool_] | None,
    nodata: float | None,
    orientation: int,
) -> NDArray[np.bool_] | None:
    """``valid`` without the pixels whose colours are all ``nodata``, and those that the mask beside the file hides.

    Args:
        path: The picture; its mask is ``PICTURE.jpg.msk``, a TIFF of the stored order.
        upright: The picture as it is shown, of Pillow.
        valid: h x w, or None when all pixels hold data; so is the result.
        nodata: The value, or None.
        orientation: By which the picture was turned, as in EXIF.

    Raises:
        ValueError: The mask is damaged or of another size.
    """
    parts = [] if valid is None else [valid]
    if nodata is not None:
        values = np.asarray(upright)
        colours = values[..., :-1] if upright.mode in WITH_ALPHA else values.reshape(*values.shape[:2], -1)
        parts.append((colours != nodata).any(axis=2))
    place = Path(f"{os.fspath(path)}.msk")
    if place.is_file():
        parts.append(_mask_beside(place, upright.size, orientation))
    held: NDArray[np.bool_] = np.all(np.stack(parts), axis=0) if parts else np.ones(1, bool)
    return None if held.all() else held


def _mask_beside(place: Path, size: tuple[int, int], orientation: int) -> NDArray[np.bool_]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(place, formats=("TIFF",)) as mask:
            mask.load()
            mask.getexif()[_ORIENTATION] = orientation
            turned = ImageOps.exif_transpose(mask)
    except UnidentifiedImageError as error:
        raise ValueError(f"{place.name} is no TIFF") from error
    if turned.size != size:
        raise ValueError(
            f"{place.name}: a mask of {turned.width} x {turned.height} pixels, expected {size[0]} x {size[1]}"
        )
    held: NDArray[np.bool_] = np.asarray(turned) > 0
    return held
