"""PyTorch as a backend of the runtime: what evaluates a checkpoint is what will evaluate its exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emra_deploy.backends.base import Outputs
from emra_deploy.backends.contract import GraphBackend
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.manifest import Manifest

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint


class TorchBackend(GraphBackend):
    """Runs a PyTorch module in FP32, with the work around it that is inside exported graphs.

    Args:
        model: Normalised B x 3 x H x W to logits B x C x H x W; moves to the device, and to evaluation mode.
        manifest: What an export of it would say about itself: mean, std, input size, and which outputs it gives.
        device: Such as ``"cpu"`` or ``"cuda"``.
    """

    name = "torch"

    def __init__(self, model: nn.Module, manifest: Manifest, device: str = "cpu") -> None:
        self.device, self._owner = torch.device(device), Owner()
        self.manifest = manifest
        self._model = model.eval().to(self.device)
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (manifest.mean, manifest.std)
        )

    def describe(self) -> dict[str, str]:
        """Library, version, device and threads."""
        return {
            "backend": self.name,
            "version": torch.__version__,
            "device": str(self.device),
            "threads": str(torch.get_num_threads()),
        }

    def _run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """uint8 B x H x W x 3, RGB -> ``classes`` uint8 B x H x W, ``logits`` float32 B x C x H x W."""
        self._owner.check("the model")
        with torch.inference_mode():
            return self.download(self.compute(self.upload(batch)))

    def upload(self, batch: npt.NDArray[np.uint8]) -> Tensor:
        """A batch on the device."""
        return torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)

    def compute(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 B x H x W x 3 to the outputs that the Manifest names, all on the device."""
        image = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        logits = self._model(image)
        outputs = {"classes": logits.argmax(dim=1).to(torch.uint8)}
        return {**outputs, "logits": logits.float()} if "logits" in self.manifest.heads else outputs

    def download(self, outputs: dict[str, Tensor]) -> Outputs:
        """The outputs in host memory."""
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    def close(self) -> None:
        """Mark the backend as closed; Python frees the model."""
        self._owner.release()


def checkpoint_backend(
    checkpoint: Checkpoint, name: str, size: tuple[int, int] | None = None, device: str = "cpu"
) -> TorchBackend:
    """A checkpoint's model as a backend; any batch, one height and width.

    Args:
        checkpoint: As `training.checkpoint.load_checkpoint` gave it; its model moves to the device.
        name: Of the model, in its Manifest.
        size: (height, width) of the input, multiples of 16; None keeps the checkpoint's.
        device: Such as ``"cpu"`` or ``"cuda"``.

    Raises:
        EmraError: A side of the size is no positive multiple of 16.
    """
    if size is not None:
        checkpoint.model.set_image_size(*size)
    return TorchBackend(checkpoint.model, checkpoint_manifest(checkpoint, name), device)


def checkpoint_manifest(checkpoint: Checkpoint, name: str) -> Manifest:
    """The Manifest that an export of the checkpoint at its present size would have, without a golden tile."""
    config = checkpoint.model.config
    return Manifest(
        name=name,
        classes=checkpoint.classes,
        mean=checkpoint.mean,
        std=checkpoint.std,
        backbone=config.backbone,
        hra_block=config.hra_block,
        mca_blocks=config.mca_blocks,
        fusion=config.fusion,
        aggregation=config.aggregation,
        input_shape=(None, *config.image_size),
        zoom=config.zoom,
        heads=("classes", "logits"),
        bands=tuple(checkpoint.meta.get("bands", ("red", "green", "blue"))),
        # JSON knows no tuples.
        gsd=tuple(gsd) if isinstance(gsd := checkpoint.meta.get("gsd"), list) else gsd,
    )


def peer_manifest(
    name: str,
    classes: ClassSet,
    size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    heads: tuple[str, ...] = ("classes", "logits"),
) -> Manifest:
    """A Manifest for a model of another architecture; the fields of EMRA-proxy mean nothing in it.

    Args:
        name: Of the model and its backbone.
        classes: What the labels mean.
        size: Height and width of the input.
        mean: Of red, green and blue scaled to 0..1.
        std: Of the same.
        heads: Outputs of the backend.
    """
    return Manifest(
        name=name,
        classes=classes,
        mean=mean,
        std=std,
        backbone=name,
        hra_block=0,
        mca_blocks=1,
        fusion="sum",
        aggregation="explicit",
        input_shape=(None, *size),
        heads=heads,
    )
