"""The Manifest of an ONNX file, read without any library: to choose one, beside an engine, or on a bare device."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from emra_deploy.backends.external_data import parts
from emra_deploy.errors import EmraError, about
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import check_model_seal

_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
"""Field numbers of onnx.proto: of ModelProto, and of StringStringEntryProto."""


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the Manifest of an ONNX file.

    Raises:
        EmraError: ``model-missing``, ``model-unreadable``, ``model-damaged``, and those of `Manifest`.
    """
    place = Path(path)
    if not place.is_file():
        raise EmraError("model-missing", "The ONNX file does not exist", "Give the file the engine was built of", path)
    check_model_seal(place)
    try:
        entries = _metadata(place)
    except (OSError, ValueError, IndexError) as error:
        raise EmraError(
            "model-unreadable", "The file is no ONNX model, or is cut short or damaged", "Copy the file again", path
        ) from error
    with about(path):
        return Manifest.from_metadata(entries)


def peek_manifest(path: Path) -> Manifest | None:
    """The Manifest of a file, None where it cannot be read; loading the file reports why. The seal is not checked."""
    try:
        return Manifest.from_metadata(_metadata(path))
    except (OSError, ValueError, IndexError, EmraError):
        return None


def _metadata(path: Path) -> dict[str, str]:
    entries: dict[str, str] = {}
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, low, high in parts(data, 0, len(data)):
            if number == _METADATA_PROPS:
                pair = {inner: data[start:end] for inner, start, end in parts(data, low, high)}
                entries[pair.get(_KEY, b"").decode()] = pair.get(_VALUE, b"").decode()
    return entries


def onnx_beside(engine: str | os.PathLike[str]) -> Path | None:
    """The ONNX file of the same name as an engine, None when there is none."""
    place = Path(engine).with_suffix(".onnx")
    return place if place.is_file() else None
