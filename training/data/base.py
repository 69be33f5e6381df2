"""Tiles and data sets: what every layout becomes, and the checks they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emra_deploy.classes import ClassSet
from emra_deploy.errors import EmraError
from emra_deploy.windows import Window
from training.data.codecs import Codec
from training.data.readers import mask_size, picture_size, read_mask, read_picture

MAX_LISTED_PROBLEMS = 10


@dataclass(frozen=True)
class Tile:
    """One picture with its labels.

    Attributes:
        name: Distinct within its data set.
        image_path: The picture.
        label_path: The mask, or None for pictures whose labels are not public.
        height: Rows.
        width: Columns.
        codec: How the mask stores labels.
        image_bands: Which bands of a TIFF become the three channels, counted from 1.
    """

    name: str
    image_path: Path
    label_path: Path | None
    height: int
    width: int
    codec: Codec
    image_bands: tuple[int, int, int] = (1, 2, 3)

    def read_image(self, window: Window | None = None) -> np.ndarray:
        """Pixels of a window, or of all of it.

        Returns:
            uint8 h×w×3, channels in the order of the data set's ``bands``; yours to write to.

        Raises:
            EmraError: If the file is missing, damaged or not 8-bit.
            ValueError: If the window is not inside the tile.
        """
        return read_picture(self.image_path, self._inside(window), self.image_bands)

    def read_labels(self, window: Window | None = None) -> np.ndarray:
        """Labels of a window, or of all of it.

        Returns:
            uint8 h×w, 0 to C - 1, and 255 for "no label"; yours to write to.

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
        """The picture as an `emra_deploy.sources.ImageSource`."""
        return TileSource(self)

    def _inside(self, window: Window | None) -> Window:
        if window is None:
            return Window(0, 0, self.height, self.width)
        if (
            min(window.top, window.left) < 0
            or window.top + window.height > self.height
            or window.left + window.width > self.width
        ):
            raise ValueError(f"{window} is not inside tile {self.name} of {self.height} x {self.width}")
        return window


@dataclass(frozen=True)
class TileSource:
    """A tile as what `Segmenter` reads from."""

    tile: Tile

    @property
    def height(self) -> int:
        """Rows."""
        return self.tile.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.tile.width

    def read(self, window: Window) -> np.ndarray:
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
        bands: What the three channels are.
        gsd: Metres per pixel, or None where tiles differ or nobody said.
    """

    name: str
    classes: ClassSet
    split: str
    tiles: tuple[Tile, ...]
    bands: tuple[str, str, str] = ("red", "green", "blue")
    gsd: float | None = None

    @property
    def labelled(self) -> bool:
        """Whether every tile has labels."""
        return all(tile.label_path is not None for tile in self.tiles)

    @property
    def pixels(self) -> int:
        """Pixels of all tiles."""
        return sum(tile.height * tile.width for tile in self.tiles)


@dataclass
class Problems:
    """Collects what is wrong with a data set, so that the user mends it in one go."""

    found: list[EmraError] = field(default_factory=list)

    def add(self, code: str, cause: str, remedy: str, path: Path | None = None) -> None:
        """Note one problem."""
        self.found.append(EmraError(code, cause, remedy, path))

    def throw(self, root: Path) -> None:
        """Raise what was found, if anything was.

        Args:
            root: The data set's folder.

        Raises:
            EmraError: The problem, or one error that lists them.
        """
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        shown = self.found[:MAX_LISTED_PROBLEMS]
        listed = "; ".join(f"({i}) {error.path}: {error.cause}" for i, error in enumerate(shown, 1))
        more = f"; and {len(self.found) - len(shown)} more" if len(self.found) > len(shown) else ""
        codes = {error.code for error in self.found}
        remedies = "; ".join(dict.fromkeys(error.remedy for error in shown))
        raise EmraError(
            codes.pop() if len(codes) == 1 else "dataset-problems",
            f"{len(self.found)} problems: {listed}{more}",
            remedies,
            root,
        )


@dataclass(frozen=True)
class Pair:
    """A picture and its mask, before anybody looked into them."""

    name: str
    image_path: Path
    label_path: Path | None


def files_of(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Files of a folder by stem, hidden ones left out.

    Raises:
        EmraError: ``folder-missing``; ``file-repeated`` if two files share a stem.
    """
    suffixes = frozenset(suffixes)
    if not folder.is_dir():
        raise EmraError(
            "folder-missing",
            "there is no such folder",
            "Unpack the data set in its public layout, or correct the path of its root",
            folder,
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise EmraError(
                "file-repeated",
                f"{found[path.stem].name} and {path.name} are one tile twice",
                "Remove one of them",
                path,
            )
        found[path.stem] = path
    return found


def pair_up(images: dict[str, Path], labels: dict[str, Path], problems: Problems) -> list[Pair]:
    """Pair files by key and note those that have no partner."""
    for key in sorted(images.keys() - labels.keys()):
        problems.add("file-unpaired", "this picture has no mask", "Add the mask or remove the picture", images[key])
    for key in sorted(labels.keys() - images.keys()):
        problems.add("file-unpaired", "this mask has no picture", "Add the picture or remove the mask", labels[key])
    return [Pair(key, images[key], labels[key]) for key in sorted(images.keys() & labels.keys())]


def make_tiles(
    pairs: Iterable[Pair],
    codec: Codec,
    problems: Problems,
    root: Path,
    image_bands: tuple[int, int, int] = (1, 2, 3),
) -> tuple[Tile, ...]:
    """Read headers only, and report every problem at once.

    Args:
        pairs: Pictures with their masks.
        codec: How the masks store labels.
        problems: What was found before; raised together with what is found here.
        root: The data set's folder, for the error.
        image_bands: Which bands of a TIFF become the three channels.

    Raises:
        EmraError: For unpaired, unreadable or unequal files, and for a data set without tiles.
    """
    tiles = []
    for pair in pairs:
        try:
            height, width = picture_size(pair.image_path)
            if pair.label_path is not None and (size := mask_size(pair.label_path)) != (height, width):
                problems.add(
                    "size-unequal",
                    f"the mask is {size[0]} x {size[1]} but its picture {pair.image_path.name} is "
                    f"{height} x {width} (rows x columns)",
                    "Give a mask of the picture's size",
                    pair.label_path,
                )
                continue
        except EmraError as error:
            problems.found.append(error)
            continue
        tiles.append(Tile(pair.name, pair.image_path, pair.label_path, height, width, codec, image_bands))
    if not tiles and not problems.found:
        problems.add("dataset-empty", "there is no tile of this split", "Check the root folder and the split", root)
    problems.throw(root)
    return tuple(sorted(tiles, key=lambda tile: tile.name))
