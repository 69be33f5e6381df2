"""Files are hashed in parts, and as a whole file would be."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from emra_deploy.host.digest import file_sha256, stream_sha256

PART = 2**20


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART + 3])
def test_any_size_has_the_digest_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "a.bin"
    path.write_bytes(content[:size])
    expected = hashlib.sha256(content[:size]).hexdigest()
    assert file_sha256(path) == expected
    stream = io.BytesIO(content + b"more")
    assert stream_sha256(stream, size) == expected
    assert stream.tell() == size
