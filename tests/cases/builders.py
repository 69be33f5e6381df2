"""Shared parts of the cases: a model with known labels, a picture for it, and the command as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from emra_deploy import ClassSet, MapJob, Segmenter, make_map
from emra_deploy.maps.report import MapReport
from tests.onnx_models import build_model

COLOURS = ClassSet(
    ("red", "green", "blue", "black", "white"), ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255))
)
"""A pixel gets the class of the nearest of these."""

SQUARE = 32
"""Side of the squares in pixels."""


def squares(rows: int = 4, columns: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A picture of squares in red, green and blue, H x W x 3, and its labels."""
    numbers = np.add.outer(np.arange(rows), np.arange(columns)) % 3
    labels = np.kron(numbers, np.ones((SQUARE, SQUARE))).astype(np.uint8)
    return np.asarray(COLOURS.palette, np.uint8)[labels], labels


def colour_model(folder: Path, gsd: Any = (1e-3, 1e5)) -> Path:
    """The model file, of tiles of 64 x 64 pixels; by default for pixels of any size on the ground."""
    path = folder / "colours.onnx"
    build_model(path, size=(64, 64), classes=COLOURS, gsd=gsd)
    return path


def segment(model: Path, source: Path, output: Path, *more: object, fails: bool = False) -> dict[str, Any]:
    """``emra segment ... --json``: its JSON and ``stderr``, and the exit status, which must be 2 where it ``fails``."""
    words = [source, "-m", model, "-o", output, "--json", "--backend", "onnxruntime", *more]
    command = [sys.executable, "-m", "emra_deploy", "segment", *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert ran.returncode == (2 if fails else 0), ran.stderr
    return {**(json.loads(ran.stdout) if ran.stdout.strip() else {}), "stderr": ran.stderr}


def make(source: Path, output: Path, model: Path, **settings: Any) -> MapReport:
    """The map by the Python interface, which takes a fraction of the command's time; ``settings`` of `MapJob`."""
    with Segmenter.open(model, backend="onnxruntime", threads=1) as segmenter:
        return make_map(MapJob(source, output, **settings), segmenter)
