"""Seals: SHA-256 sums inside files, which reveal damaged copies.

The self-test detects a model that computes other results on its golden tile. One flipped bit among millions of weights
may change only other pixels, and a flipped bit in a class name changes none; only a sum over all bytes detects these.

An ONNX file is sealed by two entries of ``metadata_props`` appended to it: protobuf merges fields that occur later in
the file (https://protobuf.dev/programming-guides/encoding/#last-one-wins). The last entry holds the sum of all bytes
before it; the one before it states that there is a seal, so that a damaged seal is not mistaken for a missing one. A
JSON object is sealed by a member with the sum of the others. A seal is not a signature: anyone who changes a file on
purpose can seal it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.host.digest import stream_sha256

JSON_KEY = "seal"
"""Member of a JSON object that holds the sum of the others."""

MODEL_KEYS = ("emra_sealed", "emra_sha256")
"""Keys of ``metadata_props`` that a sealed ONNX file has."""

_DIGITS = 64


def _entry(key: str, value: bytes) -> bytes:
    """Field 14 of ModelProto, a StringStringEntryProto of key and value; all lengths here are below 128."""
    inner = b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12" + bytes([len(value)]) + value
    return b"\x72" + bytes([len(inner)]) + inner


_FLAG = _entry(MODEL_KEYS[0], b"sha256")
_SEAL_SIZE = len(_entry(MODEL_KEYS[1], b"0" * _DIGITS))
_SEAL_START = _entry(MODEL_KEYS[1], b"0" * _DIGITS)[:-_DIGITS]
# Bytes after the seal, which protobuf may skip, must not hide that there was one.
_SEARCHED = 2**16


def seal_model(path: str | os.PathLike[str]) -> None:
    """Seal an ONNX file that has none of `MODEL_KEYS` in its metadata. External weights are not covered."""
    with Path(path).open("rb+") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(_FLAG)
        stream.flush()
        end = stream.tell()
        stream.seek(0)
        digest = stream_sha256(stream, end)
        stream.seek(end)
        stream.write(_entry(MODEL_KEYS[1], digest.encode()))


def check_model_seal(path: str | os.PathLike[str]) -> bool:
    """Whether an ONNX file has a seal. False for a file that cannot be read; loading it reports why.

    Raises:
        EmraError: ``model-damaged`` if it was changed after it was sealed.
    """
    try:
        with Path(path).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _SEARCHED))
            tail = stream.read()
            seal = tail[-_SEAL_SIZE:]
            if not seal.startswith(_SEAL_START):
                if _FLAG in tail:
                    raise _damaged(path, "its seal is damaged or not at its end")
                return False
            stream.seek(0)
            digest = stream_sha256(stream, size - _SEAL_SIZE)
    except OSError:
        return False
    if digest.encode() != seal[-_DIGITS:]:
        raise _damaged(path, "its bytes are not those that were sealed")
    return True


def seal_json(text: str, indent: int = 1) -> str:
    """The text of a JSON object with its seal, indented by ``indent`` spaces per level."""
    content = json.loads(text)
    content[JSON_KEY] = _json_digest(content)
    # Escapes stay escapes: the characters may not be encodable.
    return json.dumps(content, indent=indent, ensure_ascii=text.isascii()) + "\n"


def take_json_seal(content: dict[str, Any]) -> None:
    """Remove the seal of a JSON object, if it has one.

    Raises:
        ValueError: The object was changed since it was sealed.
    """
    if JSON_KEY in content and content.pop(JSON_KEY) != _json_digest(content):
        raise ValueError("its content is not that which was sealed: it is damaged, or was edited")


def _json_digest(content: dict[str, Any]) -> str:
    # One canonical form for equal content; lone surrogates, which UTF-8 cannot encode, stay escapes.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(path: str | os.PathLike[str], what: str) -> EmraError:
    return EmraError(
        "model-damaged",
        f"The file was changed since it was written: {what}",
        "Copy it again. If another program changed it on purpose, have that remove the metadata "
        + " and ".join(MODEL_KEYS),
        path,
    )
