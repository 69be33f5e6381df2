"""Custom data: a folder of ``images/``, ``masks/`` and ``classes.yaml``.

``classes.yaml``::

    names: [background, house, road]      # label order
    colours: ["#000000", "#FF0000", [128, 128, 128]]
    masks: index                          # index: pixels hold class numbers; colour: they hold the colours above
    values: [0, 1, 2]                     # index masks: the number of each class; default 0, 1, 2, ...
    ignore: [255]                         # numbers or colours that mean "no label"; default [255], or none
    unknown: error                        # or ignore: treatment of any other value
    bands: [red, green, blue]             # optional: names of the channels
    gsd: 0.1                              # optional: metres per pixel

Only ``names`` is necessary, and ``colours`` where masks hold them. A mask has the name of its picture, or that
name with ``_mask`` or ``_label`` at its end. A split is a subfolder (``images/train`` and ``masks/train``, or
``train/images`` and ``train/masks``) or a text file of picture names (``train.txt`` or ``splits/train.txt``, one
a line). The split ``all`` is every pair, whatever the splits.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, ClassSet
from training.data.base import AerialDataset
from training.data.codecs import Codec, Colour, ColourCodec, IndexCodec
from training.data.pairing import Pair, Problems, files_of, find_subfolder, make_tiles, pair_up, subfolder
from training.data.readers import MASK_SUFFIXES, PICTURE_SUFFIXES

CLASSES_FILE = "classes.yaml"
_KEYS = ("names", "colours", "colors", "masks", "values", "ignore", "unknown", "bands", "gsd")
_MASK_ENDINGS = ("_mask", "_label")


@dataclass(frozen=True)
class FolderDescription:
    """Contents of ``classes.yaml``."""

    classes: ClassSet
    codec: Codec
    bands: tuple[str, str, str] = ("red", "green", "blue")
    gsd: float | None = None


def recognises(root: Path) -> bool:
    """Whether the folder describes its classes."""
    return (root / CLASSES_FILE).is_file()


def open_split(root: Path, split: str) -> AerialDataset:
    """One split.

    Args:
        root: The folder of ``classes.yaml``.
        split: ``"all"``, or the name of the split's subfolder or list.

    Raises:
        EmraError: For a wrong ``classes.yaml``, a missing split or folder, or a problem of the files.
    """
    description = read_description(root / CLASSES_FILE)
    problems = Problems()
    if split == "all":
        pairs = _all_pairs(root, problems)
    elif folders := _split_folders(root, split):
        pairs = _pairs_of(*folders, problems)
    elif listing := next((p for p in (root / f"{split}.txt", root / "splits" / f"{split}.txt") if p.is_file()), None):
        pairs = _listed(listing, _all_pairs(root, problems), problems)
    else:
        raise EmraError(
            "split-missing",
            f"the folder has no split {split!r}",
            f"Put its files into images/{split} and masks/{split}, list them in {split}.txt, or choose split all",
            root,
        )
    tiles = make_tiles(pairs, description.codec, problems, root)
    return AerialDataset(
        root.resolve().name, description.classes, split, tiles, description.bands, description.gsd, described=True
    )


def read_description(path: Path) -> FolderDescription:
    """Read and validate ``classes.yaml``.

    Raises:
        EmraError: Naming the key at fault.
    """
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.safe_load(file)
    except FileNotFoundError:
        raise EmraError(
            "classes-missing",
            "there is no such file",
            "Write one with the names and colours of the classes, such as: names: [background, house]",
            path,
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _wrong(path, f"the file is not YAML ({' '.join(str(error).split())})", "Correct its syntax") from error
    if not isinstance(raw, dict):
        raise _wrong(path, f"the file holds a {type(raw).__name__}, expected keys and values", "Write names: [...]")
    if strange := [str(key) for key in raw if key not in _KEYS]:
        raise _wrong(path, f"key {strange[0]!r} is unknown", f"Choose from {', '.join(_KEYS)}")
    try:
        return _describe(raw, path)
    except EmraError as error:
        # ClassSet does not know the file.
        raise error if error.path else EmraError(error.code, error.cause, error.remedy, path) from None


def _describe(raw: dict[str, Any], path: Path) -> FolderDescription:
    names = raw.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(path, f"names is {names!r}, expected a list of names", 'Write names: ["background", "house"]')
    kind = raw.get("masks", "index")
    if kind not in ("index", "colour", "color"):
        raise _wrong(path, f"masks is {kind!r}", "Write masks: index or masks: colour")
    unknown = raw.get("unknown", "error")
    if unknown not in ("error", "ignore"):
        raise _wrong(path, f"unknown is {unknown!r}", "Write unknown: error or unknown: ignore")
    colours = raw.get("colours", raw.get("colors"))
    if colours is None and kind != "index":
        raise _wrong(path, "masks hold colours, but there are none", "Add colours: one for each class")
    palette = _spread_colours(len(names)) if colours is None else tuple(_colour(c, path) for c in _list(colours, path))
    classes = ClassSet(tuple(names), palette)
    if len(set(palette)) != len(palette) and kind != "index":
        raise _wrong(path, "two classes have one colour", "Give each class its own")
    codec: Codec
    if kind == "index":
        values = _numbers(raw.get("values", list(range(len(names)))), path, "values")
        if len(values) != len(names):
            raise _wrong(path, f"{len(names)} names but {len(values)} values", "Give each class one name and one value")
        ignored = _numbers(raw.get("ignore", [IGNORE]), path, "ignore")
        if len({*values, *ignored}) != len(values) + len(ignored):
            raise _wrong(path, "a mask value has two meanings", "Correct values and ignore")
        pairs = (*zip(values, range(len(values)), strict=True), *((value, IGNORE) for value in ignored))
        codec = IndexCodec(pairs, strict=unknown == "error", assumed="ignore" not in raw)
    else:
        if "values" in raw:
            raise _wrong(path, "values are given, but masks hold colours", "Remove values, or write masks: index")
        ignored_colours = tuple(_colour(c, path) for c in _list(raw.get("ignore", []), path))
        if set(ignored_colours) & set(palette):
            raise _wrong(path, "a class has a colour that is to be ignored", "Correct colours and ignore")
        codec = ColourCodec(palette, ignored_colours, strict=unknown == "error")
    bands = raw.get("bands", ["red", "green", "blue"])
    if not isinstance(bands, list) or len(bands) != 3 or not all(isinstance(band, str) for band in bands):
        raise _wrong(path, f"bands is {bands!r}, expected three names", "Write bands: [red, green, blue]")
    gsd = raw.get("gsd")
    if gsd is not None and (isinstance(gsd, bool) or not isinstance(gsd, int | float) or not 0 < gsd < float("inf")):
        raise _wrong(path, f"gsd is {gsd!r}, expected metres per pixel", "Write such as gsd: 0.1")
    return FolderDescription(classes, codec, (bands[0], bands[1], bands[2]), None if gsd is None else float(gsd))


def _wrong(path: Path, cause: str, remedy: str) -> EmraError:
    return EmraError("classes-file", cause, remedy, path)


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(path, f"{value!r} is not a list", "Write it as [first, second]")
    return value


def _numbers(value: Any, path: Path, key: str) -> tuple[int, ...]:
    numbers = _list(value, path)
    if not all(isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 255 for number in numbers):
        raise _wrong(path, f"{key} is {value!r}, expected whole numbers of 0 to 255", f"Correct {key}")
    return tuple(numbers)


def _colour(value: Any, path: Path) -> Colour:
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return (int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16))
        except ValueError:
            pass
    elif isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value):
        return (value[0], value[1], value[2])
    raise _wrong(path, f"{value!r} is not a colour", 'Write colours as "#3C1098" (in quotes) or [60, 16, 152]')


def _spread_colours(count: int) -> tuple[Colour, ...]:
    """Distinct colours for classes without any; neighbours in the list are far apart in hue."""
    golden = 0.6180339887
    colours = []
    for i in range(count):
        red, green, blue = colorsys.hsv_to_rgb(i * golden % 1, 0.55 + 0.15 * (i % 4), 0.95 - 0.15 * (i % 3))
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)


def _split_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    images = find_subfolder(root, "images")
    if images and (inner := find_subfolder(images, split)):
        return inner, subfolder(subfolder(root, "masks"), split)
    outer = find_subfolder(root, split)
    if outer and (inner := find_subfolder(outer, "images")):
        return inner, subfolder(outer, "masks")
    return None


def _all_pairs(root: Path, problems: Problems) -> list[Pair]:
    """Pairs of every split, and of no split."""
    images = find_subfolder(root, "images")
    if images is None:
        splits = [p for p in sorted(root.iterdir()) if p.is_dir() and find_subfolder(p, "images")]
        if not splits:
            subfolder(root, "images")
        found = [(split.name, subfolder(split, "images"), subfolder(split, "masks")) for split in splits]
    else:
        masks = subfolder(root, "masks")
        inner = [p for p in sorted(images.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        found = [("", images, masks), *((p.name, p, subfolder(masks, p.name)) for p in inner)]
    pairs = []
    for prefix, picture_folder, mask_folder in found:
        for pair in _pairs_of(picture_folder, mask_folder, problems):
            name = f"{prefix}/{pair.name}" if prefix else pair.name
            pairs.append(Pair(name, pair.image_path, pair.label_path))
    return pairs


def _pairs_of(images: Path, masks: Path, problems: Problems) -> list[Pair]:
    pictures = files_of(images, PICTURE_SUFFIXES)
    found: dict[str, Path] = {}
    for stem, path in files_of(masks, MASK_SUFFIXES).items():
        plain = next((stem[: -len(end)] for end in _MASK_ENDINGS if stem.endswith(end) and stem not in pictures), stem)
        if plain in found:
            problems.add("file-repeated", f"{found[plain].name} is a mask of the same picture", "Remove one", path)
        found[plain] = path
    return pair_up(pictures, found, problems)


def _listed(listing: Path, pairs: list[Pair], problems: Problems) -> list[Pair]:
    by_name = {pair.name: pair for pair in pairs} | {pair.image_path.name: pair for pair in pairs}
    chosen = {}
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in by_name:
            chosen[by_name[name].name] = by_name[name]
        else:
            problems.add(
                "file-unpaired",
                f"line {number} names {name!r}, of which there is no pair of picture and mask",
                "Add the files or remove the line",
                listing,
            )
    return list(chosen.values())
