"""The Manifest of a model file, read without any library: to choose one before it is loaded."""

from __future__ import annotations

import mmap
from pathlib import Path

from emra_deploy.backends.external_data import parts
from emra_deploy.backends.names import ENGINES
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
"""Field numbers of onnx.proto: of ModelProto, and of StringStringEntryProto."""


def peek_manifest(path: Path) -> Manifest | None:
    """The Manifest of a file, for an engine that of its sidecar; None where it cannot be read: loading reports why."""
    if path.suffix.lower() in ENGINES:
        return _of_sidecar(path)
    entries: dict[str, str] = {}
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, low, high in parts(data, 0, len(data)):
                if number == _METADATA_PROPS:
                    pair = {inner: data[start:end] for inner, start, end in parts(data, low, high)}
                    entries[pair.get(_KEY, b"").decode()] = pair.get(_VALUE, b"").decode()
        return Manifest.from_metadata(entries)
    except (OSError, ValueError, IndexError, EmraError):
        return None


def _of_sidecar(path: Path) -> Manifest | None:
    from emra_deploy.backends.tensorrt.sidecar import read_sidecar

    try:
        found = read_sidecar(path)
    except EmraError:
        return None
    return None if found is None else found[1]
