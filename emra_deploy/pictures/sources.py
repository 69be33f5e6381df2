"""Sources of pixels for the segmenter, which reads them by windows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.windows import Window


class ImageSource(Protocol):
    """A picture that is read a window at a time, so that it never has to fit into memory.

    A segmenter calls `read` and `valid` from one thread at a time, which need not be the one that made the source.
    """

    @property
    def height(self) -> int:
        """Rows of pixels, at least 1."""
        ...

    @property
    def width(self) -> int:
        """Columns of pixels, at least 1."""
        ...

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """The pixels of a window inside the picture: uint8 h×w×3, RGB."""
        ...

    def valid(self, window: Window) -> npt.NDArray[np.bool_] | None:
        """Which pixels of a window hold data: bool h×w, or None when all do."""
        ...


class ArraySource:
    """A picture in memory.

    Args:
        image: uint8 H×W×3, RGB.
        valid: bool H×W, False where there is no data, or None.
        georeference: Where the picture lies.

    Attributes:
        georeference: Where the picture lies.

    Raises:
        EmraError: ``image-array`` for another type or shape.
    """

    in_memory = True
    identity = None

    def __init__(
        self,
        image: npt.NDArray[np.uint8],
        valid: npt.NDArray[np.bool_] | None = None,
        georeference: GeoReference | None = None,
    ) -> None:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise EmraError(
                "image-array", f"image is {_describe(image)}, expected a uint8 array H×W×3 of RGB", "Convert it first"
            )
        if image.size == 0:
            raise EmraError("image-array", f"image of shape {image.shape} has no pixels", "Give at least one pixel")
        if valid is not None and (valid.dtype != np.bool_ or valid.shape != image.shape[:2]):
            raise EmraError(
                "image-array", f"valid mask is {_describe(valid)}, expected bool {image.shape[:2]}", "Convert it first"
            )
        self._image = image
        self._valid = valid
        self.georeference = georeference or GeoReference()

    def close(self) -> None:
        """There is no file to close."""

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self._image.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self._image.shape[1])

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """The pixels of a window: uint8 h×w×3, a view."""
        return self._image[window.slices]

    def valid(self, window: Window) -> npt.NDArray[np.bool_] | None:
        """Which pixels of a window hold data: bool h×w, or None when all do."""
        return None if self._valid is None else self._valid[window.slices]


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
