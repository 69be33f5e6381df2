"""LoveDA: land cover of Nanjing, Changzhou and Wuhan at 0.3 m (Wang et al., NeurIPS 2021 Datasets; CC BY-NC-SA 4.0).

``{Train,Val,Test}/{Urban,Rural}/{images_png,masks_png}/NUMBER.png``, pictures of 1024 x 1024. The masks store 0
for "no data" and 1 to 7 for the classes, which become 255 and 0 to 6. The labels of the test split are not public.
"""

from __future__ import annotations

from pathlib import Path

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, ClassSet
from training.data.base import AerialDataset
from training.data.codecs import IndexCodec
from training.data.pairing import (
    Pair,
    Problems,
    files_of,
    find_subfolder,
    make_tiles,
    pair_up,
    subfolder,
)
from training.data.readers import MASK_SUFFIXES, PICTURE_SUFFIXES

CLASSES = ClassSet(
    names=("background", "building", "road", "water", "barren", "forest", "agricultural"),
    palette=(
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    ),
)
CODEC = IndexCodec.of(CLASSES, first=1, ignored=(0, IGNORE))
SPLITS = {"train": ("Train",), "val": ("Val",), "trainval": ("Train", "Val"), "test": ("Test",)}
DOMAINS = {"all": ("Urban", "Rural"), "urban": ("Urban",), "rural": ("Rural",)}
GSD = 0.3


def recognises(root: Path) -> bool:
    """Whether a split of LoveDA is here."""
    home = _home(root)
    for names in SPLITS.values():
        split = find_subfolder(home, names[0])
        if split and any(find_subfolder(split, domain) for domain in DOMAINS["all"]):
            return True
    return False


def open_split(root: Path, split: str, domain: str = "all") -> AerialDataset:
    """One split.

    Args:
        root: The folder of ``Train``, ``Val`` and ``Test``; upper and lower case, and the doubled folders that
            unpacking makes (``Train/Train``), are all understood.
        split: ``"train"``, ``"val"``, ``"trainval"`` or ``"test"`` (which has no labels).
        domain: ``"urban"``, ``"rural"`` or ``"all"``.

    Raises:
        EmraError: ``split-unknown``, ``domain-unknown``, ``input-missing``, or a problem of the files.
    """
    if split not in SPLITS:
        raise EmraError("split-unknown", f"split {split!r} does not exist", f"Choose one of {', '.join(SPLITS)}", root)
    if domain not in DOMAINS:
        raise EmraError(
            "domain-unknown", f"domain {domain!r} does not exist", f"Choose one of {', '.join(DOMAINS)}", root
        )
    problems = Problems()
    pairs: list[Pair] = []
    home = _home(root)
    for part in SPLITS[split]:
        for area in DOMAINS[domain]:
            folder = subfolder(subfolder(home, part), area)
            pictures = files_of(subfolder(folder, "images_png", "images"), PICTURE_SUFFIXES)
            if split == "test":
                found = [Pair(stem, path, None) for stem, path in pictures.items()]
            else:
                masks = files_of(subfolder(folder, "masks_png", "masks"), MASK_SUFFIXES)
                found = pair_up(pictures, masks, problems)
            pairs += [Pair(f"{part}/{area}/{pair.name}", pair.image_path, pair.label_path) for pair in found]
    tiles = make_tiles(pairs, CODEC, problems, root)
    return AerialDataset("loveda", CLASSES, split, tiles, gsd=GSD)


def _home(root: Path) -> Path:
    """The folder that holds the splits: the root, or the only folder in it that does."""
    if any(find_subfolder(root, names[0]) for names in SPLITS.values()):
        return root
    inner = [
        path
        for path in (sorted(root.iterdir()) if root.is_dir() else ())
        if path.is_dir() and any(find_subfolder(path, names[0]) for names in SPLITS.values())
    ]
    return inner[0] if len(inner) == 1 else root
