"""PyTorch checkpoint -> one ONNX file that carries its Manifest and has been checked against PyTorch.

python -m export.to_onnx --checkpoint runs/dubai/best --output model.onnx --size 512 512
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from emra_deploy import __version__
from emra_deploy.errors import EmraError
from emra_deploy.host.command import command
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import MODEL_KEYS, seal_model

with script_imports(__name__, "train", "export"):
    import onnx

    from export.compare import tiles as pictures
    from export.compare import verify
    from export.compare.reference import Reference
    from export.graphs.deployed import HEADS, Deployed, round_weights
    from export.graphs.function_body import DOMAIN, OPERATOR, drop_body
    from export.graphs.onnx_file import store_halves, trace
    from training.ablation import ABLATION, without_labels
    from training.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
    from training.model.config import AGGREGATIONS

GOLDEN_TOLERANCE = 0.005
"""Share of the golden tile's pixels that may differ on a device. Two FP32 libraries differ in less than 1e-4 of them,
TF32 in a few times that; the wrong results this is to catch differ in a good part of the picture."""

RANDOM_TILES = 2
EVALUATION = "evaluation.json"
WRITTEN_BY = {EVALUATION: "python -m training.evaluate", ABLATION: "python -m training.ablation"}
CLASS_ATTENTION = "class_attention"
"""Key of the Manifest's evidence that holds what the class attention adds."""


@dataclass(frozen=True)
class Exported:
    """What `to_onnx` made.

    Attributes:
        path: The file.
        manifest: What the file says about itself.
        checks: One line per check, in the order in which they ran.
        size: Bytes.
    """

    path: Path
    manifest: Manifest
    checks: tuple[str, ...]
    size: int


def to_onnx(
    checkpoint: str | Path,
    output: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    aggregation: str | None = None,
    function_body: bool = True,
    heads: Sequence[str] = ("classes",),
    input_kind: str = "uint8",
    weights: str = "float32",
    golden: str | Path | None = None,
    check_data: str | Path | None = None,
    overwrite: bool = False,
    name: str | None = None,
    class_attention: bool = True,
) -> Exported:
    """Export, check, and only then give the file its name.

    Args:
        checkpoint: Folder that training wrote.
        output: File to write, ``.onnx``.
        size: (height, width) of the input, multiples of 16; None keeps the checkpoint's.
        batch: The one batch size the file takes, None for any.
        aggregation: ``"streamed"``, ``"explicit"``, or ``"plugin"`` for one node that TensorRT has a plugin for; None
            keeps the checkpoint's.
        function_body: Whether that node carries its meaning in standard operators, for who has no plugin. Without it
            nothing but TensorRT with the plugin reads the file; TensorRT before 10.7 takes the plugin only then.
        heads: Outputs, of ``"classes"``, ``"logits"``, ``"confidence"``.
        input_kind: ``"uint8"`` or ``"float"`` (normalised by the caller).
        weights: ``"float32"``, or ``"float16"`` for a file of half the size whose weights are rounded; it still
            computes in FP32.
        golden: Image whose middle becomes the golden tile; None takes a generated scene.
        check_data: Folder of images to compare PyTorch and the file on, besides the golden tile and noise.
        overwrite: Whether an existing output may be replaced.
        name: What people will call the model; None takes the output's.
        class_attention: Whether the file has MCA. Without it the logits are HSMF, and nothing is aggregated.

    Raises:
        EmraError: A bad argument, a bad checkpoint, or a check that failed; no file is left then.
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
    reference = Reference(model, loaded.mean, loaded.std, input_kind, batch)
    height, width = model.config.image_size

    image = pictures.golden_image(golden, height, width)
    labels = reference.logits(image[np.newaxis])[0].argmax(axis=0).astype(np.uint8)
    shown = np.concatenate([image[np.newaxis], pictures.real_tiles(check_data, height, width)])
    manifest = Manifest(
        name=name or output.stem,
        classes=loaded.classes,
        mean=loaded.mean,
        std=loaded.std,
        backbone=model.config.backbone,
        hra_block=model.config.hra_block,
        mca_blocks=model.config.mca_blocks,
        fusion=model.config.fusion,
        aggregation=model.config.aggregation,
        input_shape=(batch, height, width),
        zoom=model.config.zoom,
        input_kind=input_kind,
        heads=tuple(head for head in HEADS if head in heads),
        bands=tuple(loaded.meta.get("bands", ("red", "green", "blue"))),
        gsd=loaded.meta.get("gsd"),
        parent_sha256=_sha256(loaded.folder / WEIGHTS),
        tools=_tools(),
        evidence={
            # Scores of the whole model are not those of a part of it.
            **(_recorded(loaded.folder, EVALUATION) if class_attention else {}),
            CLASS_ATTENTION: _class_attention(loaded, shown),
        },
        golden=GoldenTile.encode(image, labels, GOLDEN_TOLERANCE),
    )
    tiles = np.concatenate([shown, pictures.random_tiles(RANDOM_TILES, height, width)])
    with atomic_output(output, overwrite=overwrite) as part:
        write_model(loaded, manifest, weights, part)
        checks = run_checks(part, reference, tiles)
        if not function_body:
            checks = (*checks, leave_body_out(part))
        written = part.stat().st_size
    return Exported(output, manifest, checks, written)


@step("tracing the model")
def write_model(loaded: Checkpoint, manifest: Manifest, weights: str, path: Path) -> None:
    """Trace the checkpoint's model as the Manifest describes it, and write both."""
    deployed = Deployed(loaded.model, manifest.mean, manifest.std, manifest.input_kind, manifest.heads)
    model = trace(deployed.eval(), manifest.input_shape[0])
    if weights == "float16":
        store_halves(model)
    onnx.helper.set_model_props(model, manifest.to_metadata())
    onnx.save_model(model, path)
    seal_model(path)


def leave_body_out(path: Path) -> str:
    """Take the operator's meaning out of a file that was checked with it, and check what is left.

    Raises:
        EmraError: ``export-check-failed``.
    """
    model = onnx.load(path)
    drop_body(model)
    # The seal is of the file with the body.
    kept = [entry for entry in model.metadata_props if entry.key not in MODEL_KEYS]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save_model(model, path)
    seal_model(path)
    verify.check_structure(path)
    return f"without the function body of {DOMAIN}::{OPERATOR}: for TensorRT with the plugin; checked with it"


def run_checks(path: Path, reference: Reference, tiles: np.ndarray) -> tuple[str, ...]:
    """All checks of `export.compare.verify`, cheapest first.

    Args:
        path: The finished file.
        reference: PyTorch's side.
        tiles: uint8 K x H x W x 3.

    Raises:
        EmraError: Of the first check that fails.
    """
    return (
        verify.check_structure(path),
        verify.check_onnxruntime(path, reference, tiles),
        verify.check_runtime(path),
        verify.check_openvino(path, reference, tiles[:2]),
        verify.check_tensorrt(path, reference.batch),
    )


def _check_arguments(output: Path, batch: int | None, heads: Sequence[str], input_kind: str, weights: str) -> None:
    if output.suffix.lower() != ".onnx":
        raise EmraError("export-argument", "the output's name does not end in .onnx", "Name it FILE.onnx", output)
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _tools() -> dict[str, str]:
    tools = {"emra-deploy": __version__}
    for package in ("torch", "timm", "onnx", "onnxscript", "onnxruntime"):
        try:
            tools[package] = version(package)
        except PackageNotFoundError:
            continue
    return tools


@step("measuring what the class attention adds")
def _class_attention(loaded: Checkpoint, shown: np.ndarray) -> dict[str, Any]:
    """On the pictures that the file is checked on, and, where the checkpoint has it, on labelled ones."""
    found = without_labels(loaded, shown) if loaded.model.config.mca_blocks else {}
    labelled = _recorded(loaded.folder, ABLATION)
    return {**found, "labelled": labelled} if labelled else found


def _recorded(folder: Path, name: str) -> dict[str, Any]:
    """What a command recorded in a checkpoint; empty where none did."""
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
    # Measured on these very weights, or not evidence.
    if evidence.get("model_sha256") != _sha256(folder / WEIGHTS):
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
    add("--aggregation", choices=AGGREGATIONS, help="how class attention is computed (the checkpoint's)")
    add("--without-mca", action="store_true", help="leave class attention out: the regions alone give the classes")
    add("--no-function-body", action="store_true", help="with plugin: the file for TensorRT before 10.7, for it alone")
    add("--heads", default="classes", metavar="LIST", help="classes,logits,confidence or some of them (classes)")
    add("--input", choices=("uint8", "float"), default="uint8", help="uint8: BxHxWx3 RGB; float: normalised Bx3xHxW")
    add("--weights", choices=("float32", "float16"), default="float32", help="float16 halves the file (float32)")
    add("--golden", metavar="IMAGE", help="picture for the self-test that the file carries (a generated scene)")
    add("--check-data", metavar="DIR", help="images to compare PyTorch and the file on, besides noise")
    add("--name", help="name of the model (the output's)")
    add("--overwrite", action="store_true", help="replace an existing output")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = parser().parse_args(argv)
    exported = to_onnx(
        arguments.checkpoint,
        arguments.output,
        size=None if arguments.size is None else tuple(arguments.size),
        batch=arguments.batch,
        aggregation=arguments.aggregation,
        function_body=not arguments.no_function_body,
        heads=[head.strip() for head in arguments.heads.split(",") if head.strip()],
        input_kind=arguments.input,
        weights=arguments.weights,
        golden=arguments.golden,
        check_data=arguments.check_data,
        overwrite=arguments.overwrite,
        name=arguments.name,
        class_attention=not arguments.without_mca,
    )
    for line in exported.checks:
        print(line)
    shape = "x".join(str(side or "batch") for side in exported.manifest.input_shape)
    print(
        f"wrote {exported.path}: {exported.size / 1e6:.1f} MB, input {shape}, {len(exported.manifest.classes)} classes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
