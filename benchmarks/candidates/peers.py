"""Alternatives that a user might pick: models of other libraries, at any size of picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.extras import install_command
from training.model.state_dict import find_network

CLASSES = 6
"""Of a peer without weights."""

_STEPS = {"timm-vit-base": 16}
_STEP = 32
"""Sides that peers take are multiples of this, or of what `_STEPS` has."""

_HEADS = ("segmentation_head.0.weight", "head.weight")

_UNETS = {"smp-unet-resnet34": "resnet34", "smp-unet-resnet18": "resnet18"}


class PlainViT(nn.Module):
    """timm's ViT-B, a linear classifier for each patch, and a bilinear enlargement: the least that a ViT-B must do."""

    def __init__(self, size: tuple[int, int], num_classes: int) -> None:
        import timm

        super().__init__()
        self.vit: Any = timm.create_model("vit_base_patch16_224", pretrained=False, img_size=size, num_classes=0)
        self.head = nn.Linear(cast(int, self.vit.num_features), num_classes)
        self.grid = (size[0] // 16, size[1] // 16)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W -> logits B x C x H x W."""
        patches = self.vit.forward_features(image)[:, self.vit.num_prefix_tokens :]
        maps = self.head(patches).transpose(1, 2).unflatten(2, self.grid)
        return F.interpolate(maps, scale_factor=16.0, mode="bilinear", align_corners=False)


class Padded(nn.Module):
    """A model that takes multiples of some side, for pictures of any size: edges repeated, logits cut back.

    Args:
        model: Of pictures of the padded size.
        size: Height and width of the pictures.
        padded: Height and width that the model takes, none smaller.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], padded: tuple[int, int]) -> None:
        super().__init__()
        self.model, self._size = model, size
        self._margins = (0, padded[1] - size[1], 0, padded[0] - size[0])

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W -> logits B x C x H x W."""
        logits: Tensor = self.model(F.pad(image, self._margins, mode="replicate"))
        return logits[..., : self._size[0], : self._size[1]]


def make_peer(name: str, size: tuple[int, int], weights: Path | None = None) -> tuple[nn.Module, int]:
    """A peer that takes normalised pictures of one size, and how many classes it has.

    Args:
        name: Of `benchmarks.candidates.spec.PEERS`.
        size: Height and width of the pictures.
        weights: A file of safetensors, such as ``training/peer_unet.py`` writes; None for random weights.

    Raises:
        EmraError: ``backend-missing`` without the peer's library, ``model-unreadable`` for weights of something else.
    """
    state = None if weights is None else _read(weights)
    heads = [key for key in _HEADS if state is not None and key in state]
    classes = state[heads[0]].shape[0] if state is not None and heads else CLASSES
    step = _STEPS.get(name, _STEP)
    padded = (-(-size[0] // step) * step, -(-size[1] // step) * step)
    torch.manual_seed(0)
    try:
        model = _make(name, padded, classes)
    except ImportError as error:
        raise EmraError(
            "backend-missing", f"{name} needs {error.name}", f"Run: {install_command('train', 'dev')}"
        ) from error
    if state is not None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise _unreadable(one_line(error, 200), weights) from error
    return (model if padded == size else Padded(model, size, padded)), classes


def _make(name: str, size: tuple[int, int], classes: int) -> nn.Module:
    if name == "timm-vit-base":
        return PlainViT(size, classes)
    import segmentation_models_pytorch as smp

    model: nn.Module
    if name == "smp-segformer-b2":
        model = smp.Segformer("mit_b2", encoder_weights=None, classes=classes)
    else:
        model = smp.Unet(_UNETS[name], encoder_weights=None, classes=classes)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise EmraError(
            "backend-missing", "safetensors is not installed", f"Run: {install_command('train')}"
        ) from error
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(one_line(error, 200), path) from error
    # training/peer_unet.py keeps the library's model as `net`.
    found = next(filter(None, (find_network(state, head) for head in _HEADS)), None)
    return state if found is None else found.tensors


def _unreadable(why: str, path: Path | None) -> EmraError:
    return EmraError(
        "model-unreadable", f"These are no weights of this peer: {why}", "Give its .safetensors file", path
    )
