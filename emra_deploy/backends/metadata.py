"""The Manifest of an ONNX file, read without any library, so that a backend can be chosen before one is loaded."""

from __future__ import annotations

import mmap
from pathlib import Path

from emra_deploy.backends.external_data import parts
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
"""Field numbers of onnx.proto: of ModelProto, and of StringStringEntryProto."""


def peek_manifest(path: Path) -> Manifest | None:
    """The Manifest of a file, or None if it cannot be read; loading the file reports why."""
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
