"""External weight files of an ONNX file, found without the onnx package.

ONNX Runtime 1.23, the last for Python 3.10, reads such files from anywhere, and even interprets one name as a memory
address. Later releases resolve symbolic links and confine the files to the model's folder, but cannot recognise a hard
link to a file elsewhere. The names are therefore read here first, from the protobuf wire format
(https://protobuf.dev/programming-guides/encoding/), by the field numbers of onnx.proto.
"""

from __future__ import annotations

import mmap
import stat
from collections.abc import Iterator
from pathlib import Path

from emra_deploy.errors import EmraError

Data = bytes | mmap.mmap
"""The bytes of a model."""

# Message -> field number -> message in that field: all ways from a model to its tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
# Deeper than protobuf itself reads.
_MAX_DEPTH = 128


def check_external_data(path: Path) -> None:
    """Refuse a model whose weights are missing, outside its folder, or in a file with further hard links.

    Damaged files pass this check; loading reports them.

    Raises:
        EmraError: ``model-external-data``.
    """
    # A model may be a symbolic link into a store that also holds its weights.
    folders = (path.parent.resolve(), path.resolve().parent)
    for location in external_locations(path):
        shown = f"Weights are in {location[:100]!r}, "
        try:
            place = (path.parent / location).resolve()
            found = place.stat()
        except (OSError, ValueError, RuntimeError) as error:
            raise _refused(path, f"{shown}where there is no file", "Copy all files of the model again") from error
        if not any(place.is_relative_to(folder) for folder in folders):
            raise _refused(path, f"{shown}outside the model's folder", "Put all files of the model into one folder")
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, f"{shown}which is no regular file", "Copy all files of the model again")
        if found.st_nlink > 1:
            names = f"a hard link: the same file has {found.st_nlink - 1} other names"
            raise _refused(path, f"{shown}{names}", "Copy it instead of linking it")


def _refused(path: Path, cause: str, remedy: str) -> EmraError:
    return EmraError("model-external-data", cause, f"{remedy}, or get the model from a source you trust", path)


def external_locations(path: Path) -> tuple[str, ...]:
    """The distinct ``location`` entries of an ONNX file's external tensors, up to the first damaged byte."""
    found: dict[str, None] = {}
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for key, value in _entries(data, 0, len(data), "model", 0):
                if key == b"location":
                    found[value.decode("utf-8", "replace")] = None
    except (OSError, ValueError, IndexError):
        pass
    return tuple(found)


def _entries(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the external_data entries in a message."""
    if kind == "entry":
        pair = {number: data[low:high] for number, low, high in parts(data, start, end)}
        yield pair.get(1, b""), pair.get(2, b"")
        return
    if depth > _MAX_DEPTH:
        return
    inner = _FIELDS[kind]
    for number, low, high in parts(data, start, end):
        if number in inner:
            yield from _entries(data, low, high, inner[number], depth + 1)


def parts(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each length-delimited field of a message; others are skipped."""
    for number, value, low, high in fields(data, start, end):
        if value is None:
            yield number, low, high


def fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int | None, int, int]]:
    """Number, value, start and end of each field of a message: integers have a value, contents a start and end."""
    while start < end:
        tag, start = _varint(data, start)
        wire = tag & 7
        if wire == 0:
            value, start = _varint(data, start)
            yield tag >> 3, value, start, start
        elif wire == 1:
            start += 8
        elif wire == 5:
            start += 4
        elif wire == 2:
            length, start = _varint(data, start)
            if start + length > end:
                raise ValueError("a field reaches beyond its message")
            yield tag >> 3, None, start, start + length
            start += length
        else:
            raise ValueError("a wire type that onnx.proto does not use")


def _varint(data: Data, start: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError("a number longer than 64 bits")
