"""Semantic segmentation of aerial imagery, Dubai (Humans in the Loop with MBRSC, CC0 1.0).

72 satellite pictures of 8 areas, parts 001 to 009 each. Two layouts are read:

- flat: ``images/tile2_part003.jpg`` with ``masks/tile2_part003.png``;
- as published: ``Tile 2/images/image_part_003.jpg`` with ``Tile 2/masks/image_part_003.png``.

Parts 001 to 006 train, part 007 validates; 008 and 009, where present, test. Any colour that is not a class's
is "no label": the masks say ``#9B9B9B`` for it, and a few hold stray colours along edges.
"""

from __future__ import annotations

import re
from pathlib import Path

from emra_deploy.errors import EmraError
from training.data.base import AerialDataset
from training.data.codecs import ColourCodec
from training.data.pairing import Problems, files_of, make_tiles, pair_up
from training.data.readers import MASK_SUFFIXES, PICTURE_SUFFIXES
from training.data.scenes import DUBAI_CLASSES

CLASSES = DUBAI_CLASSES
CODEC = ColourCodec(CLASSES.palette, ignored=((0x9B, 0x9B, 0x9B),), strict=False)
PARTS = {"train": range(1, 7), "val": range(7, 8), "trainval": range(1, 8), "test": range(8, 10)}

_FLAT = re.compile(r"tile(\d+)_part(\d+)", re.IGNORECASE)
_PUBLISHED_FOLDER = re.compile(r"tile (\d+)", re.IGNORECASE)
_PUBLISHED_FILE = re.compile(r"image_part_(\d+)", re.IGNORECASE)


def recognises(root: Path) -> bool:
    """Whether the folder has one of the two layouts."""
    if any(_PUBLISHED_FOLDER.fullmatch(path.name) and (path / "images").is_dir() for path in root.glob("[Tt]ile *")):
        return True
    images = root / "images"
    return images.is_dir() and any(_FLAT.fullmatch(path.stem) for path in images.iterdir())


def open_split(root: Path, split: str) -> AerialDataset:
    """One split.

    Args:
        root: The folder of ``images`` and ``masks``, or of ``Tile 1`` to ``Tile 8``.
        split: ``"train"`` (parts 001 to 006), ``"val"`` (007), ``"trainval"``, or ``"test"`` (008 and 009).

    Raises:
        EmraError: ``split-unknown``, ``split-missing``, or a problem of the files.
    """
    if split not in PARTS:
        raise EmraError("split-unknown", f"split {split!r} does not exist", f"Choose one of {', '.join(PARTS)}", root)
    problems = Problems()
    wanted = PARTS[split]
    pictures: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    folders = _published_folders(root)
    if folders:
        for area, folder in folders:
            pictures |= _of_parts(folder / "images", PICTURE_SUFFIXES, _PUBLISHED_FILE, wanted, area)
            masks |= _of_parts(folder / "masks", MASK_SUFFIXES, _PUBLISHED_FILE, wanted, area)
    else:
        pictures = _of_parts(root / "images", PICTURE_SUFFIXES, _FLAT, wanted)
        masks = _of_parts(root / "masks", MASK_SUFFIXES, _FLAT, wanted)
    if not pictures and not masks:
        raise EmraError(
            "split-missing",
            f"split {split!r} is made of parts {', '.join(f'{part:03d}' for part in wanted)}, but the folder has none",
            "Choose another split or add the missing parts",
            root,
        )
    tiles = make_tiles(pair_up(pictures, masks, problems), CODEC, problems, root)
    return AerialDataset("dubai", CLASSES, split, tiles)


def _published_folders(root: Path) -> list[tuple[int, Path]]:
    if not root.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in root.iterdir()
        if path.is_dir() and (match := _PUBLISHED_FOLDER.fullmatch(path.name))
    ]
    return sorted(found)


def _of_parts(
    folder: Path, suffixes: frozenset[str], pattern: re.Pattern[str], parts: range, area: int | None = None
) -> dict[str, Path]:
    found = {}
    for stem, path in files_of(folder, suffixes).items():
        match = pattern.fullmatch(stem)
        if match and int(match.groups()[-1]) in parts:
            key = f"tile{area if area is not None else int(match[1])}_part{int(match.groups()[-1]):03d}"
            found[key] = path
    return found
