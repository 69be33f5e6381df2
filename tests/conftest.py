"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

FP32_MODEL = REPOSITORY / "models" / "emra-ti-dubai.onnx"
"""What the shipped file was made of; for tests of what starts from an FP32 file."""


@pytest.fixture(scope="session")
def dubai_root() -> Path:
    """The labelled Dubai tiles, which are never part of the repository."""
    root = Path(os.environ.get("EMRA_DUBAI", REPOSITORY.parent / "shared" / "data" / "dubai"))
    if not (root / "images").is_dir():
        pytest.skip(f"no Dubai tiles at {root}; set EMRA_DUBAI to their folder")
    return root
