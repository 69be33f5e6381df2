"""Fixtures of the runtime's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.onnx_models import build_model


@pytest.fixture
def pixels() -> np.ndarray:
    """Three bands of noise without a 0 or a 255, uint8 3×100×130."""
    return np.random.default_rng(0).integers(1, 255, (3, 100, 130), np.uint8)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of 64×64 pixels that gives each pixel the class of the nearest colour."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path, size=(64, 64))
    return path
