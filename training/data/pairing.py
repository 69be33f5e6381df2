"""From folders to tiles: find files, pair pictures with masks, and report all problems at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from emra_deploy.errors import EmraError
from training.data.base import Tile
from training.data.codecs import Codec
from training.data.readers import picture_size

MAX_LISTED_PROBLEMS = 10


@dataclass
class Problems:
    """Collects the problems of a data set, so that the user can fix all of them in one pass."""

    found: list[EmraError] = field(default_factory=list)

    def add(self, code: str, cause: str, remedy: str, path: Path | None = None) -> None:
        """Note one problem."""
        self.found.append(EmraError(code, cause, remedy, path))

    def throw(self, root: Path) -> None:
        """Raise the collected problems, if there are any.

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
    """A picture and its mask, before either is opened."""

    name: str
    image_path: Path
    label_path: Path | None


def subfolder(parent: Path, *names: str) -> Path:
    """The folder of one of these names, case-insensitive.

    Archives unpacked into a folder of their own name give ``Train/Train``: the inner one is meant.

    Args:
        parent: Folder to search.
        names: Accepted names, the most common first.

    Raises:
        EmraError: ``input-missing``, with the first name.
    """
    found = find_subfolder(parent, *names)
    if found is None:
        raise EmraError(
            "input-missing",
            "there is no such folder",
            "Unpack the data set in its public layout, or correct the path of its root",
            parent / names[0],
        )
    return found


def find_subfolder(parent: Path, *names: str) -> Path | None:
    """Find the folder of one of these names; None if it is missing. See `subfolder`."""
    if not parent.is_dir():
        return None
    there = {path.name.lower(): path for path in sorted(parent.iterdir()) if path.is_dir()}
    for name in names:
        found = there.get(name.lower())
        if found is not None:
            return find_subfolder(found, name) or found
    return None


def files_of(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Files of a folder by stem, hidden ones left out.

    Raises:
        EmraError: ``input-missing``; ``file-repeated`` if two files share a stem.
    """
    suffixes = frozenset(suffixes)
    if not folder.is_dir():
        raise EmraError(
            "input-missing",
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
                f"{found[path.stem].name} and {path.name} name the same tile",
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
        problems: Problems found so far; raised together with those found here.
        root: The data set's folder, for the error.
        image_bands: Bands of a TIFF that become the three channels.

    Raises:
        EmraError: For unpaired, unreadable or unequal files, and for a data set without tiles.
    """
    tiles = []
    for pair in pairs:
        try:
            height, width = picture_size(pair.image_path)
            if pair.label_path is not None and (size := picture_size(pair.label_path)) != (height, width):
                problems.add(
                    "label-shape",
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
