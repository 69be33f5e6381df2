"""The units of a raster's values: what its scale and offset tags make of stored numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.pictures.scaling import Scale

_log = logging.getLogger(__name__)

_GDAL_METADATA = 42112
_TOO_WIDE = 10
"""A range this many times as wide as that of the type leaves less than a tenth of the greys: it is of other units."""


@dataclass(frozen=True)
class Units:
    """Value = stored number x factor + offset, for each band that is read.

    Attributes:
        bands: Numbers of the bands.
        factors: The scale tags; 1 where there is none.
        offsets: The offset tags; 0 where there is none.
        name: The unit tag of the first band, or nothing.
        limits: Least and greatest stored number; None for floats.
    """

    bands: tuple[int, ...]
    factors: tuple[float, ...]
    offsets: tuple[float, ...]
    name: str
    limits: tuple[int, int] | None

    @classmethod
    def of(cls, dataset: Any, bands: Sequence[int]) -> Units:
        """Those of an open rasterio dataset. A scale tag that is 0 or not finite is none."""
        kind = np.dtype(dataset.dtypes[bands[0] - 1])
        limits = (int(np.iinfo(kind).min), int(np.iinfo(kind).max)) if kind.kind in "ui" else None
        factors = [float(dataset.scales[band - 1]) for band in bands]
        offsets = [float(dataset.offsets[band - 1]) for band in bands]
        return cls(
            tuple(bands),
            tuple(factor if np.isfinite(factor) and factor != 0 else 1.0 for factor in factors),
            tuple(offset if np.isfinite(offset) else 0.0 for offset in offsets),
            dataset.units[bands[0] - 1] or "",
            limits,
        )

    @property
    def plain(self) -> bool:
        """Whether values are the stored numbers."""
        return set(self.factors) == {1.0} and set(self.offsets) == {0.0}

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values of stored numbers, n x h x w."""
        if self.plain:
            return values
        factors, offsets = (np.asarray(numbers)[:, None, None] for numbers in (self.factors, self.offsets))
        result: NDArray[Any] = values * factors + offsets
        return result

    def of_one(self, band: int, stored: float) -> float:
        """The value of one stored number of a band."""
        index = self.bands.index(band)
        return stored * self.factors[index] + self.offsets[index]

    def check(self, scale: Scale, path: str) -> None:
        """Refuse a range that cannot be meant in these units, and say where they are not the stored numbers.

        Raises:
            EmraError: ``scale-range`` for a range of whole numbers that lies between two of them, beside all of them,
                or far beyond them.
        """
        unit = f" ({self.name})" if self.name else ""
        if not self.plain:
            _say(path, dict.fromkeys(zip(self.factors, self.offsets, strict=True)), unit)
        if self.limits is None:
            return
        ends = [sorted(self.of_one(band, end) for end in self.limits) for band in self.bands]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        step = min(abs(factor) for factor in self.factors)
        width = scale.high - scale.low
        if width < step or width > _TOO_WIDE * (high - low) or scale.low >= high or scale.high <= low:
            raise EmraError(
                "scale-range",
                f"scale {scale.low:g} to {scale.high:g}, and the values of the raster{unit} lie in {low:g} to {high:g} "
                f"and are {step:g} apart",
                "Give the values that become black and white in these units"
                + ("" if self.plain else ", after the file's scale and offset tags"),
                path,
            )


def in_stored_numbers(scale: Scale, picture: Any, path: str) -> Scale:
    """A range in the units of a TIFF of one band that Pillow opened, as one of its stored numbers.

    Raises:
        EmraError: ``scale-range`` for a scale tag below 0, which `Units` takes.
    """
    text = str(getattr(picture, "tag_v2", {}).get(_GDAL_METADATA, ""))
    found = {role: re.search(rf'role="{role}"[^>]*>\s*([-+.\deE]+)\s*<', text) for role in ("scale", "offset")}
    factor = float(found["scale"][1]) if found["scale"] else 1.0
    offset = float(found["offset"][1]) if found["offset"] else 0.0
    if factor < 0:
        raise EmraError("scale-range", f"the file's scale tag is {factor:g}", "Remove the tag with gdal_edit.py", path)
    if factor in (0.0, 1.0) and offset == 0:
        return scale
    _say(path, [(factor, offset)], "")
    return Scale((scale.low - offset) / factor, (scale.high - offset) / factor)


def _say(path: str, pairs: Iterable[tuple[float, float]], unit: str) -> None:
    _log.warning(
        "%s: the file's scale and offset tags are applied, stored values %s; --scale is in their units%s",
        path,
        " or ".join(f"x {factor:g} {offset:+g}" for factor, offset in pairs),
        unit,
    )
