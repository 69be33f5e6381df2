"""Export a PyTorch checkpoint to one ONNX file with a Manifest, checked against PyTorch.

python -m export.to_onnx --checkpoint runs/dubai/best --output model.onnx --size 512 512
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.host.command import command, tell, words
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest

with script_imports(__name__, "train", "export"):
    import onnx

    from export.compare import tiles as pictures
    from export.compare import verify
    from export.graphs.deployed import HEADS, Deployed, round_weights
    from export.graphs.function_body import DOMAIN, OPERATOR, drop_body
    from export.graphs.model_file import WrittenModel, tool_versions, write_model
    from export.graphs.onnx_file import store_halves, trace
    from training.ablation import ABLATION, without_labels
    from training.backend import TorchBackend, checkpoint_backend
    from training.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
    from training.model.config import AGGREGATIONS

GOLDEN_TOLERANCE = 0.005
"""Share of the golden tile's pixels that may differ on a device. Two FP32 libraries differ in less than 1e-4 of them,
TF32 in a few times that; the faults that this has to catch change a large part of the picture."""

RANDOM_TILES = 2
EVALUATION = "evaluation.json"
WRITTEN_BY = {EVALUATION: "python -m training.evaluate", ABLATION: "python -m training.ablation"}
CLASS_ATTENTION = "class_attention"
"""Key of the Manifest's evidence that holds what the class attention adds."""


def to_onnx(
    checkpoint: str | Path,
    output: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    aggregation: str | None = None,
    function_body: bool = True,
    heads: Sequence[str] = ("classes", "logits"),
    input_kind: str = "uint8",
    weights: str = "float32",
    golden: str | Path | None = None,
    check_data: str | Path | None = None,
    overwrite: bool = False,
    name: str | None = None,
    class_attention: bool = True,
) -> WrittenModel:
    """Export and check a checkpoint; the file gets its name only after all checks.

    Args:
        checkpoint: Folder that training wrote.
        output: File to write, ``.onnx``.
        size: (height, width) of the input, multiples of 16; None keeps the checkpoint's.
        batch: Fixed batch size, or None for any.
        aggregation: ``"streamed"``, ``"explicit"``, or ``"plugin"`` for one node that TensorRT runs by a plugin; None
            keeps the checkpoint's.
        function_body: Whether the plugin's node has a function body of standard operators, for runtimes without the
            plugin. Without it only TensorRT with the plugin reads the file; TensorRT before 10.7 uses the plugin only
            then.
        heads: Outputs, of ``"classes"``, ``"logits"``, ``"confidence"``. Blending needs the logits.
        input_kind: ``"uint8"`` or ``"float"`` (normalised by the caller).
        weights: ``"float32"``, or ``"float16"`` for a file of half the size whose weights are rounded; it still
            computes in FP32.
        golden: Image whose centre becomes the golden tile; None takes a generated scene.
        check_data: Folder of images on which PyTorch and the file are compared, besides the golden tile and noise.
        overwrite: Whether an existing output may be replaced.
        name: Name of the model; None takes the output's.
        class_attention: Whether the file has MCA. Without it the logits are HSMF, and nothing is aggregated.

    Raises:
        EmraError: A bad argument, a bad checkpoint, or a failed check; no file is left.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite, inputs=(Path(checkpoint) / WEIGHTS,))
    _check_arguments(output, batch, heads, input_kind, weights)
    need("export", "onnxscript", "onnxruntime", purpose="writing and checking the file")
    loaded = load_checkpoint(checkpoint)
    model = loaded.model.eval()
    if size is not None:
        model.set_image_size(*size)
    if aggregation is not None:
        model.set_aggregation(aggregation)
    if not class_attention:
        model.leave_mca_out()
    if not function_body and (model.config.aggregation != "plugin" or not model.config.mca_blocks):
        raise EmraError(
            "export-argument",
            f"aggregation {model.config.aggregation!r} of {model.config.mca_blocks} blocks has no function body",
            "Add --aggregation plugin, and export with MCA",
        )
    if weights == "float16":
        round_weights(model)
    reference = checkpoint_backend(loaded, name or output.stem)
    height, width = model.config.image_size

    image = pictures.golden_image(golden, height, width)
    labels = reference.run(image[np.newaxis])["classes"][0]
    shown = np.concatenate([image[np.newaxis], pictures.real_tiles(check_data, height, width)])
    manifest = replace(
        reference.manifest,
        input_shape=(batch, height, width),
        input_kind=input_kind,
        heads=tuple(head for head in HEADS if head in heads),
        parent_sha256=file_sha256(loaded.folder / WEIGHTS),
        tools=tool_versions("torch", "timm", "onnx", "onnxscript", "onnxruntime"),
        evidence={
            # Scores of the whole model are not those of a part of it.
            **(_recorded(loaded.folder, EVALUATION) if class_attention else {}),
            CLASS_ATTENTION: _class_attention(loaded, shown),
        },
        golden=GoldenTile.encode(image, labels, GOLDEN_TOLERANCE),
    )
    tiles = np.concatenate([shown, pictures.random_tiles(RANDOM_TILES, height, width)])
    with atomic_output(output, overwrite=overwrite) as part:
        traced = trace_checkpoint(loaded, manifest, weights)
        write_model(traced, manifest, part)
        checks = run_checks(part, reference, tiles, batch)
        if not function_body:
            drop_body(traced)
            write_model(traced, manifest, part)
            verify.check_structure(part)
            checks += (f"without the function body of {DOMAIN}::{OPERATOR}: for TensorRT with the plugin",)
        size_written = part.stat().st_size
    return WrittenModel(output, manifest, checks, size_written)


@step("tracing the model")
def trace_checkpoint(loaded: Checkpoint, manifest: Manifest, weights: str) -> onnx.ModelProto:
    """Trace the checkpoint's model in the form that the Manifest describes."""
    deployed = Deployed(loaded.model, manifest.mean, manifest.std, manifest.input_kind, manifest.heads)
    traced = trace(deployed.eval(), manifest.input_shape[0])
    if weights == "float16":
        store_halves(traced)
    return traced


def run_checks(path: Path, reference: TorchBackend, tiles: npt.NDArray[np.uint8], batch: int | None) -> tuple[str, ...]:
    """All checks of `export.compare.verify`, cheapest first.

    Args:
        path: The finished file.
        reference: PyTorch's results.
        tiles: uint8 K x H x W x 3.
        batch: The one batch size the file takes, None for any.

    Raises:
        EmraError: From the first check that fails.
    """
    return (
        verify.check_structure(path),
        verify.check_onnxruntime(path, reference, tiles),
        verify.check_runtime(path),
        verify.check_openvino(path, reference, tiles[:2]),
        verify.check_tensorrt(path, batch),
    )


def _check_arguments(output: Path, batch: int | None, heads: Sequence[str], input_kind: str, weights: str) -> None:
    if output.suffix.lower() != ".onnx":
        raise EmraError("output-suffix", "the output's name does not end in .onnx", "Name it FILE.onnx", output)
    if batch is not None and not 1 <= batch <= 4096:
        raise EmraError("export-argument", f"batch is {batch}, expected 1 to 4096 or dynamic", "Change --batch")
    unknown = sorted(set(heads) - set(HEADS))
    if unknown or not {"classes", "logits"} & set(heads):
        raise EmraError(
            "export-argument",
            f"heads are {','.join(heads) or 'empty'}, expected some of {','.join(HEADS)}, with classes or logits",
            "Change --heads",
        )
    if input_kind not in ("uint8", "float"):
        raise EmraError("export-argument", f"input is {input_kind!r}, expected uint8 or float", "Change --input")
    if weights not in ("float32", "float16"):
        raise EmraError("export-argument", f"weights are {weights!r}, expected float32 or float16", "Change --weights")


@step("measuring what the class attention adds")
def _class_attention(loaded: Checkpoint, shown: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """The contribution of GCA on the check pictures and, where the checkpoint recorded it, on labelled ones."""
    found = without_labels(loaded, shown) if loaded.model.config.mca_blocks else {}
    labelled = _recorded(loaded.folder, ABLATION)
    return {**found, "labelled": labelled} if labelled else found


def _recorded(folder: Path, name: str) -> dict[str, Any]:
    """The content of a record of a checkpoint; empty where there is none."""
    path = folder / name
    if not path.exists():
        return {}
    try:
        evidence = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(evidence, dict):
            raise ValueError(f"it holds a {type(evidence).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise EmraError(
            "evaluation-unreadable",
            f"not an evaluation: {error}",
            f"Write it again with {WRITTEN_BY[name]} --record, or remove it",
            path,
        ) from error
    # Only an evaluation of these weights is evidence.
    if evidence.get("model_sha256") != file_sha256(folder / WEIGHTS):
        raise EmraError(
            "evaluation-stale",
            "the evaluation is of other weights than the checkpoint's",
            f"Write it again with {WRITTEN_BY[name]} --record, or remove it",
            path,
        )
    return evidence


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'dynamic'") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="to_onnx.py", description="Export a checkpoint to one ONNX file and check it against PyTorch."
    )
    add = made.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="folder that training wrote, such as runs/NAME/best")
    add("--output", required=True, metavar="FILE.onnx", help="file to write")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="input in pixels, multiples of 16 (the checkpoint's)")
    add("--batch", type=_batch, default=None, metavar="N|dynamic", help="fixed batch, or dynamic (dynamic)")
    add("--aggregation", choices=AGGREGATIONS, help="form of class attention (the checkpoint's)")
    add(
        "--without-mca",
        dest="class_attention",
        action="store_false",
        help="leave class attention out: the regions alone give the classes",
    )
    add(
        "--no-function-body",
        dest="function_body",
        action="store_false",
        help="with plugin: a file for TensorRT with the plugin alone",
    )
    add(
        "--heads",
        type=words,
        default="classes,logits",
        metavar="LIST",
        help="classes,logits,confidence or some of them; blending needs logits (classes,logits)",
    )
    add(
        "--input",
        dest="input_kind",
        choices=("uint8", "float"),
        default="uint8",
        help="uint8: BxHxWx3 RGB; float: normalised Bx3xHxW",
    )
    add("--weights", choices=("float32", "float16"), default="float32", help="float16 halves the file (float32)")
    add("--golden", metavar="IMAGE", help="picture for the self-test in the file (a generated scene)")
    add("--check-data", metavar="DIR", help="images on which PyTorch and the file are compared, besides noise")
    add("--name", help="name of the model (the output's)")
    add("--overwrite", action="store_true", help="replace an existing output")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    exported = to_onnx(**vars(parser().parse_args(argv)))
    for line in exported.checks:
        print(line)
    shape = "x".join(str(side or "batch") for side in exported.manifest.input_shape)
    about = f"{exported.size / 1e6:.1f} MB, input {shape}, {len(exported.manifest.classes)} classes"
    tell(f"wrote {exported.path}: {about}", exported.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
