"""Conversion of sensor values to the 8-bit RGB that models read, by a range that the user gave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError


@dataclass(frozen=True)
class Scale:
    """A linear stretch: ``low`` and below become 0, ``high`` and above become 255.

    Attributes:
        low: Sensor value that becomes 0.
        high: Sensor value that becomes 255, above ``low``.

    Raises:
        EmraError: ``scale-range`` when they are not finite or not in order.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise EmraError(
                "scale-range",
                f"scale {self.low} to {self.high}, expected two finite numbers, the smaller first",
                "Give the values that become black and white",
            )

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Stretch values of any real type and shape to uint8; NaN becomes 0."""
        # float32 halves the memory where it holds every value exactly: whole numbers of up to 16 bits.
        real: NDArray[Any] = values.astype(np.result_type(values.dtype, np.float32))
        real -= self.low
        real /= self.high - self.low
        real *= 255.0
        np.nan_to_num(real, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        np.clip(real, 0.0, 255.0, out=real)
        grey: NDArray[np.uint8] = np.rint(real, out=real).astype(np.uint8)
        return grey


def depth_error(what: str, path: object, hint: str = "") -> EmraError:
    """The error for values that are not 8-bit and have no stated range.

    Args:
        what: The type of the values, such as ``"uint16"``.
        path: The file.
        hint: A likely range, such as ``"0 4095"``.
    """
    span = hint or "MIN MAX"
    return EmraError(
        "image-depth",
        f"the picture holds {what} values, expected 8-bit ones; guessing their range would change the result",
        f"Give the range to stretch, --scale {span}, or convert it, gdal_translate -ot Byte -scale {span} 0 255",
        str(path),
    )
