"""Checks that a written file must pass before it gets its name.

Every check takes the finished file, returns one line with its measurements, and raises `EmraError` when they miss the
limits. The reference is PyTorch for an export, and the source file for a conversion.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.manifest import Manifest
from export.compare.comparison import compare
from export.compare.report import Limits, Report
from export.compare.runners import OnnxRunner, half_quantizers_fail
from export.graphs.model_file import OPSET, opset_of, read_model, with_logits, write_model

SAME_PRECISION = Limits(0.9999, logit_error=1e-4, confidence_error=1e-3, tie=1e-5)
"""Of two libraries that compute the same in FP32."""

ROUNDED = Limits(0.999, logit_error=2e-2, confidence_error=1e-2, tie=2e-3)
"""Of a graph whose tensors are rounded to FP16. The labels' limit is the project's promise; the logits' is ten times
what was measured (``docs/decisions/0006-half-precision.md``): an overflow or a lost scale lies far beyond. Ties are of
two steps of an FP16 number as large as the largest logit: hardly trained models have many, which say nothing of the
graph."""

ROUNDED_INT8 = Limits(0.99, logit_error=1e-1, confidence_error=5e-2, tie=2e-3)
"""Of a quantised graph whose other tensors are rounded to FP16: a rounding that tips an INT8 value moves it by a whole
step, 1/127 of its range. The labels' limit is INT8's promise; 99.93 % and 2.5e-2 were measured."""

INT8_ELSEWHERE = Limits(0.99)
"""Limits for INT8 in a library that rounds differently from ONNX Runtime."""

TITLES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Titles of the libraries by backend name."""

PRECISIONS = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
"""Titles of OpenVINO's precisions by its own names."""

NO_RTX = f"TensorRT-RTX is not installed ({install_command('rtx')})"

DYNAMIC_OPERATORS = frozenset(
    {"Shape", "If", "Loop", "Scan", "NonZero", "Range", "ConstantOfShape", "Expand", "SequenceAt"}
)
"""Operators that compute shapes at run time, which slow engines down."""


@step("checking the file with ONNX's checker")
def check_structure(path: Path) -> str:
    """Run ONNX's own checker with shape inference, and check the design's rules for a graph.

    Raises:
        EmraError: ``export-check-failed``.
    """
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise failed(f"the ONNX checker refuses the file: {str(error).splitlines()[0]}") from error
    opset = opset_of(model)
    kinds = Counter(node.op_type for node in model.graph.node)
    dynamic = sorted(DYNAMIC_OPERATORS & set(kinds))
    if opset > OPSET:
        raise failed(f"opset {opset}, expected at most {OPSET}")
    if dynamic:
        raise failed(f"the graph computes shapes at run time ({', '.join(dynamic)})")
    if not kinds["LayerNormalization"]:
        raise failed("LayerNormalization was decomposed, which overflows in half precision")
    return (
        f"ONNX checker (full): opset {opset}, {len(model.graph.node)} nodes, "
        f"{kinds['LayerNormalization']} LayerNormalization, {kinds['Softmax']} Softmax, no run-time shapes"
    )


@step("checking the file with ONNX Runtime")
def check_onnxruntime(
    path: Path, reference: Backend, tiles: npt.NDArray[np.uint8], limits: Limits = SAME_PRECISION
) -> str:
    """Compare labels and logits of ONNX Runtime on the CPU with the reference; see `check_backend`."""
    return check_backend(OnnxRunner(*read_model(path)), reference, tiles, limits)


@step("checking the file with OpenVINO")
def check_openvino(
    path: Path, reference: Backend, tiles: npt.NDArray[np.uint8], limits: Limits = SAME_PRECISION
) -> str:
    """Compare labels and logits of OpenVINO in FP32 with the reference; see `check_backend`."""
    return check_backend(open_openvino(*read_model(path)), reference, tiles, limits)


def open_openvino(model: onnx.ModelProto, manifest: Manifest, precision: str | None = "fp32") -> Backend | None:
    """A graph in OpenVINO, its logits among the outputs, or None where OpenVINO is not installed.

    Args:
        model: The graph.
        manifest: The Manifest of its file.
        precision: Precision that OpenVINO computes in if the graph allows a choice; None for the runtime's choice.
    """
    if importlib.util.find_spec("openvino") is None:
        return None
    from emra_deploy.backends.opening import open_backend

    heads = tuple(dict.fromkeys((*manifest.heads, "logits")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(with_logits(model), replace(manifest, heads=heads), path)
        return open_backend(path, backend="openvino", precision=precision)


def check_backend(
    backend: Backend | None,
    reference: Backend,
    tiles: npt.NDArray[np.uint8],
    limits: Limits,
    against: str | None = None,
) -> str:
    """Compare a model with its reference: one line with the figures, or one that says that OpenVINO is missing.

    Args:
        backend: The model; None where OpenVINO is not installed.
        reference: The model it is compared with.
        tiles: uint8 K x H x W x 3.
        limits: Largest acceptable differences.
        against: The reference in words, where it is neither PyTorch nor the source file.

    Raises:
        EmraError: Those of `measure_backend`.
    """
    if backend is None:
        return f"not checked: OpenVINO is not installed ({install_command('openvino')})"
    facts = backend.describe()
    precision = f" in {PRECISIONS[facts['precision']]}" if "precision" in facts else ""
    report = measure_backend(backend, reference, tiles, limits)
    backend.close()
    return f"{TITLES[backend.name]} {facts['version']}{precision} against {against or title(reference)}: {report}"


def title(reference: Backend) -> str:
    """The name of a reference in the lines of the checks."""
    return TITLES["torch"] if reference.name == "torch" else "its source file"


def measure_backend(backend: Backend, reference: Backend, tiles: npt.NDArray[np.uint8], limits: Limits) -> Report:
    """Compare a model with its reference, one tile at a time and in a batch.

    Args:
        backend: The model, with its logits.
        reference: The model it is compared with.
        tiles: uint8 K x H x W x 3.
        limits: Largest acceptable differences.

    Raises:
        EmraError: ``export-check-failed``; ``model-mismatch`` for a graph without logits.
    """
    report = compare(reference, backend, tiles)
    if report.logits is None:
        raise EmraError(
            "model-mismatch",
            "the graph has neither an output logits nor an ArgMax, so its logits cannot be compared",
            "Export the model again with python -m export.to_onnx",
        )
    problems = report.failures(limits)
    batch = tiles[np.arange(backend.input_shape[0] or 2) % len(tiles)]
    forward, backward = (backend.run(np.ascontiguousarray(one))["classes"] for one in (batch, batch[::-1]))
    same = float((forward == backward[::-1]).mean())
    if not same >= limits.agreement:
        problems.append(f"only {same:.4%} of the labels stay when the order of a batch changes")
    if problems:
        raise failed(f"{report}: {'; '.join(problems)}")
    return report


@dataclass(frozen=True)
class Engine:
    """An engine that TensorRT-RTX's builder made.

    Attributes:
        title: The library and its version.
        layers: Layers of the network.
        bytes: Size of the engine.
        counts: Matrix products and convolutions by the precision they run in; empty when it is not reported.
    """

    title: str
    layers: int
    bytes: int
    counts: Mapping[str, int]

    @property
    def products(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} in {name}" for name, count in sorted(self.counts.items())) or "not reported"


@step("building an engine to check the file")
def build_engine(path: Path, batch: int | None) -> Engine | None:
    """Build an engine with TensorRT-RTX, whose builder needs no GPU, in the types of the file.

    Args:
        path: The file.
        batch: The batch size that the graph takes, None for any.

    Returns:
        The engine's figures, or None where TensorRT-RTX is not installed.

    Raises:
        EmraError: Errors of the parser, the builder, or the inspection of the built layers.
    """
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        return None
    from emra_deploy.backends.tensorrt.flavour import RTX, load_flavour
    from emra_deploy.backends.tensorrt.precision import check_realised, parse_layer_lines, realised
    from emra_deploy.backends.tensorrt.sidecar import Flags
    from export.engine.builder import Request, build, make_profile
    from export.engine.input_model import read_input_model
    from export.engine.progress import BuildProgress

    flavour = load_flavour(RTX)
    source = read_input_model(path, flavour, plugin=False)
    profile = make_profile(source, None, None if batch else 1, None if batch else 4)
    built = build(source, Request(profile, Flags()), flavour, BuildProgress())
    found = realised(parse_layer_lines(built.messages.layers), source.asked)
    check_realised(found, flavour.title)
    return Engine(flavour.title, built.layers, built.plan.nbytes, found.counts)


def check_tensorrt(path: Path, batch: int | None) -> str:
    """Build the file with TensorRT-RTX as a strongly typed network, in its own types.

    Args:
        path: The file.
        batch: The batch size that the graph takes, None for any.

    Raises:
        EmraError: ``export-check-failed``.
    """
    try:
        engine = build_engine(path, batch)
    except EmraError as error:
        raise failed(error.cause) from error
    if engine is None:
        return f"not checked: {NO_RTX}"
    return (
        f"{engine.title}: parser and builder accept it as a strongly typed network of {engine.layers} layers, plan of"
        f" {engine.bytes / 1e6:.1f} MB; products and convolutions: {engine.products}"
    )


def check_runtime(path: Path) -> str:
    """Open the file in `emra_deploy` and compare its golden tile with the labels that PyTorch gave.

    Raises:
        EmraError: Errors of the runtime.
    """
    from emra_deploy.backends.opening import open_backend
    from emra_deploy.segmenting.selftest import self_test

    name = "onnxruntime"
    if half_quantizers_fail(onnx.load(path)):
        if importlib.util.find_spec("openvino") is None:
            return "not checked: emra_deploy's self-test, for which INT8 with FP16 needs ONNX Runtime 1.30 or OpenVINO"
        name = "openvino"
    backend = open_backend(path, backend=name)
    try:
        different = self_test(backend)
    finally:
        backend.close()
    if different is None:
        raise failed("the file has no golden tile")
    return f"emra_deploy: Manifest read back, self-test passed, {different:.4%} of the golden tile's pixels differ"


def failed(cause: str) -> EmraError:
    """The error of a file that fails a check."""
    return EmraError(
        "export-check-failed", cause, "Nothing was written; report this with the versions that `emra doctor` prints"
    )
