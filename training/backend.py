"""PyTorch as a backend of the runtime: what evaluates a checkpoint is what will evaluate its exports."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.manifest import Manifest
from training.checkpoint import Checkpoint


class TorchBackend:
    """Runs a checkpoint's model; any batch, one height and width.

    Args:
        checkpoint: As `training.checkpoint.load_checkpoint` gave it; its model moves to the device.
        size: (height, width) of the input, multiples of 16; None keeps the checkpoint's.
        device: Such as ``"cpu"`` or ``"cuda"``.
        model: The model's name.

    Raises:
        EmraError: A side of the size is no positive multiple of 16.
    """

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        size: tuple[int, int] | None = None,
        device: str = "cpu",
        model: str = "checkpoint",
    ) -> None:
        self._device, self._owner = torch.device(device), Owner()
        self._model = checkpoint.model.eval()
        if size is not None:
            self._model.set_image_size(*size)
        self._model.to(self._device)
        self._mean = torch.tensor(checkpoint.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(checkpoint.std, device=self._device).view(1, 3, 1, 1)
        height, width = self._model.config.image_size
        self.input_shape: tuple[int | None, int, int] = (None, height, width)
        self.manifest = torch_manifest(checkpoint, self, model)

    def describe(self) -> dict[str, str]:
        """Library, version, device and threads."""
        return {
            "backend": self.name,
            "version": torch.__version__,
            "device": str(self._device),
            "threads": str(torch.get_num_threads()),
        }

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """uint8 B x H x W x 3, RGB -> ``classes`` uint8 B x H x W, ``logits`` float32 B x C x H x W."""
        self._owner.check("the model")
        check_batch(batch, self.input_shape)
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
        with torch.inference_mode():
            image = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
            logits = self._model(image)
            labels = logits.argmax(dim=1).to(torch.uint8)
        return {"classes": labels.cpu().numpy(), "logits": logits.float().cpu().numpy()}

    def close(self) -> None:
        """Only note it: Python frees the rest itself."""
        self._owner.release()


def torch_manifest(checkpoint: Checkpoint, backend: TorchBackend, name: str) -> Manifest:
    """What an export of the checkpoint at the backend's size would say about itself, without a golden tile."""
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
        input_shape=backend.input_shape,
        zoom=config.zoom,
        heads=("classes", "logits"),
        bands=tuple(checkpoint.meta.get("bands", ("red", "green", "blue"))),
        gsd=checkpoint.meta.get("gsd"),
    )
