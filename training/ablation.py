"""Contribution of the class attention: scores of a model with GCA, without it, and with what is wrong in its place.

python -m training.ablation runs/dubai/best --data data/dubai --record
python -m training.ablation models/emra-ti-dubai.onnx --data data/dubai
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import check_classes
from emra_deploy.evaluation.metrics import ConfusionMatrix
from emra_deploy.evaluation.report import write_json
from emra_deploy.host.command import command
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import check_all_outputs
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.windows import Window, default_halo, iter_tiles

with script_imports(__name__, "train"):
    import torch
    from torch import Tensor

    from training.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
    from training.data import KINDS, open_dataset
    from training.data.base import Tile
    from training.from_onnx import read_onnx
    from training.model import EMRAProxy, Parts
    from training.model.config import CELLS, PATCH
    from training.model.emra import enlarge

ABLATION = "ablation.json"
"""What ``--record`` writes into the checkpoint; `export/to_onnx.py` carries it as the model's evidence."""


def variants(model: EMRAProxy, parts: Parts) -> dict[str, Tensor]:
    """Logits of the whole model, and of the model with one of its two maps replaced.

    ``without`` has the flat attention 1 / N; ``shuffled`` gives each class the map of the next; ``mean`` keeps of each
    map only its mean; ``attention`` has no HSMF, so that the class with the most attention wins.
    """
    gca = parts.gca
    mean = gca.mean(dim=(-2, -1), keepdim=True).expand_as(gca)
    flat = torch.full_like(gca, 1 / (gca.shape[-2] * gca.shape[-1]))
    alone = torch.nn.functional.interpolate(
        parts.evidence, scale_factor=float(CELLS), mode="bilinear", align_corners=False
    )
    if not model.config.mca_blocks:
        return {"whole": parts.logits}
    return {
        "whole": parts.logits,
        "without": model.fusion(parts.hsmf, flat),
        "shuffled": model.fusion(parts.hsmf, gca.roll(1, dims=1)),
        "mean": model.fusion(parts.hsmf, mean),
        "attention": alone,
    }


@dataclass(frozen=True)
class Shown:
    """One window.

    Attributes:
        image: uint8 H x W x 3.
        labels: uint8 H x W; 255 is no label.
        keep: The part that counts in scores; windows overlap.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    keep: tuple[slice, slice]


def windows(tiles: Iterable[Tile], size: tuple[int, int], halo: int | None = None) -> Iterator[Shown]:
    """The windows that the runtime would cut the pictures into; a picture smaller than one is set into grey."""
    height, width = size
    halo = default_halo(height, width) if halo is None else halo
    for tile in tiles:
        for part in iter_tiles(tile.height, tile.width, height, width, halo):
            image = np.full((height, width, 3), 128, np.uint8)
            labels = np.full((height, width), IGNORE, np.uint8)
            image[: part.read.height, : part.read.width] = tile.read_image(part.read)
            labels[: part.read.height, : part.read.width] = tile.read_labels(part.read)
            yield Shown(image, labels, part.write.within(Window(part.read.top, part.read.left, height, width)))


class Ablation:
    """Counts over windows; `result` turns them into figures.

    Args:
        classes: Of model and labels.
    """

    def __init__(self, classes: ClassSet) -> None:
        self.classes = classes
        self.matrices: dict[str, ConfusionMatrix] = {}
        self.changed = self.pixels = 0
        self.attention: list[npt.NDArray[np.float32]] = []
        self.truth: list[npt.NDArray[np.uint8]] = []

    def add(self, logits: dict[str, npt.NDArray[np.uint8]], attention: npt.NDArray[np.float32], shown: Shown) -> None:
        """Count one window.

        Args:
            logits: Labels of each variant, uint8 H x W.
            attention: N * GCA, C x h x w.
            shown: The window.
        """
        for name, predicted in logits.items():
            matrix = self.matrices.setdefault(name, ConfusionMatrix(len(self.classes)))
            matrix.update(shown.labels[shown.keep], predicted[shown.keep])
        if "without" in logits:
            self.changed += int((logits["whole"][shown.keep] != logits["without"][shown.keep]).sum())
        self.pixels += shown.labels[shown.keep].size
        self.attention.append(attention.reshape(len(self.classes), -1))
        self.truth.append(majority(shown.labels, attention.shape[1:], len(self.classes)).reshape(-1))

    def result(self) -> dict[str, Any]:
        """JSON values; an area or a correlation that is not defined is None."""
        attention = np.concatenate(self.attention, axis=1)
        truth = np.concatenate(self.truth)
        names = self.classes.names
        content: dict[str, Any] = {
            "miou": {name: _json(matrix.scores(self.classes).miou) for name, matrix in self.matrices.items()},
            "iou": {
                name: dict(zip(names, map(_json, matrix.scores(self.classes).iou), strict=True))
                for name, matrix in self.matrices.items()
            },
            "windows": len(self.attention),
        }
        if "without" in self.matrices:
            content["changed"] = self.changed / max(1, self.pixels)
            content["auc"] = {name: area(attention[index], truth, index) for index, name in enumerate(names)}
            content["correlation"] = largest_correlation(attention)
        return content


def majority(labels: npt.NDArray[np.uint8], grid: tuple[int, ...], classes: int) -> npt.NDArray[np.uint8]:
    """The label of more than half of each patch's pixels, 255 where there is none; uint8 h x w.

    Args:
        labels: uint8 H x W.
        grid: h and w, which divide H and W.
        classes: C.
    """
    h, w = grid
    cells = labels.reshape(h, labels.shape[0] // h, w, labels.shape[1] // w).transpose(0, 2, 1, 3).reshape(h, w, -1)
    counts = np.stack([(cells == index).sum(axis=2) for index in range(classes)])
    return np.where(counts.max(axis=0) * 2 > cells.shape[2], counts.argmax(axis=0), IGNORE).astype(np.uint8)


def area(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], index: int) -> float | None:
    """Area under the ROC curve of a class's attention, over patches that have a label; None where one side is empty.

    It is the chance that a patch of the class has more attention than a patch of another (Mann and Whitney).
    """
    known = truth != IGNORE
    own, other = scores[known & (truth == index)], np.sort(scores[known & (truth != index)])
    if not own.size or not other.size:
        return None
    below = np.searchsorted(other, own, "left") + np.searchsorted(other, own, "right")
    return float(below.mean() / (2 * other.size))


def largest_correlation(attention: npt.NDArray[np.float32]) -> float | None:
    """The largest correlation of two classes' maps over all patches, C x K; None where a map is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.atleast_2d(np.asarray(np.corrcoef(attention)))
    largest = table[np.logical_not(np.eye(len(table), dtype=np.bool_))].max()
    return float(largest) if np.isfinite(largest) else None


@torch.inference_mode()
def measure(checkpoint: Checkpoint, shown: Iterable[Shown], precision: str = "fp32") -> dict[str, Any]:
    """`Ablation.result` of a model.

    Args:
        checkpoint: Its model's own image size is that of the windows.
        shown: The windows.
        precision: ``fp32`` or ``bf16``.
    """
    model = checkpoint.model.eval()
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    zoom = model.config.zoom
    counts = Ablation(checkpoint.classes)
    for window in shown:
        pixels = torch.from_numpy(window.image).to(device).permute(2, 0, 1)[None].float() / 255
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            parts = model.forward_parts(enlarge((pixels - mean) / std, zoom))
        parts = Parts(*(part.float() for part in parts))
        labels = {
            name: enlarge(logits, PATCH // CELLS // zoom)[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            for name, logits in variants(model, parts).items()
        }
        attention = parts.gca[0] * (parts.gca.shape[-2] * parts.gca.shape[-1])
        counts.add(labels, attention.cpu().numpy(), window)
    return counts.result()


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def without_labels(checkpoint: Checkpoint, images: Iterable[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """Measure the share of pixels whose class changes without GCA, on pictures without labels.

    Args:
        checkpoint: As for `measure`.
        images: uint8 H x W x 3, of the model's size.
    """
    everything = (slice(None), slice(None))
    shown = (Shown(image, np.full(image.shape[:2], IGNORE, np.uint8), everything) for image in images)
    found = measure(checkpoint, shown)
    return {key: found[key] for key in ("changed", "correlation", "windows") if key in found}


def table(content: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    lines = [f"{'':<12}{'mIoU':>8}" + "".join(f"{name:>12}" for name in content["iou"]["whole"])]
    for name, miou in content["miou"].items():
        cells = "".join(f"{'-' if iou is None else f'{iou:.3f}':>12}" for iou in content["iou"][name].values())
        lines.append(f"{name:<12}{'-' if miou is None else f'{miou:.4f}':>8}{cells}")
    if "auc" not in content:
        return "\n".join([*lines, "The model has no class attention."])
    areas = "".join(f"{'-' if area is None else f'{area:.3f}':>12}" for area in content["auc"].values())
    correlation = content["correlation"]
    return "\n".join(
        [
            *lines,
            f"{'AUC of GCA':<20}{areas}",
            f"Without GCA {content['changed']:.2%} of all labels change. The largest correlation of two class maps is "
            f"{'-' if correlation is None else f'{correlation:.3f}'}.",
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m training.ablation", description="Measure what the class attention adds to a model's scores."
    )
    add = made.add_argument
    add("model", help="checkpoint folder that training wrote, or an FP32 .onnx file of export/to_onnx.py")
    add("--data", required=True, metavar="ROOT", help="folder of the data set")
    add("--kind", default="auto", choices=KINDS, help="layout of the data set (auto)")
    add("--split", default="val", help="train, val or test, as far as the data set has it (val)")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="window in pixels, multiples of 16 (the model's)")
    add("--halo", type=int, metavar="PIXELS", help="half of the overlap of windows (1/8 of a window)")
    add("--every", type=int, default=1, metavar="N", help="measure on every N-th window (1)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the network (fp32)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--json", metavar="FILE", help="write all numbers there")
    add("--overwrite", action="store_true", help="replace an existing output")
    add("--record", action="store_true", help=f"write {ABLATION} into the checkpoint, for the export to carry")
    return made


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and write.

    Raises:
        EmraError: A bad model, data set or argument.
    """
    path = Path(arguments.model)
    check_all_outputs((arguments.json,), overwrite=arguments.overwrite, inputs=())
    if arguments.record and not path.is_dir():
        raise EmraError(
            "export-argument", "--record needs a checkpoint folder", "Leave --record out, or name one", path
        )
    checkpoint = load_checkpoint(path) if path.is_dir() else read_onnx(path)
    if arguments.size is not None:
        checkpoint.model.set_image_size(*arguments.size)
    checkpoint.model.to(arguments.device)
    data = open_dataset(arguments.kind, arguments.data, arguments.split)
    check_classes(checkpoint.classes, data.classes)
    if arguments.every < 1:
        raise EmraError("limit", f"--every is {arguments.every}, expected 1 or more", "Change --every")
    shown = islice(windows(data.tiles, checkpoint.model.config.image_size, arguments.halo), 0, None, arguments.every)
    digest = hashlib.sha256((path / WEIGHTS if path.is_dir() else path).read_bytes()).hexdigest()
    content = {
        "model_sha256": digest,
        "data": {"name": data.name, "split": data.split},
        "size": list(checkpoint.model.config.image_size),
        "every": arguments.every,
        "precision": arguments.precision,
        **measure(checkpoint, shown, arguments.precision),
    }
    if arguments.json:
        write_json(arguments.json, content, overwrite=arguments.overwrite)
    if arguments.record:
        write_json(path / ABLATION, content, overwrite=True)
    return content


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    print(table(run(parser().parse_args(argv))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
