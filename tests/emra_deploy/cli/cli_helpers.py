"""Helpers that run the command line as a user does, in a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def emra(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``emra ARGUMENTS``, with stdout and stderr captured."""
    command = [sys.executable, "-m", "emra_deploy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def save_png(path: Path, image: np.ndarray) -> Path:
    """Write a picture and return its path."""
    Image.fromarray(image).save(path)
    return path
