"""The golden tile: one input and the labels that PyTorch computed for it, stored in the model file.

With it a device detects that its inference library computes other results than PyTorch.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_MAX_SIDE = 8192
_MAX_BYTES = 64 * 2**20
_REMEDY = "Export the model again with python -m export.to_onnx"


@dataclass(frozen=True)
class GoldenTile:
    """A picture and its label map, as lossless PNG.

    Construction reads only the PNG headers, so that a hostile file cannot declare a size other than the model's input;
    the pixels are decoded on demand.

    Attributes:
        image_png: 8-bit RGB PNG, H×W.
        labels_png: 8-bit grey PNG, H×W; a value is a label.
        tolerance: Fraction of pixels, 0 to 1, that may differ from ``labels_png``.
    """

    image_png: bytes
    labels_png: bytes
    tolerance: float

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float)):
            raise _broken(f"tolerance {self.tolerance!r} is not a number")
        if not 0.0 <= self.tolerance <= 1.0:
            raise _broken(f"tolerance {str(self.tolerance)[:100]} is not within 0 to 1")
        image_size = _png_size(self.image_png, _RGB, "image")
        labels_size = _png_size(self.labels_png, _GREY, "label map")
        if image_size != labels_size:
            raise _broken(f"image of {image_size} and label map of {labels_size} differ in size")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _png_size(self.image_png, _RGB, "image")

    @classmethod
    def encode(cls, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], tolerance: float) -> GoldenTile:
        """Make a golden tile from arrays.

        Args:
            image: uint8 H×W×3, RGB.
            labels: uint8 H×W.
            tolerance: Fraction of pixels, 0 to 1, that may differ.

        Raises:
            EmraError: ``golden-tile`` when the arrays are not of these types and shapes.
        """
        if image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3:
            raise _broken(f"image is {image.dtype} {image.shape}, expected uint8 H×W×3")
        if labels.dtype != "uint8" or labels.shape != image.shape[:2]:
            raise _broken(f"label map is {labels.dtype} {labels.shape}, expected uint8 {image.shape[:2]}")
        return cls(_encode_png(image), _encode_png(labels), float(tolerance))

    def image(self) -> npt.NDArray[np.uint8]:
        """The picture, uint8 H×W×3, RGB."""
        return _decode_png(self.image_png, "image")

    def labels(self) -> npt.NDArray[np.uint8]:
        """The label map computed by PyTorch, uint8 H×W."""
        return _decode_png(self.labels_png, "label map")

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the two PNG images as base64 text, and the tolerance."""
        return {
            "image_png": base64.b64encode(self.image_png).decode("ascii"),
            "labels_png": base64.b64encode(self.labels_png).decode("ascii"),
            "tolerance": self.tolerance,
        }

    @classmethod
    def from_dict(cls, value: object) -> GoldenTile:
        """Read the output of `to_dict`.

        Raises:
            EmraError: ``golden-tile`` when anything is missing, of another type, or not a PNG.
        """
        if not isinstance(value, dict) or set(value) != {"image_png", "labels_png", "tolerance"}:
            raise _broken("it is not an object of image_png, labels_png and tolerance")
        pngs = []
        for key in ("image_png", "labels_png"):
            text = value[key]
            if not isinstance(text, str):
                raise _broken(f"{key} is not text")
            try:
                pngs.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError) as error:
                raise _broken(f"{key} is not base64 ({error})") from error
        return cls(pngs[0], pngs[1], value["tolerance"])


def _broken(cause: str) -> EmraError:
    return EmraError("golden-tile", f"The golden tile of the model is unusable: {cause}", _REMEDY)


def _png_size(data: object, colour_type: int, what: str) -> tuple[int, int]:
    if not isinstance(data, bytes):
        raise _broken(f"the {what} is not bytes")
    if len(data) > _MAX_BYTES:
        raise _broken(f"the {what} has {len(data)} bytes, more than {_MAX_BYTES}")
    if len(data) < 33 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise _broken(f"the {what} is not a PNG")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (depth, colour) != (8, colour_type):
        raise _broken(f"the {what} is a PNG of depth {depth} and colour type {colour}, not 8 and {colour_type}")
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise _broken(f"the {what} declares {width}×{height} pixels, more than {_MAX_SIDE} a side or none")
    return height, width


def _encode_png(array: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _decode_png(data: bytes, what: str) -> npt.NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            # A second header would override the one that `_png_size` has read.
            if (picture.height, picture.width) != struct.unpack(">II", data[16:24])[::-1]:
                raise _broken(f"the {what} declares two sizes")
            return np.array(picture, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, struct.error) as error:
        raise _broken(f"the {what} cannot be decoded ({error})") from error
