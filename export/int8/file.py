"""Building, checking and writing an INT8 file, for `export.to_int8` and `export.optimize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.files import atomic_output
from emra_deploy.model_file.manifest import Manifest
from export.compare import verify
from export.compare.comparison import compare
from export.compare.report import LIMITS, Report
from export.compare.runners import OnnxRunner
from export.graphs.model_file import read_model, tool_versions, write_model
from export.int8.calibration import CalibrationSet
from export.int8.linears import Linear
from export.int8.qdq import insert_qdq

HIGH_PRECISIONS = ("fp32", "fp16")
"""Precisions of the parts that are not INT8."""

GOLDEN_FLOOR = 0.01
"""Least tolerance of the golden tile: INT8's own promise is 99 % equal labels."""

GOLDEN_MARGIN = 2.0
"""Libraries round INT8 sums and the arithmetic around them differently: a device may differ in this many times the
share of pixels in which the worst library here does."""

GOLDEN_CEILING = 0.05
"""A golden tile that differs in more than this would let wrong results pass: such a file is not made."""

RUNTIME_TILES = 4
"""Tiles that OpenVINO is compared with ONNX Runtime on."""


@dataclass(frozen=True)
class Parent:
    """The FP32 file that is quantised.

    Attributes:
        path: The file.
        model: Its graph.
        manifest: Its description of itself.
    """

    path: Path
    model: onnx.ModelProto
    manifest: Manifest


@dataclass(frozen=True)
class Recipe:
    """The choices by which a file is quantised.

    Attributes:
        linears: The model's candidates.
        quantized: Those that become INT8, at least one.
        ranges: Ranges of their inputs.
        method: The calibration method of the ranges, as the Manifest names it.
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
        """JSON values for the Manifest."""
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
    """An INT8 file and its checks.

    Attributes:
        path: The file.
        manifest: Its description of itself.
        checks: One line per check, in the order in which they ran.
        report: The comparison with the parent.
        size: Bytes.
    """

    path: Path
    manifest: Manifest
    checks: tuple[str, ...]
    report: Report
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
    parent: Parent,
    model: onnx.ModelProto,
    pictures: npt.NDArray[np.uint8] | Sequence[LabelledTile],
    *,
    labelled: bool = False,
) -> Report:
    """Compare the quantised graph with the FP32 one in ONNX Runtime.

    Args:
        parent: The FP32 file.
        model: The graph that `build` made.
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
    report: Report,
    output: str | Path,
    *,
    evidence: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the Manifest, check the file, and only then give it its name.

    Args:
        parent: The FP32 file.
        recipe: The choices it was made by.
        model: The graph that `build` made of these.
        report: The comparison with the parent, which the caller accepted.
        output: File to write.
        evidence: Added to the evidence in the Manifest.
        overwrite: Whether an existing output may be replaced.

    Raises:
        EmraError: A check that failed, or the output; no file is left then.
    """
    manifest = replace(
        parent.manifest,
        precision="int8",
        parent_sha256=file_sha256(parent.path),
        tools={
            **parent.manifest.tools,
            **tool_versions("onnx", "onnxruntime", "openvino", "tensorrt-rtx-cu13-bindings"),
        },
        evidence={
            **parent.manifest.evidence,
            "int8": {**recipe.to_dict(parent.manifest), "comparison": report.summary(), **(evidence or {})},
        },
        golden=None,
    )
    quantized = OnnxRunner(model, manifest)
    elsewhere = verify.open_openvino(model, manifest, precision=None)
    manifest, line = _with_golden(parent.manifest, manifest, [one for one in (quantized, elsewhere) if one is not None])
    with atomic_output(output, overwrite=overwrite) as part:
        write_model(model, manifest, part)
        tiles = recipe.calibration.tiles[:RUNTIME_TILES]
        checks = (
            verify.check_structure(part),
            f"ONNX Runtime against the FP32 file: {report}",
            line,
            *((verify.check_runtime(part),) if manifest.golden is not None else ()),
            verify.check_backend(elsewhere, quantized, tiles, LIMITS["int8"], "ONNX Runtime"),
            verify.check_tensorrt(part, manifest.input_shape[0]),
        )
        size = part.stat().st_size
    return Written(Path(output), manifest, checks, report, size)


def refuse(problems: Sequence[str]) -> None:
    """Refuse to write a file that has problems.

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


def _with_golden(parent: Manifest, manifest: Manifest, backends: Sequence[Backend]) -> tuple[Manifest, str]:
    """The Manifest with the parent's golden tile at the tolerance that INT8 needs, and a line about that.

    Raises:
        EmraError: ``quantize-check-failed`` where a library would need too wide a tolerance.
    """
    if parent.golden is None:
        return manifest, "not checked: the parent has no golden tile"
    image, labels = parent.golden.image()[np.newaxis], parent.golden.labels()
    shares = {verify.TITLES[one.name]: float((one.run(image)["classes"][0] != labels).mean()) for one in backends}
    shown = ", ".join(f"{share:.3%} in {name}" for name, share in shares.items())
    tolerance = max(GOLDEN_FLOOR, parent.golden.tolerance, GOLDEN_MARGIN * max(shares.values()))
    if tolerance > GOLDEN_CEILING:
        refuse(
            [f"labels of the golden tile differ from PyTorch's: {shown}; a tolerance of {tolerance:.1%} is too wide"]
        )
    line = f"golden tile: {shown} differ from PyTorch; tolerance {tolerance:.2%}"
    return replace(manifest, golden=replace(parent.golden, tolerance=tolerance)), line
