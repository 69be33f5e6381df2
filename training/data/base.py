"""Tiles and data sets, the common form of every layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.windows import Window
from training.data.codecs import Codec
from training.data.readers import read_mask, read_picture


@dataclass(frozen=True)
class Tile:
    """One picture with its labels.

    Attributes:
        name: Unique within its data set.
        image_path: The picture.
        label_path: The mask, or None for pictures whose labels are not public.
        height: Rows.
        width: Columns.
        codec: How the mask stores labels.
        image_bands: Bands of a TIFF that become the three channels, counted from 1.
    """

    name: str
    image_path: Path
    label_path: Path | None
    height: int
    width: int
    codec: Codec
    image_bands: tuple[int, int, int] = (1, 2, 3)

    def read_image(self, window: Window | None = None) -> npt.NDArray[np.uint8]:
        """Pixels of a window, or of the whole tile.

        Returns:
            uint8 h×w×3, channels in the order of the data set's ``bands``; a copy of your own.

        Raises:
            EmraError: If the file is missing, damaged or not 8-bit.
            ValueError: If the window is not inside the tile.
        """
        return read_picture(self.image_path, self._inside(window), self.image_bands)

    def read_labels(self, window: Window | None = None) -> npt.NDArray[np.uint8]:
        """Labels of a window, or of the whole tile.

        Returns:
            uint8 h×w, 0 to C - 1, and 255 for "no label"; a copy of your own.

        Raises:
            EmraError: If there are no labels, or the mask is missing, damaged or holds unknown values.
            ValueError: If the window is not inside the tile.
        """
        if self.label_path is None:
            raise EmraError(
                "no-labels",
                f"the labels of tile {self.name} are not public",
                "Choose a split that has labels",
                self.image_path,
            )
        return read_mask(self.label_path, self.codec, self._inside(window))

    def source(self) -> TileSource:
        """The picture as an `emra_deploy.pictures.sources.ImageSource`."""
        return TileSource(self)

    def _inside(self, window: Window | None) -> Window:
        if window is None:
            return Window(0, 0, self.height, self.width)
        if window.bottom > self.height or window.right > self.width:
            raise ValueError(f"{window} is not inside tile {self.name} of {self.height} x {self.width}")
        return window


@dataclass(frozen=True)
class TileSource:
    """A tile as an image source of `Segmenter`."""

    tile: Tile

    @property
    def height(self) -> int:
        """Rows."""
        return self.tile.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.tile.width

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """Pixels, uint8 h×w×3."""
        return self.tile.read_image(window)

    def valid(self, window: Window) -> None:
        """Every pixel of a data set's picture is data."""
        return None


@dataclass(frozen=True)
class AerialDataset:
    """One split of a data set.

    Attributes:
        name: Of the data set, such as ``"loveda"``.
        classes: Names and colours, in label order.
        split: Such as ``"train"``.
        tiles: Sorted by name.
        bands: Names of the three channels.
        gsd: Metres per pixel, or None if tiles differ or it is unknown.
        described: Whether the user described the set in ``classes.yaml``.
    """

    name: str
    classes: ClassSet
    split: str
    tiles: tuple[Tile, ...]
    bands: tuple[str, str, str] = ("red", "green", "blue")
    gsd: float | None = None
    described: bool = False

    @property
    def labelled(self) -> bool:
        """Whether every tile has labels."""
        return all(tile.label_path is not None for tile in self.tiles)

    @property
    def pixels(self) -> int:
        """Pixels of all tiles."""
        return sum(tile.height * tile.width for tile in self.tiles)
