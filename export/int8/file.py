"""From quantised linears to a file with a name: the Manifest, and the checks that come before the name.

`export.to_int8` and `export.optimize` both end here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from emra_deploy import __version__
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import install_command
from emra_deploy.host.files import atomic_output
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from export.compare.comparison import TOLERANCES, Comparison, compare
from export.compare.runners import OnnxRunner
from export.graphs.model_file import read_model, write_model
from export.int8.calibration import CalibrationSet
from export.int8.linears import Linear
from export.int8.qdq import insert_qdq

HIGH_PRECISIONS = ("fp32", "fp16")
"""Of what is not INT8."""

GOLDEN_FLOOR = 0.01
"""Least tolerance of the golden tile: INT8's own promise is 99 % equal labels."""

GOLDEN_MARGIN = 2.0
"""Libraries round INT8 sums and its neighbours' arithmetic differently: a device may differ in this many times the
share of pixels in which the worst library here does."""

GOLDEN_CEILING = 0.05
"""A golden tile that differs in more than this would let wrong results pass: such a file is not made."""

RUNTIME_TILES = 4
"""Tiles that a second library is compared on."""


@dataclass(frozen=True)
class Parent:
    """The FP32 file that INT8 is made of.

    Attributes:
        path: The file.
        model: Its graph.
        manifest: What it says about itself.
    """

    path: Path
    model: onnx.ModelProto
    manifest: Manifest


@dataclass(frozen=True)
class Recipe:
    """How a file is quantised.

    Attributes:
        linears: The model's candidates.
        quantized: Those that become INT8, at least one.
        ranges: Of their inputs.
        method: How the ranges came about.
        calibration: The tiles they were measured on.
        high: Precision of the rest, one of `HIGH_PRECISIONS`.
    """

    linears: tuple[Linear, ...]
    quantized: tuple[Linear, ...]
    ranges: Mapping[str, float]
    method: str
    calibration: CalibrationSet
    high: str

    def __post_init__(self) -> None:
        if not self.quantized:
            raise ValueError("a recipe without any linear")
        if self.high not in HIGH_PRECISIONS:
            raise ValueError(f"high precision {self.high!r}, expected one of {HIGH_PRECISIONS}")

    def to_dict(self, manifest: Manifest) -> dict[str, Any]:
        """What the Manifest keeps, as JSON values."""
        chosen = {linear.name for linear in self.quantized}
        return {
            "method": self.method,
            "high_precision": self.high,
            "quantized": len(self.quantized),
            "candidates": len(self.linears),
            "kept_high": [linear.name for linear in self.linears if linear.name not in chosen],
            "calibration": self.calibration.to_dict(manifest.classes),
        }


@dataclass(frozen=True)
class Written:
    """What was made.

    Attributes:
        path: The file.
        manifest: What it says about itself.
        checks: One line per check, in the order in which they ran.
        comparison: With the parent.
        size: Bytes.
    """

    path: Path
    manifest: Manifest
    checks: tuple[str, ...]
    comparison: Comparison
    size: int


def read_parent(path: str | Path) -> Parent:
    """Read the FP32 file.

    Raises:
        EmraError: ``quantize-precision`` for a file of another precision, and those of `read_model`.
    """
    model, manifest = read_model(path)
    if manifest.precision != "fp32":
        raise EmraError(
            "quantize-precision",
            f"the file is {manifest.precision}, expected fp32",
            "Give the FP32 file that export.to_onnx wrote; --high-precision chooses what is not INT8",
            path,
        )
    return Parent(Path(path), model, manifest)


def build(parent: Parent, recipe: Recipe) -> onnx.ModelProto:
    """The quantised graph, the rest of it in the recipe's high precision."""
    model = insert_qdq(parent.model, recipe.quantized, recipe.ranges)
    if recipe.high == "fp16":
        from export.half.convert import convert_to_half

        model, _ = convert_to_half(model)
    return model


def compare_with_parent(
    parent: Parent, model: onnx.ModelProto, pictures: np.ndarray | Sequence[LabelledTile], *, labelled: bool = False
) -> Comparison:
    """The quantised graph against the FP32 one in ONNX Runtime.

    Args:
        parent: The FP32 file.
        model: What `build` gave.
        pictures: uint8 K x H x W x 3, or tiles of a data set.
        labelled: Whether tiles of a data set have labels that can be read.
    """
    runners = OnnxRunner(parent.model, parent.manifest), OnnxRunner(model, parent.manifest)
    try:
        return compare(*runners, pictures, labelled=labelled)
    finally:
        for runner in runners:
            runner.close()


def publish(
    parent: Parent,
    recipe: Recipe,
    model: onnx.ModelProto,
    comparison: Comparison,
    output: str | Path,
    *,
    evidence: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the Manifest, check the file, and only then give it its name.

    Args:
        parent: The FP32 file.
        recipe: What became INT8, and how.
        model: What `build` gave for these.
        comparison: What `compare_with_parent` gave for it, which the caller found good enough.
        output: File to write.
        evidence: Kept in the Manifest besides the rest.
        overwrite: Whether an existing output may be replaced.

    Raises:
        EmraError: A check that failed, or the output; no file is left then.
    """
    manifest = replace(
        parent.manifest,
        precision="int8",
        parent_sha256=file_sha256(parent.path),
        tools={**parent.manifest.tools, **_tools()},
        evidence={
            **parent.manifest.evidence,
            "int8": {**recipe.to_dict(parent.manifest), "comparison": _summary(comparison), **(evidence or {})},
        },
        golden=None,
    )
    with atomic_output(output, overwrite=overwrite) as part:
        write_model(model, manifest, part)
        runner = OnnxRunner(model, manifest)
        golden, line = _golden(parent.manifest, part, runner)
        manifest = replace(manifest, golden=golden)
        write_model(model, manifest, part)
        checks = (
            *_structure(part),
            _agreement(comparison),
            line,
            *_libraries(part, runner, recipe.calibration.tiles[:RUNTIME_TILES], manifest),
        )
        runner.close()
        size = part.stat().st_size
    return Written(Path(output), manifest, checks, comparison, size)


def refuse(problems: Sequence[str]) -> None:
    """Say why a file is not made.

    Raises:
        EmraError: ``quantize-check-failed`` when there are problems.
    """
    if problems:
        raise EmraError(
            "quantize-check-failed",
            "; ".join(problems),
            "Nothing was written; calibrate with more or other images, leave linears out with --exclude, or let"
            " python -m export.optimize choose them",
        )


def _structure(path: Path) -> tuple[str, ...]:
    from export.compare import verify

    return (verify.check_structure(path),)


def _agreement(comparison: Comparison) -> str:
    line = f"ONNX Runtime against the FP32 file: {comparison.agreement:.4%} of {comparison.pixels} labels agree"
    if comparison.miou_drop is not None:
        line += f", {comparison.miou_drop:+.3f} mIoU points lost"
    return f"{line} ({len(comparison.tiles)} pictures)"


def _libraries(path: Path, runner: OnnxRunner, tiles: np.ndarray, manifest: Manifest) -> Iterable[str]:
    from export.compare import verify

    lines = [verify.check_runtime(path)] if manifest.golden is not None else []
    if importlib.util.find_spec("openvino") is None:
        lines.append(f"not checked: OpenVINO is not installed ({install_command('openvino')})")
    else:
        other = open_backend(path, backend="openvino")
        facts = other.describe()
        found = compare(runner, other, tiles)
        other.close()
        refuse([f"OpenVINO against ONNX Runtime: {text}" for text in found.failures(TOLERANCES["int8"])])
        about = f"{found.agreement:.4%} of {found.pixels} labels agree"
        lines.append(f"OpenVINO {facts['version']} ({facts['precision']}) against ONNX Runtime: {about}")
    lines.append(verify.check_tensorrt(path, manifest.input_shape[0]))
    return lines


def _golden(parent: Manifest, path: Path, runner: OnnxRunner) -> tuple[GoldenTile | None, str]:
    """The parent's golden tile with the tolerance that INT8 needs, and how that came about."""
    if parent.golden is None:
        return None, "not checked: the parent has no golden tile"
    image, labels = parent.golden.image(), parent.golden.labels()
    shares = {"ONNX Runtime": float((runner.run(image[np.newaxis])["classes"][0] != labels).mean())}
    if importlib.util.find_spec("openvino") is not None:
        other = open_backend(path, backend="openvino")
        shares["OpenVINO"] = float((other.run(image[np.newaxis])["classes"][0] != labels).mean())
        other.close()
    worst = max(shares.values())
    told = ", ".join(f"{share:.3%} in {name}" for name, share in shares.items())
    tolerance = max(GOLDEN_FLOOR, parent.golden.tolerance, GOLDEN_MARGIN * worst)
    if tolerance > GOLDEN_CEILING:
        refuse([f"labels of the golden tile differ from PyTorch's: {told}; a tolerance of {tolerance:.1%} is too wide"])
    return (
        GoldenTile(parent.golden.image_png, parent.golden.labels_png, tolerance),
        f"golden tile: {told} differ from PyTorch; tolerance {tolerance:.2%}",
    )


def _summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison without its pictures one by one."""
    content = comparison.to_dict()
    kept = ("agreement", "pixels", "logit_error_max", "logit_error_mean", "miou", "miou_drop_points", "iou_drop_points")
    return {**{key: content[key] for key in kept}, "pictures": len(comparison.tiles), "runners": content["runners"]}


def _tools() -> dict[str, str]:
    tools = {"emra-deploy": __version__}
    for package in ("onnx", "onnxruntime", "openvino", "tensorrt-rtx-cu13-bindings"):
        try:
            tools[package] = version(package)
        except PackageNotFoundError:
            continue
    return tools
