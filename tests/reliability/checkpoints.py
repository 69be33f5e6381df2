"""Checkpoints to be damaged. The only file here with PyTorch."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from emra_deploy.model_file.seal import JSON_KEY
from tests.checkpoints import MEAN, STD, narrow_backbone, random_model
from tests.onnx_models import CLASSES
from training.checkpoint import CONFIG, WEIGHTS, load_checkpoint, save_checkpoint


def write(folder: Path) -> None:
    """Write a small checkpoint with random weights, as training does."""
    meta = {"gsd": 0.5, "step": 100, "recipe": {"rate": 0.01, "names": ["a", "b"]}}
    with narrow_backbone():
        save_checkpoint(folder, random_model(image_size=(64, 64)), CLASSES, MEAN, STD, meta)


def write_without_seals(source: Path, folder: Path) -> None:
    """Copy a checkpoint without its seals."""
    shutil.copytree(source, folder)
    save_file(load_file(source / WEIGHTS), folder / WEIGHTS)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    config.pop(JSON_KEY, None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def content(folder: Path) -> str:
    """A digest of everything that a checkpoint holds.

    Raises:
        EmraError: It is damaged.
    """
    with narrow_backbone():
        loaded = load_checkpoint(folder)
    facts = [loaded.model.config.to_dict(), loaded.classes.names, loaded.classes.palette, loaded.mean, loaded.std]
    digest = hashlib.sha256(json.dumps([*facts, loaded.meta], sort_keys=True).encode())
    for name, value in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
