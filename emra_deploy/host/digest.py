"""The sha256 of files, read in parts: models need not fit into memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

_PART = 2**20


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The hex sha256 of a file."""
    with Path(path).open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO, size: int | None = None) -> str:
    """The hex sha256 of the next ``size`` bytes of a stream, or of all that is left."""
    digest = hashlib.sha256()
    while part := stream.read(_PART if size is None else min(size, _PART)):
        digest.update(part)
        size = None if size is None else size - len(part)
    return digest.hexdigest()
