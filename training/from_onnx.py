"""A model file back into a checkpoint: for training on from a model whose checkpoint is not at hand.

python -m training.from_onnx models/emra-ti-dubai.onnx --output runs/shipped
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.command import command
from emra_deploy.host.extras import need, script_imports

with script_imports(__name__, "train"):
    import torch

    from emra_deploy.model_file.manifest import METADATA_KEY, Manifest
    from emra_deploy.model_file.seal import check_model_seal
    from training.checkpoint import Checkpoint, save_checkpoint
    from training.model import EMRAConfig, EMRAProxy

TABLE = "table"
"""The deployed graph's one table: class tokens plus their positions, then the positions of the patches."""

LEARNED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "gated": ("fusion.gate", lambda value: np.log(value) - np.log1p(-value)),
    "log": ("fusion.log_sharpness", np.log),
}
"""What the fusions learn, and from what stands in the graph to the weight."""

_HALF = re.compile(r"_half$")


def read_onnx(path: Path) -> Checkpoint:
    """The model that `export.to_onnx` wrote a file of.

    Weights that the file stores as FP16 come back as FP32 with the values that it computes with. The class tokens
    are in the file only as the sum with their positions; it comes back as the positions, with tokens of zero.

    Args:
        path: An ONNX file in FP32, weights stored as FP32 or FP16.

    Raises:
        EmraError: Damaged, not a file of this project, or one whose weights are no longer those of the checkpoint.
    """
    need("export", "onnx", purpose="reading a model file's weights")
    import onnx

    check_model_seal(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base that onnx documents
        raise _unreadable(path, f"it cannot be read ({type(error).__name__})") from error
    about = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in about:
        raise _unreadable(path, "it has no Manifest")
    manifest = Manifest.from_json(about[METADATA_KEY])
    if manifest.precision != "fp32":
        raise _unreadable(path, f"its precision is {manifest.precision}, expected fp32")
    try:
        config = EMRAConfig(
            backbone=manifest.backbone,
            num_classes=len(manifest.classes),
            image_size=manifest.tile,
            hra_block=manifest.hra_block,
            mca_blocks=manifest.mca_blocks,
            fusion=manifest.fusion,
            aggregation=manifest.aggregation,
            zoom=manifest.zoom,
        )
        found = EMRAProxy(config)
        found.load_state_dict(_weights(model, config))
    except (KeyError, ValueError, RuntimeError) as error:
        raise _unreadable(path, one_line(error, 300)) from error
    meta: dict[str, Any] = {"bands": list(manifest.bands), "gsd": manifest.gsd, "read_from": manifest.name}
    return Checkpoint(found.eval(), manifest.classes, manifest.mean, manifest.std, meta, path)


def _weights(model: Any, config: EMRAConfig) -> dict[str, torch.Tensor]:
    """Names of the state dict, and values. A linear's matrix has no name of its own in the file; its bias has."""
    classes = config.num_classes
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}

    def constant(name: str) -> npt.NDArray[Any] | None:
        while name not in stored and name in made_by and made_by[name].op_type == "Cast":
            name = made_by[name].input[0]
        return stored.get(name)

    weights = {
        _HALF.sub("", name).removeprefix("model."): value
        for name, value in stored.items()
        if name.startswith("model.") and np.issubdtype(value.dtype, np.floating)
    }
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (tuple(node.input), tuple(node.input)[::-1]):
            multiplied = made_by.get(product)
            if bias.startswith("model.") and multiplied is not None and multiplied.op_type == "MatMul":
                matrix = constant(multiplied.input[1])
                if matrix is not None:
                    weights[bias.removeprefix("model.").removesuffix("bias") + "weight"] = matrix.T
    table = stored.get(TABLE, stored.get(f"{TABLE}_half"))
    if table is None:
        raise KeyError(f"it has no {TABLE!r}")
    weights["backbone.class_positions"] = table[:, :classes]
    weights["backbone.class_tokens"] = np.zeros_like(table[:, :classes])
    weights["backbone.patch_positions"] = table[:, classes:]
    if config.fusion in LEARNED and config.mca_blocks:
        # The export folds a function of the weight into a constant, the only one of this shape.
        [value] = [value for value in stored.values() if value.shape == (1, classes, 1, 1)]
        name, inverse = LEARNED[config.fusion]
        weights[name] = inverse(value.astype(np.float64))
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}


def _unreadable(path: Path, what: str) -> EmraError:
    return EmraError(
        "onnx-not-a-checkpoint",
        f"no checkpoint can be made of this file: {what}",
        "Give the FP32 file that python -m export.to_onnx wrote",
        path,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m training.from_onnx", description="Make a checkpoint of a model file, for training on from it."
    )
    made.add_argument("model", metavar="MODEL.onnx", help="in FP32, as export/to_onnx.py wrote it")
    made.add_argument("--output", required=True, metavar="DIR", help="checkpoint folder to write")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = parser().parse_args(argv)
    found = read_onnx(Path(arguments.model))
    save_checkpoint(Path(arguments.output), found.model, found.classes, found.mean, found.std, found.meta)
    print(f"wrote {arguments.output}: for model.init in a recipe")
    return 0


if __name__ == "__main__":
    sys.exit(main())
