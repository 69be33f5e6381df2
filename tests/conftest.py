"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def _ignore(*_: object) -> None:
    """Do nothing, and unlike ``SIG_IGN`` be forgotten by the programs that tests start."""


# In the background Ctrl-C is ignored, and under nohup the loss of the terminal. Programs inherit that, and some tests
# send them these signals. The tests themselves keep ignoring the signals that they were started with.
for _signal in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT), signal.SIGTERM):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _ignore)

REPOSITORY = Path(__file__).resolve().parent.parent

FP32_MODEL = REPOSITORY / "models" / "emra-ti-dubai.onnx"
"""The FP32 source of the shipped file, for tests that start from FP32."""


@pytest.fixture(scope="session")
def dubai_root() -> Path:
    """The labelled Dubai tiles, which are never part of the repository."""
    root = Path(os.environ.get("EMRA_DUBAI", REPOSITORY.parent / "shared" / "data" / "dubai"))
    if not (root / "images").is_dir():
        pytest.skip(f"no Dubai tiles at {root}; set EMRA_DUBAI to their folder")
    return root
