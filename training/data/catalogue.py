"""The known data sets, and the recognition of their layouts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from emra_deploy.errors import EmraError
from training.data import dubai, folder, isprs, loveda
from training.data.base import AerialDataset


class _Layout(NamedTuple):
    open_split: Callable[..., AerialDataset]
    recognises: Callable[[Path], bool]


# A folder with classes.yaml describes itself, whatever else it looks like: it comes first.
_LAYOUTS = {
    "folder": _Layout(folder.open_split, folder.recognises),
    "loveda": _Layout(loveda.open_split, loveda.recognises),
    "dubai": _Layout(dubai.open_split, dubai.recognises),
    "potsdam": _Layout(isprs.open_potsdam, isprs.recognises_potsdam),
    "vaihingen": _Layout(isprs.open_vaihingen, isprs.recognises_vaihingen),
}

KINDS = (*_LAYOUTS, "auto")


def open_dataset(kind: str, root: str | os.PathLike[str], split: str, **options: Any) -> AerialDataset:
    """Open one split of a data set; reads headers only.

    Args:
        kind: One of `KINDS`; ``"auto"`` recognises the layout.
        root: The data set's folder.
        split: ``"train"``, ``"val"``, ``"test"`` or another split that the data set has.
        options: Further options of the data set: ``labels`` (``"full"`` or ``"eroded"``) for
            Potsdam and Vaihingen, ``product`` and ``mislabelled`` for Potsdam, ``domain`` for LoveDA.

    Raises:
        EmraError: For an unknown kind, split or option, a missing folder, unpaired, unreadable or unequal files:
            all problems of the split in one error.
    """
    home = Path(root)
    if kind not in KINDS:
        raise EmraError("dataset-kind", f"data set kind {kind!r} is unknown", f"Choose one of {', '.join(KINDS)}")
    if not home.is_dir():
        raise EmraError(
            "input-missing",
            "the data set's folder does not exist",
            "Correct the path, or unpack the data there; python -m training.data fetch-help names its source",
            home,
        )
    if kind == "auto":
        kind = recognise(home)
    open_split = _LAYOUTS[kind].open_split
    known = [name for name in inspect.signature(open_split).parameters if name not in ("root", "split")]
    for name in options:
        if name not in known:
            raise EmraError(
                "dataset-option",
                f"data set {kind} has no option {name!r}",
                f"Choose from {', '.join(known)}" if known else "Leave it out",
                home,
            )
    return open_split(home, split, **options)


def recognise(root: Path) -> str:
    """Find the kind of data set that a folder holds.

    Raises:
        EmraError: ``dataset-unrecognised``.
    """
    for kind, layout in _LAYOUTS.items():
        if layout.recognises(root):
            return kind
    raise EmraError(
        "dataset-unrecognised",
        "the folder has the layout of none of the known data sets",
        f"Give the kind ({', '.join(_LAYOUTS)}) to learn what is missing",
        root,
    )
