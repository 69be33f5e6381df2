"""ISPRS 2D semantic labelling: Potsdam (0.05 m) and Vaihingen (0.09 m).

File names say what a file is, so files are found by name, wherever unpacking put them (three folders deep):

- Potsdam: ``2_Ortho_RGB/top_potsdam_2_10_RGB.tif``, likewise ``3_Ortho_IRRG`` and ``4_Ortho_RGBIR``;
  ``5_Labels_all/top_potsdam_2_10_label.tif``; ``5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif``.
- Vaihingen: ``top/top_mosaic_09cm_area1.tif``; ``gts_for_participants/top_mosaic_09cm_area1.tif``, or the ground
  truth archive beside it; ``gts_eroded_for_participants/top_mosaic_09cm_area1_noBoundary.tif``.

The splits are the contest's own, 24 + 14 and 16 + 17 tiles. For validation, one tile of the training list is set
apart, the one that published work sets apart: 2_10 and area 30 (GeoSeg, UNetFormer). Three tiles of Potsdam are
known to be faulty: 7_10 has wrong labels and is left out unless asked for; the label of 4_12 was stored with loss
(24,850 colours) and most cars of 6_7 are #FCFF00, so the colours of these two are moved to the nearest corner of
the colour cube.

Vaihingen has no blue band: its three channels are near-infrared, red and green.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from training.data.base import AerialDataset
from training.data.codecs import ColourCodec
from training.data.pairing import Pair, Problems, make_tiles

logger = logging.getLogger(__name__)

CLASSES = ClassSet(
    names=("impervious", "building", "low vegetation", "tree", "car", "clutter"),
    palette=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
)
BLACK = (0, 0, 0)
FULL = ColourCodec(CLASSES.palette)
ERODED = ColourCodec(CLASSES.palette, ignored=(BLACK,))

RGB = ("red", "green", "blue")
IRRG = ("near-infrared", "red", "green")

POTSDAM_TRAIN = tuple(
    f"{row}_{column}"
    for row, columns in {2: (10, 13), 3: (10, 13), 4: (10, 13), 5: (10, 13), 6: (7, 13), 7: (7, 13)}.items()
    for column in range(*columns)
)
POTSDAM_TEST = tuple(
    "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13".split()  # noqa: SIM905
)
POTSDAM_VAL = ("2_10",)
POTSDAM_MISLABELLED = ("7_10",)
POTSDAM_OFF_COLOUR = ("4_12", "6_7")
POTSDAM_GSD = 0.05

VAIHINGEN_TRAIN = tuple(map(str, (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)))
VAIHINGEN_TEST = tuple(map(str, (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)))
VAIHINGEN_VAL = ("30",)
VAIHINGEN_GSD = 0.09

# Which file gives the three channels, and which of its bands they are, in order of preference.
_POTSDAM_SOURCES = {
    "RGB": (RGB, (("RGB", (1, 2, 3)), ("RGBIR", (1, 2, 3)))),
    "IRRG": (IRRG, (("IRRG", (1, 2, 3)), ("RGBIR", (4, 1, 2)))),
}
_POTSDAM_NAME = re.compile(r"top_potsdam_0*(\d+)_0*(\d+)_(RGBIR|RGB|IRRG|label|label_noBoundary)\.tiff?", re.IGNORECASE)
_VAIHINGEN_NAME = re.compile(r"top_mosaic_09cm_area0*(\d+)(_noBoundary)?\.tiff?", re.IGNORECASE)
_SEARCH_DEPTH = 3


def recognises_potsdam(root: Path) -> bool:
    """Whether Potsdam tiles are here."""
    return any(_POTSDAM_NAME.fullmatch(path.name) for path in _files_below(root))


def recognises_vaihingen(root: Path) -> bool:
    """Whether Vaihingen tiles are here."""
    return any(_VAIHINGEN_NAME.fullmatch(path.name) for path in _files_below(root))


def open_potsdam(
    root: Path, split: str, labels: str = "full", product: str = "RGB", mislabelled: bool = False
) -> AerialDataset:
    """One split of Potsdam.

    Args:
        root: The folder of ``2_Ortho_RGB``, ``5_Labels_all`` and so on.
        split: ``"train"``, ``"val"`` (2_10), ``"trainval"`` (the contest's training tiles) or ``"test"``.
        labels: ``"full"``, or ``"eroded"`` (boundaries ignored, as the contest scored) for evaluation.
        product: ``"RGB"`` or ``"IRRG"``; each is also taken from the four-band files.
        mislabelled: Whether to use tile 7_10, whose labels are known to be wrong.

    Raises:
        EmraError: For an unknown split, labels or product, missing tiles, or a problem of the files.
    """
    ids = _ids(root, split, labels, POTSDAM_TRAIN, POTSDAM_VAL, POTSDAM_TEST)
    if product not in _POTSDAM_SOURCES:
        raise EmraError(
            "product-unknown",
            f"product {product!r} does not exist",
            f"Choose one of {', '.join(_POTSDAM_SOURCES)}",
            root,
        )
    if not mislabelled and any(tile in POTSDAM_MISLABELLED for tile in ids):
        logger.info("Potsdam: leaving out %s, whose labels are known to be wrong", *POTSDAM_MISLABELLED)
        ids = tuple(tile for tile in ids if tile not in POTSDAM_MISLABELLED)
    found: dict[str, dict[str, Path]] = {}
    for path in _files_below(root):
        if match := _POTSDAM_NAME.fullmatch(path.name):
            kind = match[3].lower()
            _keep_better(found.setdefault(kind, {}), f"{int(match[1])}_{int(match[2])}", path)
    bands, sources = _POTSDAM_SOURCES[product]
    name, image_bands = next(((kind, order) for kind, order in sources if found.get(kind.lower())), sources[0])
    label_kind = "label" if labels == "full" else "label_noBoundary"
    problems = Problems()
    pairs = _pairs(
        ids,
        found.get(name.lower(), {}),
        found.get(label_kind.lower(), {}),
        root,
        "top_potsdam_{}_" + name + ".tif",
        "top_potsdam_{}_" + label_kind + ".tif",
        problems,
    )
    codec = FULL if labels == "full" else ERODED
    tiles = make_tiles(pairs, codec, problems, root, image_bands)
    # Eroding the lossy label also left blends beside the black lines: those are boundary as well.
    snapped = replace(codec, snapped=True, strict=labels == "full")
    tiles = tuple(replace(tile, codec=snapped) if tile.name in POTSDAM_OFF_COLOUR else tile for tile in tiles)
    return AerialDataset("potsdam", CLASSES, split, tiles, bands=bands, gsd=POTSDAM_GSD)


def open_vaihingen(root: Path, split: str, labels: str = "full") -> AerialDataset:
    """One split of Vaihingen.

    Args:
        root: The folder of ``top`` and ``gts_for_participants``, or of what the archives hold.
        split: ``"train"``, ``"val"`` (area 30), ``"trainval"`` (the contest's training areas) or ``"test"``.
        labels: ``"full"``, or ``"eroded"`` (boundaries ignored, as the contest scored) for evaluation.

    Raises:
        EmraError: For an unknown split or labels, missing tiles, or a problem of the files.
    """
    ids = _ids(root, split, labels, VAIHINGEN_TRAIN, VAIHINGEN_VAL, VAIHINGEN_TEST)
    pictures: dict[str, Path] = {}
    full: dict[str, Path] = {}
    eroded: dict[str, Path] = {}
    for path in _files_below(root):
        if match := _VAIHINGEN_NAME.fullmatch(path.name):
            # A picture and its label have one file name: the folder tells them apart.
            is_picture = path.parent.name.lower() == "top" or "image" in path.parent.name.lower()
            # An eroded folder may keep the plain file name; it must not pass for the full label.
            is_eroded = bool(match[2]) or "erod" in path.parent.name.lower()
            kind = eroded if is_eroded else pictures if is_picture else full
            _keep_better(kind, str(int(match[1])), path)
    problems = Problems()
    masks, suffix = (full, "") if labels == "full" else (eroded, "_noBoundary")
    pairs = _pairs(
        ids,
        pictures,
        masks,
        root,
        "top/top_mosaic_09cm_area{}.tif",
        "top_mosaic_09cm_area{}" + suffix + ".tif (ground truth)",
        problems,
    )
    codec = FULL if labels == "full" else ERODED
    tiles = make_tiles(pairs, codec, problems, root)
    return AerialDataset("vaihingen", CLASSES, split, tiles, bands=IRRG, gsd=VAIHINGEN_GSD)


def _ids(
    root: Path,
    split: str,
    labels: str,
    train: tuple[str, ...],
    val: tuple[str, ...],
    test: tuple[str, ...],
) -> tuple[str, ...]:
    splits = {
        "train": tuple(tile for tile in train if tile not in val),
        "val": val,
        "trainval": train,
        "test": test,
    }
    if split not in splits:
        raise EmraError("split-unknown", f"split {split!r} does not exist", f"Choose one of {', '.join(splits)}", root)
    if labels not in ("full", "eroded"):
        raise EmraError("labels-unknown", f"labels {labels!r} do not exist", "Choose full or eroded", root)
    if labels == "eroded" and split.startswith("train"):
        raise EmraError(
            "labels-eroded",
            "a model that never sees boundaries does not learn them: eroded labels are for evaluation only",
            "Train on the full labels, and give eroded labels to evaluation",
            root,
        )
    return splits[split]


def _files_below(root: Path) -> Iterator[Path]:
    """Files to a depth of three folders, in a fixed order; hidden ones and AppleDouble twins left out."""
    for folder, inner, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        inner[:] = sorted(name for name in inner if not name.startswith(".") and depth < _SEARCH_DEPTH)
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def _keep_better(found: dict[str, Path], tile: str, path: Path) -> None:
    """Of two copies of a file, the one from the complete archive."""
    if tile not in found or (_is_complete(path) and not _is_complete(found[tile])):
        found[tile] = path


def _is_complete(path: Path) -> bool:
    folder = path.parent.name.lower()
    return "complete" in folder or "labels_all" in folder


def _pairs(
    ids: tuple[str, ...],
    pictures: dict[str, Path],
    masks: dict[str, Path],
    root: Path,
    picture_name: str,
    mask_name: str,
    problems: Problems,
) -> list[Pair]:
    remedy = "Unpack all archives of the data set below this folder, or correct the path of its root"
    for what, there, name in (("picture", pictures, picture_name), ("mask", masks, mask_name)):
        missing = [tile for tile in ids if tile not in there]
        if len(missing) == len(ids):
            problems.add("input-missing", f"there is no {what} of this split ({name.format('*')})", remedy, root)
        else:
            for tile in missing:
                problems.add("file-unpaired", f"tile {tile} has no {what} ({name.format(tile)})", remedy, root)
    return [Pair(tile, pictures[tile], masks[tile]) for tile in ids if tile in pictures and tile in masks]
