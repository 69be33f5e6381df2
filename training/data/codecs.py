"""Decoding of mask files: colours or numbers to labels.

A codec is a small frozen value (it travels to data loader processes), and its look-up table is built once per
process on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, ClassSet

UNKNOWN = 254
"""Label of a pixel whose value the data set does not allow; never leaves this package."""

Colour = tuple[int, int, int]

_SNAP = np.arange(256, dtype=np.uint8)
_SNAP[:88] = 0
_SNAP[168:] = 255


@lru_cache(maxsize=8)
def _colour_table(colours: tuple[Colour, ...], ignored: tuple[Colour, ...], other: int) -> npt.NDArray[np.uint8]:
    # 16 MiB for one gather per pixel: a megapixel takes milliseconds, whatever the number of classes.
    table = np.full(1 << 24, other, np.uint8)
    for red, green, blue in ignored:
        table[red << 16 | green << 8 | blue] = IGNORE
    for label, (red, green, blue) in enumerate(colours):
        table[red << 16 | green << 8 | blue] = label
    return table


@dataclass(frozen=True)
class ColourCodec:
    """Masks whose pixels carry the colour of their class.

    Attributes:
        colours: C colours (red, green, blue) in label order.
        ignored: Colours that mean "no label".
        strict: Whether a colour of neither list is an error; otherwise it is "no label" too.
        snapped: Move every channel below 88 to 0 and above 167 to 255 first, for masks whose colours are corners
            of the colour cube but were stored with loss.
    """

    colours: tuple[Colour, ...]
    ignored: tuple[Colour, ...] = ()
    strict: bool = True
    snapped: bool = False

    def decode(self, pixels: npt.NDArray[Any], path: object = None) -> npt.NDArray[np.uint8]:
        """Labels of a colour mask.

        Args:
            pixels: uint8 H×W×3, RGB.
            path: The file, for error messages.

        Returns:
            uint8 H×W: labels, 255 for "no label", `UNKNOWN` for a colour that is not allowed.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise EmraError(
                "mask-format",
                f"the mask is {pixels.dtype} of shape {pixels.shape}, expected 8-bit colours",
                "Give an RGB or palette mask, or describe index masks in classes.yaml",
                str(path) if path else None,
            )
        if self.snapped:
            pixels = _SNAP[pixels]
        table = _colour_table(self.colours, self.ignored, UNKNOWN if self.strict else IGNORE)
        code = pixels[..., 0].astype(np.uint32)
        code <<= 8
        code |= pixels[..., 1]
        code <<= 8
        code |= pixels[..., 2]
        return table[code]

    def describe(self, pixel: npt.NDArray[Any]) -> str:
        """The value of one pixel, in words."""
        return "colour #{:02X}{:02X}{:02X}".format(*(int(channel) for channel in pixel))

    @property
    def allowed(self) -> str:
        """The values a mask may hold, in words."""
        return "colours " + ", ".join("#{:02X}{:02X}{:02X}".format(*c) for c in (*self.colours, *self.ignored))


@lru_cache(maxsize=32)
def _index_table(labels: tuple[tuple[int, int], ...], strict: bool) -> npt.NDArray[np.uint8]:
    table = np.full(256, UNKNOWN if strict else IGNORE, np.uint8)
    for raw, label in labels:
        table[raw] = label
    return table


@dataclass(frozen=True)
class IndexCodec:
    """Masks whose pixels carry a number.

    Attributes:
        labels: Pairs (stored value, label); label 255 means "no label".
        strict: Whether any other stored value is an error; otherwise it is "no label" too.
        assumed: Whether nobody said which values mean "no label", and 255 was taken for it.
    """

    labels: tuple[tuple[int, int], ...]
    strict: bool = True
    assumed: bool = False

    @classmethod
    def of(cls, classes: ClassSet, first: int = 0, ignored: tuple[int, ...] = (IGNORE,)) -> IndexCodec:
        """The codec of masks that store label i as ``first + i``."""
        return cls((*((first + i, i) for i in range(len(classes))), *((raw, IGNORE) for raw in ignored)))

    def decode(self, pixels: npt.NDArray[Any], path: object = None) -> npt.NDArray[np.uint8]:
        """Labels of an index mask.

        Args:
            pixels: Integers or booleans, H×W.
            path: The file, for error messages.

        Returns:
            uint8 H×W: labels, 255 for "no label", `UNKNOWN` for a value that is not allowed.
        """
        if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
            raise EmraError(
                "mask-format",
                f"the mask is {pixels.dtype} of shape {pixels.shape}, expected one band of class numbers",
                "Give a one-band integer mask, or describe colour masks in classes.yaml",
                str(path) if path else None,
            )
        table = _index_table(self.labels, self.strict)
        if pixels.dtype.itemsize == 1 and pixels.dtype.kind != "i":
            decoded: npt.NDArray[np.uint8] = table[pixels.astype(np.uint8, copy=False)]
            return decoded
        inside = (pixels >= 0) & (pixels <= 255)
        found = table[np.where(inside, pixels, 0).astype(np.uint8)]
        found[~inside] = UNKNOWN if self.strict else IGNORE
        return found

    def describe(self, pixel: npt.NDArray[Any]) -> str:
        """The value of one pixel, in words."""
        return f"value {int(pixel)}"

    @property
    def allowed(self) -> str:
        """The values a mask may hold, in words."""
        return "values " + ", ".join(str(raw) for raw, _ in self.labels)


Codec = ColourCodec | IndexCodec


def decode_labels(
    codec: Codec, pixels: npt.NDArray[Any], path: object, top: int = 0, left: int = 0
) -> npt.NDArray[np.uint8]:
    """Decode a mask and refuse values its data set does not allow.

    Args:
        codec: Encoding of the labels.
        pixels: H×W or H×W×3, as `Codec.decode` expects them.
        path: The file, for the error.
        top: Row of ``pixels[0]`` in the file.
        left: Column of ``pixels[:, 0]`` in the file.

    Returns:
        uint8 H×W, labels and 255.

    Raises:
        EmraError: ``unknown-label``, naming the file, the value, the first position and the number of pixels.
    """
    labels = codec.decode(pixels, path)
    if not codec.strict:
        return labels
    unknown = labels == UNKNOWN
    if unknown.any():
        row, column = np.unravel_index(int(unknown.argmax()), unknown.shape)
        raise EmraError(
            "unknown-label",
            f"{codec.describe(pixels[row, column])} at row {top + row}, column {left + column} stands for no "
            f"class ({int(unknown.sum())} such pixels; the mask may hold {codec.allowed})",
            "Correct the mask (JPEG and resizing with smoothing invent colours) or the list of classes",
            str(path),
        )
    return labels
