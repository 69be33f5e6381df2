"""The peer: segmentation_models_pytorch's U-Net (ResNet-18 encoder, no pre-trained weights).

python -m training.peer_unet --config training/recipes/dubai_peer_unet.yaml

Crops, augmentation, loss, optimiser, weight averaging and evaluation windows are those of `training/train.py`; only the
model differs. Needs the extra `dev`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import Evaluation, evaluate
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import make_folder
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.segmenting.segmenter import Segmenter

with script_imports(__name__, "train", "dev"):
    import segmentation_models_pytorch as smp
    import torch
    from safetensors.torch import save_file
    from torch import Tensor, nn

    from training.backend import TorchBackend, peer_manifest
    from training.checkpoint import replace_file
    from training.distributed import join
    from training.model import Parts
    from training.recipe import Recipe
    from training.train import build_data, command
    from training.trainer import Trainer

WINDOW = 512
"""Side of the evaluation windows, pixels: those of the shipped model."""


class PeerUNet(nn.Module):
    """The U-Net in the form that `Trainer` trains."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # Channels last: 1.3 to 2 times as fast in BF16 on a CPU, and the same numbers.
        self.net = smp.Unet("resnet18", encoder_weights=None, classes=num_classes).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W, normalised; H and W multiples of 32 -> logits B x C x H x W."""
        logits: Tensor = self.net(image.contiguous(memory_format=torch.channels_last))
        return logits

    def forward_parts(self, image: Tensor) -> Parts:
        """Logits only: a U-Net has neither HSMF nor GCA, and the loss must not use them."""
        logits = self(image)
        return Parts(*[logits] * len(Parts._fields))


class PeerBackend(TorchBackend):
    """The U-Net as a backend of the runtime."""

    def __init__(self, model: nn.Module, classes: ClassSet, recipe: Recipe, size: int = WINDOW) -> None:
        manifest = peer_manifest("peer-unet-resnet18", classes, (size, size), recipe.mean, recipe.std)
        super().__init__(model, manifest, str(next(model.parameters()).device))

    def describe(self) -> dict[str, str]:
        """Library, version, device, threads and the peer's own."""
        return {**super().describe(), "peer": f"smp {smp.__version__} Unet resnet18"}


class PeerTrainer(Trainer):
    """Trainer of the U-Net; checkpoints and validation differ."""

    def _validate(self) -> dict[str, Any]:
        evaluation = self.evaluate()
        scores = evaluation.scores
        self.best = max(self.best, scores.miou)
        text = json.dumps(evaluation.to_dict(), indent=2) + "\n"
        replace_file(self.folder / "evaluation.json", lambda path: path.write_text(text, encoding="utf-8"))
        return {"miou": scores.miou, "oa": scores.accuracy}

    def evaluate(self) -> Evaluation:
        """Score the validation split in windows of 512 pixels."""
        assert self.val is not None
        backend = PeerBackend(self._shipped, self.val.classes, self.recipe)
        return evaluate(Segmenter(backend), self.val.tiles, self.val.classes)

    def _checkpoint(self, name: str, scores: dict[str, Any]) -> None:
        make_folder(self.folder / name)
        weights = {key: value.detach().cpu().contiguous() for key, value in self._shipped.state_dict().items()}
        replace_file(self.folder / name / "model.safetensors", lambda path: save_file(weights, path))


def train_peer(recipe: Recipe) -> dict[str, Any]:
    """Train and score the peer by a recipe; its ``model`` is not used.

    Returns:
        ``steps``, ``best``, and the last ``miou`` and ``oa``.

    Raises:
        EmraError: ``recipe`` for values that a U-Net cannot have, and those of training.
    """
    if recipe.crop % 32:
        raise EmraError("recipe", f"crop is {recipe.crop}, expected a multiple of 32", "Change crop in the recipe")
    for name in ("hsmf_weight", "attention_weight", "presence_weight", "contrast_weight"):
        weight = getattr(recipe.loss, name)
        if weight:
            raise EmraError("recipe", f"loss.{name} is {weight}, and a U-Net has no such part", f"Set loss.{name} to 0")
    with join(recipe.device) as processes:
        training, validation, scenes = build_data(recipe, processes)
        torch.manual_seed(recipe.seed)
        model: Any = PeerUNet(len(training.classes))
        return PeerTrainer(recipe, model, training, validation, scenes, processes).run()


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 2 for a user error."""
    return command(train_peer, "training/peer_unet.py", "Train the peer U-Net from a recipe.", argv)


if __name__ == "__main__":
    sys.exit(main())
