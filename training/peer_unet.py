"""The peer: segmentation_models_pytorch's U-Net (ResNet-18 encoder, no pre-trained weights), trained and scored alike.

python -m training.peer_unet --config training/recipes/dubai_peer_unet.yaml

Same crops, augmentation, loss, optimiser, average of weights and evaluation windows as `training/train.py`; only the
model differs. Needs the extra `dev`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import Evaluation, evaluate
from emra_deploy.host.extras import script_imports
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.segmenting.segmenter import Segmenter

with script_imports(__name__, "train", "dev"):
    import segmentation_models_pytorch as smp
    import torch
    from safetensors.torch import save_file
    from torch import Tensor, nn

    from training.checkpoint import make_folder, replace_file
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
        return self.net(image.contiguous(memory_format=torch.channels_last))

    def forward_parts(self, image: Tensor) -> Parts:
        """Only logits; there is no HSMF and no GCA, and the loss must not ask for them."""
        logits = self(image)
        return Parts(*[logits] * len(Parts._fields))


class PeerBackend:
    """The U-Net as a backend of the runtime, FP32."""

    name = "torch"

    def __init__(self, model: PeerUNet, recipe: Recipe, size: int = WINDOW) -> None:
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std)
        )
        self.input_shape: tuple[int | None, int, int] = (None, size, size)

    def describe(self) -> dict[str, str]:
        """Library and version."""
        return {"backend": self.name, "version": torch.__version__, "peer": f"smp {smp.__version__} Unet resnet18"}

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """uint8 B x H x W x 3, RGB -> ``classes`` uint8 B x H x W, ``logits`` float32 B x C x H x W."""
        check_batch(batch, self.input_shape)
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
        with torch.inference_mode():
            image = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
            logits = self._model(image)
            labels = logits.argmax(dim=1).to(torch.uint8)
        return {"classes": labels.cpu().numpy(), "logits": logits.float().cpu().numpy()}

    def close(self) -> None:
        """Nothing to free that Python does not free itself."""

    def manifest(self, classes: ClassSet, recipe: Recipe) -> Manifest:
        """What the segmenter has to know; the fields of EMRA-proxy mean nothing here."""
        return Manifest(
            name="peer-unet-resnet18",
            classes=classes,
            mean=recipe.mean,
            std=recipe.std,
            backbone="unet-resnet18",
            hra_block=0,
            mca_blocks=1,
            fusion="sum",
            aggregation="explicit",
            input_shape=self.input_shape,
            heads=("classes", "logits"),
        )


class PeerTrainer(Trainer):
    """Trains the U-Net; only what is saved and how it is validated differ."""

    def _validate(self) -> dict[str, Any]:
        evaluation = self.evaluate()
        scores = evaluation.scores
        self.best = max(self.best, scores.miou)
        text = json.dumps(evaluation.to_dict(), indent=2) + "\n"
        replace_file(self.folder / "evaluation.json", lambda path: path.write_text(text, encoding="utf-8"))
        return {"miou": scores.miou, "oa": scores.accuracy}

    def evaluate(self) -> Evaluation:
        """On the validation split, in windows of 512 pixels."""
        backend = PeerBackend(self._shipped, self.recipe)
        assert self.val is not None
        segmenter = Segmenter(backend, backend.manifest(self.val.classes, self.recipe))
        return evaluate(segmenter, self.val.tiles, self.val.classes)

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
    """The command; 2 for a mistake of the user's."""
    return command(train_peer, "training/peer_unet.py", "Train the peer U-Net from a recipe.", argv)


if __name__ == "__main__":
    sys.exit(main())
