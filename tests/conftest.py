"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Where the tests run in the background, Ctrl-C is ignored, and the processes that they interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
