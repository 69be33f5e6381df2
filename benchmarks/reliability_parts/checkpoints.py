"""Checkpoints for the trials. The only file here with PyTorch."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file

from benchmarks.reliability_parts.model import CLASSES
from emra_deploy.model_file.seal import JSON_KEY
from training.checkpoint import CONFIG, WEIGHTS, load_checkpoint, save_checkpoint
from training.model import BACKBONES, EMRAConfig, EMRAProxy
from training.model.config import Backbone

# Four blocks of width 64: the same code as ViT-Ti in a fraction of the time. Only worker processes import this.
timm.create_model = functools.partial(timm.create_model, depth=4, embed_dim=64, num_heads=2)
BACKBONES["tiny"] = Backbone("vit_tiny_patch16_224", 64, 4, 2)


def write(folder: Path) -> None:
    """Write a checkpoint of random weights, as training does."""
    torch.manual_seed(0)
    model = EMRAProxy(EMRAConfig(num_classes=len(CLASSES), image_size=(64, 64)))
    meta = {"gsd": 0.5, "step": 100, "recipe": {"rate": 0.01, "names": ["a", "b"]}}
    save_checkpoint(folder, model, CLASSES, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), meta)


def write_without_seals(source: Path, folder: Path) -> None:
    """Copy a checkpoint, leaving its seals out."""
    shutil.copytree(source, folder)
    save_file(load_file(source / WEIGHTS), folder / WEIGHTS)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    config.pop(JSON_KEY, None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def content(folder: Path) -> str:
    """A sum over everything that a checkpoint holds.

    Raises:
        EmraError: It is damaged.
    """
    loaded = load_checkpoint(folder)
    facts = [loaded.model.config.to_dict(), loaded.classes.names, loaded.classes.palette, loaded.mean, loaded.std]
    digest = hashlib.sha256(json.dumps([*facts, loaded.meta], sort_keys=True).encode())
    for name, value in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
