"""Which data sets there are, and how a folder tells which one it holds."""

from __future__ import annotations

import os
from pathlib import Path

from emra_deploy.errors import EmraError
from training.data import dubai
from training.data.base import AerialDataset

_MODULES = {"dubai": dubai}

KINDS = (*_MODULES, "auto")


def open_dataset(kind: str, root: str | os.PathLike[str], split: str, **options: str) -> AerialDataset:
    """Open one split of a data set, reading headers only.

    Args:
        kind: One of `KINDS`; ``"auto"`` recognises the layout.
        root: The data set's folder.
        split: ``"train"``, ``"val"`` or ``"test"``, as far as the data set has them.
        options: What the data set's own ``open_split`` takes besides.

    Raises:
        EmraError: For an unknown kind or split, a missing folder, unpaired, unreadable or unequal files: all
            problems of the split in one error.
    """
    folder = Path(root)
    if kind not in KINDS:
        raise EmraError("dataset-kind", f"data set kind {kind!r} is unknown", f"Choose one of {', '.join(KINDS)}")
    if not folder.is_dir():
        raise EmraError(
            "folder-missing",
            "the data set's folder does not exist",
            "Correct the path, or unpack the data there",
            folder,
        )
    if kind == "auto":
        kind = recognise(folder)
    return _MODULES[kind].open_split(folder, split, **options)


def recognise(root: Path) -> str:
    """The kind of data set a folder holds.

    Raises:
        EmraError: ``dataset-unrecognised``.
    """
    for kind, module in _MODULES.items():
        if module.recognises(root):
            return kind
    raise EmraError(
        "dataset-unrecognised",
        "the folder has the layout of none of the known data sets",
        f"Give the kind ({', '.join(_MODULES)}) to learn what is missing",
        root,
    )
