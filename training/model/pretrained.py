"""Start the backbone from a timm or DeiT vision transformer trained elsewhere.

Reading a file never executes code: safetensors holds tensors only, and pickles go through torch's weights-only
unpickler.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from emra_deploy.errors import EmraError
from training.model.config import BACKBONES, PATCH
from training.model.emra import EMRAProxy
from training.model.state_dict import Found, find_network, named_tensors

logger = logging.getLogger(__name__)

HUB = "hub"
ANCHOR = "patch_embed.proj.weight"
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
PARTS = ("patch_embed.", "blocks.", "norm.", "norm_pre.")
"""Where weights take part in the features: one that is missing or left over there means another architecture."""

START = "Start from a timm vit_*_patch16_224 or a DeiT file, or train from random weights"


@dataclass(frozen=True)
class Pretrained:
    """What `load_pretrained` did.

    Attributes:
        source: The file, or the timm model name on the hub.
        loaded: Keys of the source that are now in the backbone.
        left: Keys of the source without a place here, such as the classification head.
        source_grid: (h, w) of the source's position table.
        grid: (h, w) of the model's, to which it was resampled.
    """

    source: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]
    source_grid: tuple[int, int]
    grid: tuple[int, int]

    def __str__(self) -> str:
        resampled = "" if self.source_grid == self.grid else f", positions {self.source_grid} -> {self.grid}"
        left = f"; left: {', '.join(self.left)}" if self.left else ""
        return f"{len(self.loaded)} tensors from {self.source}{resampled}{left}"


def load_pretrained(model: EMRAProxy, source: str | os.PathLike[str]) -> Pretrained:
    """Put pretrained weights into the model's backbone, in place. HRA and fusion keep their weights.

    Every class token starts as the source's CLS token, at the CLS token's position; the patch position table is
    resampled (bicubic) to the model's grid. On an error the model is as it was.

    Args:
        model: Its backbone decides which timm model is wanted.
        source: ``"hub"`` for timm's default weights of that model, or a ``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``
            or ``.bin`` file with timm's keys, nested or behind a prefix, as `find_network` finds them.

    Returns:
        What was loaded and what was left.

    Raises:
        EmraError: No network, an unreadable file, a file that holds more than tensors, or another architecture.
    """
    path: Path | None = None
    beside: tuple[str, ...] = ()
    if source == HUB:
        where = BACKBONES[model.config.backbone].timm_name
        weights = _from_hub(where)
    else:
        path = Path(source)
        weights, beside, place = _from_file(path)
        where = f"{path} ({place})" if place else str(path)
    _check_architecture(weights, model.config.backbone, path)
    adapted, used, source_grid = _adapt(weights, model, path)
    model.backbone.load_state_dict(adapted, strict=True)
    left = tuple(sorted((set(weights) - used).union(beside)))
    report = Pretrained(where, tuple(sorted(used)), left, source_grid, model.backbone.grid)
    logger.info("Pretrained backbone: %s", report)
    return report


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # The hub client raises its transport's own exceptions, which differ by version.
        raise EmraError(
            "pretrained-offline",
            f"the weights of {name} could not be had from the hub ({type(error).__name__}: {_first_line(error)})",
            f"Connect to the network, or fetch the timm weights of {name} on another machine and give the path of that "
            ".safetensors or .pth file instead of 'hub'",
        ) from error


def _from_file(path: Path) -> Found:
    if not path.is_file():
        raise EmraError("pretrained-missing", "no such file", "Give 'hub' or the path of a weights file", path)
    suffix = path.suffix.lower()
    if suffix != ".safetensors" and suffix not in PICKLES:
        raise EmraError(
            "pretrained-format",
            f"weights end in {suffix or 'no suffix'}, expected .safetensors, {', '.join(PICKLES)}",
            "Convert the weights to .safetensors",
            path,
        )
    try:
        if suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged or hostile pickle can make the unpickler raise nearly anything.
        raise EmraError(
            "pretrained-unreadable",
            f"not a whole file of tensors and nothing else ({type(error).__name__}: {_first_line(error)})",
            "Fetch it again, or save only its state_dict, best as .safetensors; no file may run code when loaded",
            path,
        ) from error
    if found := find_network(loaded, ANCHOR):
        return found
    if tensors := named_tensors(loaded):
        return Found(tensors, (), "")
    raise EmraError("pretrained-format", "holds no tensors with names, at its top or nested", START, path)


def _check_architecture(weights: Mapping[str, Tensor], wanted: str, path: Path | None) -> None:
    projection = weights.get(ANCHOR)
    if projection is None or projection.ndim != 4:
        raise EmraError(
            "pretrained-mismatch",
            f"has no {ANCHOR}; its first keys are {', '.join(sorted(weights)[:4])}",
            START,
            path,
        )
    if tuple(projection.shape[1:]) != (3, PATCH, PATCH):
        bands, height, width = projection.shape[1:]
        raise EmraError(
            "pretrained-mismatch",
            f"its patches are {height} x {width} of {bands} bands, expected {PATCH} x {PATCH} of 3",
            START,
            path,
        )
    width = projection.shape[0]
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.") and key.count(".") > 1})
    spec = BACKBONES[wanted]
    if (width, depth) == (spec.width, spec.depth):
        return
    like = [name for name, other in BACKBONES.items() if (other.width, other.depth) == (width, depth)]
    raise EmraError(
        "pretrained-mismatch",
        f"width {width} and depth {depth} look like {like[0] if like else 'no backbone here'}, "
        f"but the model's backbone is {wanted} (width {spec.width}, depth {spec.depth})",
        f"Set backbone to {like[0]}, or give the weights of {spec.timm_name}"
        if like
        else f"Give the weights of {spec.timm_name}",
        path,
    )


def _adapt(
    weights: Mapping[str, Tensor], model: EMRAProxy, path: Path | None
) -> tuple[dict[str, Tensor], set[str], tuple[int, int]]:
    """A whole state dict for the backbone, the source keys in it, and the grid of the source's positions."""
    target = model.backbone.state_dict()
    table, prefix, source_grid = _positions(weights, path)
    used = {key for key in weights if key in target and key.startswith(PARTS)} | {"pos_embed"}
    missing = [key for key in target if key.startswith(PARTS) and key not in used]
    unknown = [key for key in weights if key.startswith(PARTS) and key not in used]
    if missing or unknown:
        raise EmraError(
            "pretrained-mismatch",
            f"not the blocks of a plain ViT: lacks {_few(missing)}, has beyond it {_few(unknown)}",
            START,
            path,
        )
    width = target["class_tokens"].shape[-1]
    cls_token = weights.get("cls_token")
    if table.shape[-1] != width or (cls_token is not None and cls_token.shape != (1, 1, width)):
        shapes = ["missing" if value is None else tuple(value.shape) for value in (weights["pos_embed"], cls_token)]
        raise EmraError(
            "pretrained-mismatch",
            f"pos_embed is {shapes[0]} and cls_token {shapes[1]}, expected widths of {width}",
            START,
            path,
        )
    adapted = dict(target)
    adapted.update((key, weights[key]) for key in used if key != "pos_embed")
    adapted["patch_positions"] = resample_abs_pos_embed(
        table.float(), model.backbone.grid, source_grid, num_prefix_tokens=0
    )
    if cls_token is not None:
        used.add("cls_token")
        adapted["class_tokens"] = cls_token.expand_as(target["class_tokens"])
        # Tables without a place for CLS add nothing to it, so a position of zero gives the same token.
        position = prefix[:, :1] if prefix.shape[1] else torch.zeros_like(cls_token)
        adapted["class_positions"] = position.expand_as(target["class_positions"])
    for key in sorted(adapted):
        if adapted[key].shape != target[key].shape:
            raise EmraError(
                "pretrained-mismatch",
                f"{key} is {tuple(adapted[key].shape)}, expected {tuple(target[key].shape)}",
                START,
                path,
            )
        if not torch.isfinite(adapted[key]).all():
            raise EmraError("pretrained-not-finite", f"{key} holds NaN or infinity", "Fetch the file again", path)
    return adapted, used, source_grid


def _positions(weights: Mapping[str, Tensor], path: Path | None) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Patch positions 1 x N x D, prefix positions 1 x K x D (K may be 0), and the source's grid, taken to be square."""
    table = weights.get("pos_embed")
    if "patch_positions" in weights:
        raise EmraError(
            "pretrained-mismatch",
            "it is the backbone of an EMRA-proxy, whose positions and class tokens are its own",
            "Give the folder of that checkpoint, with model.safetensors and config.json, in place of a file",
            path,
        )
    if table is not None and table.ndim == 3 and table.shape[0] == 1:
        tokens = table.shape[1]
        # CLS, and DeiT's distillation token behind it; some tables hold patches only.
        for prefix in (sum(key in weights for key in ("cls_token", "dist_token")), 0):
            side = math.isqrt(max(tokens - prefix, 0))
            if side and side * side == tokens - prefix:
                return table[:, prefix:], table[:, :prefix], (side, side)
    shape = "missing" if table is None else tuple(table.shape)
    raise EmraError(
        "pretrained-mismatch",
        f"pos_embed is {shape}, expected 1 x (CLS + a square number of patches) x width",
        START,
        path,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "") or "nothing"
