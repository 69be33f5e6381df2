"""Fixtures of the runtime's tests."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def pixels() -> np.ndarray:
    """Three bands of noise without a 0 or a 255, uint8 3×100×130."""
    return np.random.default_rng(0).integers(1, 255, (3, 100, 130), np.uint8)
