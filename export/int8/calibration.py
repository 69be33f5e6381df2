"""Choice of the calibration tiles that INT8 ranges are measured on, so that every class is among them.

A range measured on sand alone is too narrow for a harbour. No labels are needed for the choice: the FP32 model itself
labels each candidate window, and a greedy cover takes windows until the count is reached, balancing
classes and pictures. The same folder gives the same tiles on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.pictures.windows import Window, plan_tiles
from export.compare.tiles import images_below, middle

DEFAULT_COUNT = 64
"""Default number of tiles; docs/decisions/0007 has measurements with fewer."""

CANDIDATES = 2
"""Windows that the model looks at for each one that is chosen."""

LEAST_VALID = 0.5
"""Windows with a smaller share of valid pixels are not candidates: edges of rasters are not representative."""

SPLITS = ("train", "trainval", "all", "val", "test")
"""In a data set, tiles come from the first of these splits that it has: validation pictures stay unseen."""

LOOKS = 16
"""Masks of a raster that are read for each window wanted of it: a mosaic may be mostly empty."""

GOLDEN_RATIO = (5**0.5 - 1) / 2

_NAMED = 5

Classify = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""uint8 B x H x W x 3 -> labels uint8 B x H x W."""


@dataclass(frozen=True)
class CalibrationSet:
    """The chosen tiles.

    Attributes:
        tiles: uint8 K x H x W x 3, RGB.
        origins: File name, and top and left of the window, of each tile.
        class_shares: Share of all pixels that the model gives to each of the C classes.
        candidates: Windows that the choice was made from.
        images: Files that the tiles come from.
    """

    tiles: npt.NDArray[np.uint8]
    origins: tuple[str, ...]
    class_shares: tuple[float, ...]
    candidates: int
    images: int

    def __post_init__(self) -> None:
        if self.tiles.dtype != np.uint8 or self.tiles.ndim != 4 or self.tiles.shape[3] != 3 or not len(self.tiles):
            raise ValueError(f"tiles are {self.tiles.dtype} {self.tiles.shape}, expected uint8 K x H x W x 3")
        if len(self.origins) != len(self.tiles):
            raise ValueError(f"{len(self.origins)} origins for {len(self.tiles)} tiles")

    @property
    def sha256(self) -> str:
        """Hex digest of the pixels, whatever the order of the tiles."""
        return pixels_sha256(self.tiles)

    def to_dict(self, classes: ClassSet) -> dict[str, Any]:
        """JSON values for the Manifest: number, digest and class shares of the tiles."""
        return {
            "tiles": len(self.tiles),
            "sha256": self.sha256,
            "images": self.images,
            "candidates": self.candidates,
            "class_shares": {
                name: round(share, 4) for name, share in zip(classes.names, self.class_shares, strict=True)
            },
        }


def pixels_sha256(tiles: npt.NDArray[np.uint8]) -> str:
    """Hex digest of a set of tiles, uint8 K x H x W x 3: the same for any order."""
    each = sorted(
        hashlib.sha256(f"{tile.shape}".encode() + np.ascontiguousarray(tile).tobytes()).digest() for tile in tiles
    )
    return hashlib.sha256(b"".join(each)).hexdigest()


def choose_tiles(
    folder: str | Path,
    classify: Classify,
    classes: int,
    size: tuple[int, int],
    count: int = DEFAULT_COUNT,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationSet:
    """Choose calibration tiles from a folder of images or a data set.

    Args:
        folder: JPEG, PNG and TIFF files, here or in folders below; or a data set in a layout of `training.data`, whose
            training pictures are used and whose masks are left alone.
        classify: The FP32 model.
        classes: C.
        size: Height and width of the model's input.
        count: Number of tiles to choose.
        progress: Called with the windows classified so far, and all windows to classify.

    Raises:
        EmraError: ``calibration-count``, ``input-missing``, ``dataset-empty`` (no image),
            ``calibration-unreadable`` (naming the files) or ``calibration-too-few``.
    """
    if count < 1:
        raise EmraError("calibration-count", f"{count} calibration tiles, expected at least 1", "Change --count")
    folder = Path(folder)
    candidates = _candidates(folder, find_images(folder), size, count)
    looks = _look(folder, candidates, classify, classes, size, progress)
    chosen = greedy_cover(_features(looks, [path for path, _ in candidates]), count)
    tiles = np.empty((count, *size, 3), np.uint8)
    for slot, index in enumerate(chosen):
        path, window = candidates[index]
        tiles[slot] = _read(open_input(path), window, size)
    return CalibrationSet(
        tiles,
        tuple(f"{candidates[i][0].name} {candidates[i][1].top} {candidates[i][1].left}" for i in chosen),
        tuple(looks[chosen].mean(axis=0).tolist()),
        len(candidates),
        len({candidates[i][0] for i in chosen}),
    )


def find_images(folder: Path) -> list[Path]:
    """The images of a folder, or the training pictures of a data set, in the order of their names.

    Raises:
        EmraError: ``input-missing``, ``dataset-empty``.
    """
    from training.data.catalogue import open_dataset, recognise

    if not folder.is_dir():
        raise EmraError("input-missing", "the calibration folder does not exist", "Correct the path", folder)
    try:
        kind = recognise(folder)
    except EmraError:
        found = images_below(folder)
        if not found:
            raise EmraError(
                "dataset-empty", "no JPEG, PNG or TIFF images here", "Give a folder with images", folder
            ) from None
        return found
    problem: EmraError | None = None
    for split in SPLITS:
        try:
            return [tile.image_path for tile in open_dataset(kind, folder, split).tiles]
        except EmraError as error:
            if error.code not in ("split-missing", "split-unknown", "input-missing"):
                raise
            problem = error
    raise EmraError("dataset-empty", "the data set has no split with pictures", "Add images", folder) from problem


def greedy_cover(features: npt.NDArray[Any], count: int) -> list[int]:
    """Choose rows whose sums are large in every column: greedy maximum of the sum of roots of the columns' sums.

    The root makes more of what is there already worth less, so rare columns are served first. Such a function is
    monotone and submodular, for which greedy choice reaches at least 1 - 1/e of the best (Nemhauser, Wolsey and
    Fisher 1978; as a cover of features, Lin and Bilmes 2011). Ties go to the earlier row.

    Args:
        features: At least 0, rows x columns.
        count: Rows to choose, at most all.

    Returns:
        Indices in the order chosen.
    """
    if not 1 <= count <= len(features):
        raise ValueError(f"{count} of {len(features)} rows")
    total = np.zeros(features.shape[1])
    left = np.ones(len(features), bool)
    chosen: list[int] = []
    for _ in range(count):
        gain = np.where(left, np.sqrt(total + features).sum(axis=1), -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        left[best] = False
        total += features[best]
    return chosen


def _candidates(folder: Path, images: Sequence[Path], size: tuple[int, int], count: int) -> list[tuple[Path, Window]]:
    """Windows spread evenly over the images and over each of them."""
    wanted = CANDIDATES * count
    if len(images) > wanted:
        images = [images[index * len(images) // wanted] for index in range(wanted)]
    plans: list[tuple[Path, list[Window]]] = []
    broken: list[EmraError] = []
    for path in images:
        try:
            plans.append((path, _windows(open_input(path), size, wanted)))
        except EmraError as error:
            broken.append(error)
    _refuse_unreadable(folder, broken)
    available = sum(len(windows) for _, windows in plans)
    if available < count:
        raise EmraError(
            "calibration-too-few",
            f"{len(images)} images give {available} windows of {size[0]} x {size[1]} pixels with data,"
            f" and {count} calibration tiles were asked for",
            f"Add images, or give --count {available}" if available else "Add images",
            folder,
        )
    return _spread(plans, wanted)


def _spread(plans: list[tuple[Path, list[Window]]], wanted: int) -> list[tuple[Path, Window]]:
    """At most ``wanted`` windows: as even a share of every image as their sizes allow."""
    # Small images contribute all their windows, and larger ones make up the rest.
    quotas: dict[int, int] = {}
    rest = min(wanted, sum(len(windows) for _, windows in plans))
    by_size = sorted(range(len(plans)), key=lambda index: len(plans[index][1]))
    for position, index in enumerate(by_size):
        quotas[index] = min(len(plans[index][1]), rest // (len(plans) - position))
        rest -= quotas[index]
    return [(path, window) for index, (path, windows) in enumerate(plans) for window in windows[: quotas[index]]]


def _windows(source: ImageSource, size: tuple[int, int], most: int) -> list[Window]:
    """Up to ``most`` windows with data, any first few of which are spread over the whole picture."""
    plan = plan_tiles(source.height, source.width, *size, 0)
    # Multiples of the golden ratio: each falls into the largest gap between the previous ones.
    order = sorted(range(len(plan)), key=lambda index: index * GOLDEN_RATIO % 1)
    windows: list[Window] = []
    for index in order[: LOOKS * most]:
        valid = source.valid(plan[index].read)
        if valid is None or valid.mean() >= LEAST_VALID:
            windows.append(plan[index].read)
            if len(windows) == most:
                break
    return windows


def _look(
    folder: Path,
    candidates: Sequence[tuple[Path, Window]],
    classify: Classify,
    classes: int,
    size: tuple[int, int],
    progress: Callable[[int, int], None] | None,
) -> npt.NDArray[Any]:
    """Share of each class in each candidate, float64 candidates x C; pixels are not kept."""
    shares = np.zeros((len(candidates), classes))
    broken: dict[Path, EmraError] = {}
    opened: tuple[Path, ImageSource] | None = None
    for index, (path, window) in enumerate(candidates):
        if path in broken:
            continue
        try:
            # Candidates of one image are neighbours in the list: each file is decoded once.
            if opened is None or opened[0] != path:
                opened = (path, open_input(path))
            tile = _read(opened[1], window, size)
        except EmraError as error:
            broken[path] = error
            continue
        if not broken:
            labels = classify(tile[np.newaxis])[0]
            shares[index] = np.bincount(labels.reshape(-1), minlength=classes)[:classes] / labels.size
        if progress is not None:
            progress(index + 1, len(candidates))
    _refuse_unreadable(folder, list(broken.values()))
    return shares


def _features(shares: npt.NDArray[Any], paths: Sequence[Path]) -> npt.NDArray[Any]:
    """Columns to cover: the C classes, and the images, which together weigh as much as one class."""
    names = list(dict.fromkeys(paths))
    images = np.zeros((len(paths), len(names)))
    for row, path in enumerate(paths):
        images[row, names.index(path)] = 1 / len(names)
    return np.concatenate([shares, images], axis=1)


def _read(source: ImageSource, window: Window, size: tuple[int, int]) -> npt.NDArray[Any]:
    return middle(source.read(window), *size)


def _refuse_unreadable(folder: Path, broken: Sequence[EmraError]) -> None:
    if not broken:
        return
    shown = "; ".join(f"{Path(error.path or '').name}: {error.cause}" for error in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    raise EmraError(
        "calibration-unreadable",
        f"{len(broken)} of the images cannot be read ({shown}{more})",
        "Replace them or take them out of the folder",
        folder,
    )
