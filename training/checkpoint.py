"""Checkpoints: a folder with `model.safetensors` and `config.json`. Reading one never runs code from it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from emra_deploy.errors import EmraError
from emra_deploy.host.files import make_folder
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.seal import seal_json, take_json_seal
from training.model import EMRAConfig, EMRAProxy
from training.model.state_dict import find_network, plain_name

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
DIGEST = "sha256"
"""Key of the metadata of the weights' file that holds `weights_digest`."""

KEYS = {"format", "model", "classes", "palette", "mean", "std", "meta"}
"""Members of the configuration, beside its seal."""

POSITIONS = "backbone.patch_positions"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and the values needed to use it.

    Attributes:
        model: In evaluation mode, FP32, on the CPU.
        classes: Names and colours, in label order.
        mean: Three values, of RGB scaled to [0, 1].
        std: Three values, likewise.
        meta: Record of the training: recipe, step, data, tool versions.
        folder: Its folder.
    """

    model: EMRAProxy
    classes: ClassSet
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    meta: dict[str, Any]
    folder: Path


def save_checkpoint(
    folder: Path,
    model: EMRAProxy,
    classes: ClassSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    meta: dict[str, Any],
) -> None:
    """Write a checkpoint folder; each file appears whole or not at all.

    Args:
        folder: Made if absent; an older checkpoint in it is replaced.
        model: Weights are stored in FP32.
        classes: As many as the model has.
        mean: Three values, of RGB scaled to [0, 1].
        std: Three values, likewise.
        meta: JSON values.
    """
    make_folder(folder)
    config = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "classes": list(classes.names),
        "palette": [list(colour) for colour in classes.palette],
        "mean": list(mean),
        "std": list(std),
        "meta": meta,
    }
    weights = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    # The sum is inside the file, as a kill may come between the two files.
    replace_file(folder / WEIGHTS, lambda path: save_file(weights, path, {DIGEST: weights_digest(weights)}))
    text = seal_json(json.dumps(config), indent=2)
    replace_file(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint folder.

    Args:
        folder: With `model.safetensors` and `config.json`, as `save_checkpoint` writes them.

    Raises:
        EmraError: A file is absent or damaged, or weights and configuration do not fit each other.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise EmraError(
                "checkpoint-missing",
                f"there is no {name} here, expected a folder with {WEIGHTS} and {CONFIG}",
                "Give the folder best/ or last/ that training.train wrote",
                folder,
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        take_json_seal(config)
        if set(config) != KEYS:
            raise ValueError(f"the members are {sorted(config)}, expected {sorted(KEYS)}")
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']!r}, expected {FORMAT}")
        classes = ClassSet(
            tuple(str(name) for name in config["classes"]),
            tuple((int(r), int(g), int(b)) for r, g, b in config["palette"]),
        )
        mean, std = _triple(config["mean"]), _triple(config["std"])
        if min(std) <= 0:
            raise ValueError(f"std is {std}, expected values above 0")
        model_config = EMRAConfig.from_dict(config["model"])
        meta = dict(config["meta"])
    except EmraError as error:
        raise EmraError(error.code, error.cause, error.remedy, folder / CONFIG) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EmraError(
            "checkpoint-config",
            f"not a checkpoint configuration: {error!r}",
            "Train again or restore the file",
            folder / CONFIG,
        ) from error
    if model_config.num_classes != len(classes):
        raise EmraError(
            "class-count",
            f"the model has {model_config.num_classes} classes but {len(classes)} are named",
            "Restore the file that training wrote",
            folder / CONFIG,
        )
    try:
        # Before anything is allocated: a damaged image_size may ask for terabytes.
        with safe_open(folder / WEIGHTS, "pt") as file:
            stored = next((name for name in file.keys() if plain_name(name).endswith(POSITIONS)), POSITIONS)  # noqa: SIM118
            table = tuple(file.get_slice(stored).get_shape())
            about = file.metadata() or {}
        patches = model_config.grid[0] * model_config.grid[1]
        if table[:2] != (1, patches):
            raise ValueError(f"{POSITIONS} is {table}, expected 1 x {patches} x width")
        model = EMRAProxy(model_config)
        weights = load_file(folder / WEIGHTS)
        # Other programs write files without a sum.
        if set(about) not in (set(), {"format"}) and about != {DIGEST: weights_digest(weights)}:
            raise ValueError("the weights differ from those that were written")
        if found := find_network(weights, POSITIONS):
            weights = found.tensors
        model.load_state_dict(weights)
        for name, value in weights.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} holds NaN or infinity")
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EmraError(
            "checkpoint-weights",
            f"the weights are damaged or do not fit {CONFIG}: {first}",
            "Restore both files from the same training run",
            folder / WEIGHTS,
        ) from error
    return Checkpoint(model.eval(), classes, mean, std, meta, folder)


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """A sha256 over names, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path``, flush it to disk, then rename it over ``path``.

    The temporary name is always the same, so the remains of a killed run are overwritten and never accumulate.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # without this a power cut may undo the rename
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Store the state for resuming (tensors and plain values) atomically."""
    replace_file(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read `save_state`'s file; only tensors and plain values are accepted.

    Raises:
        EmraError: Damaged, or holds anything else, such as a pickle that would run code.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"holds a {type(state).__name__}")
    except Exception as error:  # pickle, zip and torch raise different errors
        raise EmraError(
            "state-damaged",
            f"not a training state: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            "Start again with --resume never, or restore the file",
            path,
        ) from error
    return state


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    if not all(math.isfinite(value) for value in (first, second, third)):
        raise ValueError(f"{values} are not three finite numbers")
    return first, second, third
