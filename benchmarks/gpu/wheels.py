"""Wheels handed to a machine that can fetch nothing: whole, or split into parts that fitted through."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from emra_deploy.errors import EmraError

_NAME = re.compile(r"(?P<wheel>[^/]+\.whl)(?:\.(?:part)?[-_]?(?P<part>\d+|[a-z]{2,3}))?")
_BLOCK = 1 << 22


def unpack_wheels(places: Sequence[Path], folder: Path) -> list[Path]:
    """Join split wheels, and unpack all.

    Args:
        places: Files and folders: ``NAME.whl``, or its parts as ``split`` names them, such as ``NAME.whl.00`` or
            ``NAME.whl.partaa``, joined in the order of these endings.
        folder: Where they are unpacked to; made if absent.

    Returns:
        Folders for Python's path.

    Raises:
        EmraError: ``wheels``: no wheel, a missing part, or a file that is not a wheel.
    """
    parts: dict[str, dict[str, Path]] = {}
    for place in places:
        if not place.exists():
            raise EmraError("wheels", "There is no such file or folder", "Mend --wheels", place)
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            match = _NAME.fullmatch(file.name)
            if match is not None and file.is_file():
                parts.setdefault(match["wheel"], {})[match["part"] or ""] = file
            elif not place.is_dir():
                raise EmraError("wheels", "It is named like no wheel, and like no part of one", "Mend --wheels", file)
    if not parts:
        raise EmraError("wheels", "There are no wheels", "Mend --wheels", places[0] if places else None)
    folder.mkdir(parents=True, exist_ok=True)
    for wheel, found in parts.items():
        _unpack(wheel, found, folder)
    # Some wheels keep their modules here.
    return [folder, *sorted(folder.glob("*.data/purelib")), *sorted(folder.glob("*.data/platlib"))]


def _unpack(wheel: str, found: dict[str, Path], folder: Path) -> None:
    path = found.get("")
    joined = None
    if path is None:
        joined = path = folder / wheel
        with joined.open("wb") as target:
            for part in _in_order(wheel, found):
                with part.open("rb") as source:
                    while block := source.read(_BLOCK):
                        target.write(block)
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        fault = f"The parts of {wheel} make no wheel" if joined else "It is no wheel"
        raise EmraError("wheels", f"{fault} ({error})", "Hand over all parts, unchanged", found.get("")) from error
    finally:
        if joined is not None:
            joined.unlink()


def _in_order(wheel: str, found: dict[str, Path]) -> list[Path]:
    names = sorted(found, key=lambda name: (len(name), name)) if all(map(str.isdigit, found)) else sorted(found)
    if all(map(str.isdigit, found)):
        numbers = [int(name) for name in names]
        missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
        if numbers[0] not in (0, 1) or missing:
            lost = missing[0] if missing else 0
            raise EmraError("wheels", f"Part {lost} of {wheel} is missing", "Hand over all parts", found[names[0]])
    return [found[name] for name in names]
