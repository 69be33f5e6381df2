"""FP32 ONNX file -> FP16 ONNX file, with FP32 where FP16 breaks, checked against its source file.

In an INT8 file, the FP32 parts become FP16: the graph that ``to_int8 --high-precision fp16`` makes with its ranges.

python -m export.to_fp16 model.onnx --output model.fp16.onnx --check-data DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends import contract
from emra_deploy.errors import EmraError, about
from emra_deploy.host.command import command, tell
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import atomic_output, check_all_outputs
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.manifest import Manifest

with script_imports(__name__, "quant"):
    import onnx

    from export.compare import verify
    from export.compare.overflow import first_overflow
    from export.compare.report import LIMITS, Limits, Report
    from export.compare.runners import OnnxRunner
    from export.compare.tiles import conversion_tiles
    from export.graphs.model_file import OPSET, has_half, opset_of, read_model, tool_versions, write_model
    from export.half.audit import DtypeAudit
    from export.half.convert import LAYER_NORMS, MIN_OPSET, convert_to_half
    from export.half.rounding import with_rounding

EVIDENCE = "fp16"
"""Key of this command's measurements in the Manifest's evidence."""

GOLDEN_TOLERANCE = 10 * (1 - LIMITS["fp16"].agreement)
"""Share of the golden tile's pixels that may differ on a device, 1 %: ten times what FP16 may cost over a data set,
because one tile may have many borders between classes, where a rounding decides; the wrong results that it is to catch
differ in a good part of the picture."""


@dataclass(frozen=True)
class Converted:
    """An FP16 file and its checks.

    Attributes:
        path: The file.
        manifest: Its description of itself.
        audit: Types in which the nodes compute.
        checks: One line per check, in the order in which they ran.
        size: Bytes.
        size_before: Bytes of the source file.
    """

    path: Path
    manifest: Manifest
    audit: DtypeAudit
    checks: tuple[str, ...]
    size: int
    size_before: int


def to_fp16(
    model: str | Path,
    output: str | Path,
    *,
    keep: Sequence[str] = (),
    layer_norm: str = "single",
    check_data: str | Path | None = None,
    audit: str | Path | None = None,
    min_agreement: float | None = None,
    overwrite: bool = False,
) -> Converted:
    """Convert, check, and only then give the file its name.

    Args:
        model: FP32 file that `export.to_onnx` wrote, or INT8 file with FP32 that `export.to_int8` wrote.
        output: File to write, ``.onnx``.
        keep: Nodes, patterns of their names or operators that must stay FP32, besides those that always do.
        layer_norm: ``"single"`` or ``"stash"``, see `export.half.convert.convert_to_half`.
        check_data: Folder of images to compare both files on, besides the golden tile and generated scenes.
        audit: JSON file for the whole dtype audit, or None.
        min_agreement: Least share of labels that agree, in place of the usual one; the evidence keeps what that
            overruled.
        overwrite: Whether existing outputs may be replaced.

    Raises:
        EmraError: A bad argument, a file that has no FP32 to convert, or a check that failed; no file is left then.
    """
    source, output = Path(model), Path(output)
    check_all_outputs((output, audit), overwrite=overwrite, inputs=(source,))
    need("quant", "onnxruntime", purpose="checking the file")
    if output.suffix.lower() != ".onnx":
        raise EmraError("output-suffix", "the output's name does not end in .onnx", "Name it FILE.onnx", output)
    single, manifest = read_model(source)
    _check_source(single, manifest, source)
    with about(source), step(f"converting {source.name}"):
        half, found = convert_to_half(single, keep=keep, layer_norm=layer_norm)
    tiles = conversion_tiles(manifest, check_data)
    parent = OnnxRunner(single, manifest)
    usual = limits_of(manifest)
    limits = usual if min_agreement is None else replace(usual, agreement=min_agreement)
    rounded = check_rounding(half, parent, tiles, limits)
    made = describe(manifest, source, found, rounded, limits)
    with atomic_output(output, overwrite=overwrite) as part:
        write_model(half, made, part)
        checks = run_checks(part, parent, tiles, limits)
        size = part.stat().st_size
    checks = (f"every FP16 tensor rounded, against {verify.title(parent)}: {rounded}", *checks)
    if audit is not None:
        with atomic_output(audit, overwrite=overwrite) as part:
            part.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    return Converted(output, made, found, checks, size, source.stat().st_size)


@step("checking the effect of rounding")
def check_rounding(half: onnx.ModelProto, parent: OnnxRunner, tiles: npt.NDArray[np.uint8], limits: Limits) -> Report:
    """Round every FP16 tensor to FP16, change nothing else, and compare: no library can hide that.

    Args:
        half: The converted graph.
        parent: The source file.
        tiles: uint8 K x H x W x 3.
        limits: Largest acceptable differences.

    Raises:
        EmraError: ``export-check-failed``.
    """
    runner = OnnxRunner(with_rounding(half), parent.manifest)
    try:
        return verify.measure_backend(runner, parent, tiles, limits)
    except EmraError as error:
        if "labels agree" in error.cause and "logits" not in error.cause.partition(": ")[2]:
            remedy = (
                "train the model further, compare on its own pictures (--check-data), or accept it (--min-agreement)"
            )
            raise EmraError(error.code, error.cause, f"Nothing was written; {remedy}") from error
        batch = np.repeat(tiles[:1], parent.input_shape[0] or 1, axis=0)
        node = first_overflow(half, {"image": contract.feed(batch, parent.manifest)})
        if node is None:
            cause, remedy = error.cause, "find the nodes at fault by keeping one operator after the other"
        else:
            cause = f"{error.cause}; node {node.name!r} ({node.op_type}) is the first to leave FP16's range"
            remedy = f"keep it in FP32: --keep {node.name}"
        raise EmraError(error.code, cause, f"Nothing was written; {remedy}, or use the FP32 file") from error


def limits_of(manifest: Manifest) -> Limits:
    """Largest acceptable differences between the FP16 file and the source file of this Manifest."""
    return verify.ROUNDED_INT8 if manifest.precision == "int8" else verify.ROUNDED


def run_checks(path: Path, parent: OnnxRunner, tiles: npt.NDArray[np.uint8], limits: Limits) -> tuple[str, ...]:
    """Run all checks of the finished file, the cheapest first.

    Args:
        path: The finished file.
        parent: The source file.
        tiles: uint8 K x H x W x 3.
        limits: Largest acceptable differences.

    Raises:
        EmraError: Of the first check that fails.
    """
    manifest = parent.manifest
    elsewhere = limits
    if manifest.precision == "int8":
        elsewhere = replace(verify.INT8_ELSEWHERE, agreement=min(limits.agreement, verify.INT8_ELSEWHERE.agreement))
    return (
        verify.check_structure(path),
        verify.check_onnxruntime(path, parent, tiles, limits),
        verify.check_runtime(path),
        verify.check_openvino(path, parent, tiles[:2], elsewhere),
        verify.check_tensorrt(path, manifest.input_shape[0]),
    )


def describe(manifest: Manifest, source: Path, audit: DtypeAudit, rounded: Report, limits: Limits) -> Manifest:
    """The Manifest of the converted file.

    Args:
        manifest: Manifest of the source file.
        source: The source file.
        audit: Types in which the nodes compute.
        rounded: Result of `check_rounding`, the golden tile first.
        limits: What it was held to.
    """
    golden, usual = manifest.golden, limits_of(manifest)
    if golden is not None:
        # Ties fall otherwise in each library.
        tied = 2 * (1 - rounded.pictures[0].agreement)
        golden = replace(golden, tolerance=min(1.0, max(golden.tolerance, GOLDEN_TOLERANCE, tied)))
    evidence: dict[str, Any] = {
        "label_agreement": rounded.agreement,
        "label_agreement_beyond_ties": rounded.agreement_beyond(usual.tie),
        "tie": usual.tie,
        "logit_error": rounded.logits and rounded.logits.max,
        "pixels": rounded.pixels,
        "nodes_in_fp32": len(audit.kept),
        "casts": audit.casts,
        "reasons": {reason: len(group) for reason, group in audit.reasons().items()},
    }
    if limits != usual:
        evidence |= {"min_agreement": limits.agreement, "overruled": rounded.failures(usual)}
    before, quantised = manifest.evidence, manifest.precision == "int8"
    if quantised and "int8" in before:
        before = {**before, "int8": {**before["int8"], "high_precision": "fp16"}}
    return replace(
        manifest,
        precision="int8" if quantised else "fp16",
        parent_sha256=file_sha256(source),
        tools={**manifest.tools, **tool_versions("onnx", "onnxruntime")},
        evidence={**before, EVIDENCE: evidence},
        golden=golden,
    )


def _check_source(model: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    if manifest.precision == "fp16" or has_half(model):
        what = f"of precision {manifest.precision}, and computes in FP16 already"
        remedy = "Give the FP32 file that export.to_onnx wrote, or the INT8 file of export.to_int8 without FP16"
        raise EmraError("half-unsupported", f"the file is {what}", remedy, path)
    opset = opset_of(model)
    if not MIN_OPSET <= opset <= OPSET:
        raise EmraError(
            "model-opset",
            f"the graph has opset {opset}, expected {MIN_OPSET} to {OPSET}, which TensorRT 10.3 reads",
            "Export the model again with python -m export.to_onnx",
            path,
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="to_fp16.py",
        description="Convert a model file from FP32 to FP16, but for what FP16 breaks, and check it against the first.",
    )
    add = made.add_argument
    add("model", metavar="MODEL.onnx", help="FP32 or INT8 file that export.to_onnx or export.to_int8 wrote")
    add("--output", required=True, metavar="FILE.onnx", help="file to write")
    add("--keep", nargs="+", default=[], metavar="NODE", help="nodes, patterns or operators that must stay FP32, too")
    add(
        "--layer-norm",
        choices=LAYER_NORMS,
        default="single",
        help="single: FP32 in and out; stash: FP16 in and out, FP32 inside, which saves two casts each (single)",
    )
    add("--check-data", metavar="DIR", help="images to compare both files on, besides generated scenes")
    add("--audit", metavar="FILE.json", help="write the type audit with every node that stays FP32 there")
    add(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="accept labels that agree by this share (0.999, of INT8 0.99); the evidence keeps what that overruled",
    )
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    converted = to_fp16(**vars(parser().parse_args(argv)))
    for line in (*converted.audit.lines(), *converted.checks):
        print(line)
    sizes = f"{converted.size / 1e6:.2f} MB, before {converted.size_before / 1e6:.2f} MB"
    tell(f"wrote {converted.path}: {sizes}", converted.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
