"""What a written file must pass before it gets its name.

Every check takes the finished file, returns one line that says what was measured, and raises `EmraError` when the
measure is not good enough. What a file is compared with is in `export.compare.reference`.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from emra_deploy.backends.openvino import open_core
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command
from emra_deploy.host.slow_steps import step
from export.compare.reference import Expected
from export.compare.runners import OnnxRunner, half_quantizers_fail, open_session
from export.graphs.model_file import OPSET, opset_of, with_logits


@dataclass(frozen=True)
class Limits:
    """How far a file may be from what it was made of.

    Attributes:
        agreement: Least share of pixels with the same label.
        logit_error: Largest difference of a logit, relative to the largest absolute logit of the batch.
        confidence_error: Largest difference of a confidence.
    """

    agreement: float
    logit_error: float
    confidence_error: float = 1e-3


SAME_PRECISION = Limits(0.9999, 1e-4)
"""Of two libraries that compute the same in FP32."""

ROUNDED = Limits(0.999, 2e-2, 1e-2)
"""Of a graph whose tensors are rounded to FP16. The labels' limit is the project's promise; the logits' is ten times
what was measured (``docs/decisions/0006-half-precision.md``): an overflow or a lost scale lies far beyond."""

ROUNDED_INT8 = Limits(0.99, 1e-1, 5e-2)
"""Of a quantised graph whose other tensors are rounded to FP16: a rounding that tips an INT8 value moves it by a whole
step, 1/127 of its range. The labels' limit is INT8's promise; 99.93 % and 2.5e-2 were measured."""

INT8_ELSEWHERE = Limits(0.99, math.inf, math.inf)
"""Of INT8 in a library that rounds otherwise than ONNX Runtime, where the two files themselves are compared."""

NO_RTX = f"TensorRT-RTX is not installed ({install_command('rtx')})"

DYNAMIC_OPERATORS = frozenset(
    {"Shape", "If", "Loop", "Scan", "NonZero", "Range", "ConstantOfShape", "Expand", "SequenceAt"}
)
"""Operators that compute shapes while running, which static engines pay for."""


@dataclass(frozen=True)
class Measured:
    """What a comparison found.

    Attributes:
        agreement: Share of pixels with the same label.
        pixels: Compared.
        logit_error: Largest difference of a logit, relative to the largest absolute logit of its batch.
        tiles: Compared.
    """

    agreement: float
    pixels: int
    logit_error: float
    tiles: int

    def __str__(self) -> str:
        return (
            f"{self.agreement:.4%} of {self.pixels} labels agree, logits within {self.logit_error:.1e} of the largest"
            f" ({self.tiles} tiles)"
        )


@step("checking the file with ONNX's checker")
def check_structure(path: Path) -> str:
    """ONNX's own checker with shape inference, and what the design asks of a graph.

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
def check_onnxruntime(path: Path, reference: Expected, tiles: np.ndarray, limits: Limits = SAME_PRECISION) -> str:
    """ONNX Runtime on the CPU against the reference, labels and logits.

    Args:
        path: The file.
        reference: What it is compared with.
        tiles: uint8 K x H x W x 3.
        limits: How far it may be from that.

    Raises:
        EmraError: ``export-check-failed``.
    """
    import onnxruntime

    session = open_session(onnx.load(path))
    names = [output.name for output in session.get_outputs()]

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"image": batch}), strict=True))

    measured = _compare(run, reference, tiles, limits)
    return f"ONNX Runtime {onnxruntime.__version__} against {reference.name}: {measured}"


def measure_runner(runner: OnnxRunner, reference: Expected, tiles: np.ndarray, limits: Limits) -> Measured:
    """A graph that is in no file yet against the reference.

    Args:
        runner: It, with the Manifest of the reference.
        reference: What it is compared with.
        tiles: uint8 K x H x W x 3.
        limits: How far it may be from that.

    Raises:
        EmraError: ``export-check-failed``.
    """
    return _compare(runner.run_fed, reference, tiles, limits)


@step("checking the file with OpenVINO")
def check_openvino(path: Path, reference: Expected, tiles: np.ndarray, limits: Limits = SAME_PRECISION) -> str:
    """OpenVINO, told to compute in FP32, against the reference; a line that says so when it is not installed.

    Raises:
        EmraError: ``export-check-failed``.
    """
    if importlib.util.find_spec("openvino") is None:
        return f"not checked: OpenVINO is not installed ({install_command('openvino')})"
    import openvino
    from onnx import inliner

    # OpenVINO does not know ONNX functions.
    model = inliner.inline_local_functions(with_logits(onnx.load(path)))
    core = open_core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        found = compiled({"image": batch})
        return {output.get_any_name(): found[output] for output in compiled.outputs}

    measured = _compare(run, reference, tiles, limits)
    return f"OpenVINO {openvino.__version__.split('-')[0]} in FP32 against {reference.name}: {measured}"


@dataclass(frozen=True)
class Plan:
    """What TensorRT-RTX's builder made of a file.

    Attributes:
        title: The library and its version.
        layers: Of the network.
        bytes: Of the engine.
        counts: How many matrix products and convolutions run in which precision; empty when it does not say.
    """

    title: str
    layers: int
    bytes: int
    counts: Mapping[str, int]

    @property
    def products(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} in {name}" for name, count in sorted(self.counts.items())) or "not told"


@step("building an engine to check the file")
def build_plan(path: Path, batch: int | None) -> Plan | None:
    """Build an engine with TensorRT-RTX, whose builder needs no GPU, in the types that the file asks for.

    Args:
        path: The file.
        batch: The batch size that the graph takes, None for any.

    Returns:
        What was built, or None where TensorRT-RTX is not installed.

    Raises:
        EmraError: What the parser, the builder or the look at the built layers found.
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
    return Plan(flavour.title, built.layers, built.plan.nbytes, found.counts)


def check_tensorrt(path: Path, batch: int | None) -> str:
    """TensorRT-RTX builds the file as a strongly typed network, in the types it asks for.

    Args:
        path: The file.
        batch: The batch size that the graph takes, None for any.

    Raises:
        EmraError: ``export-check-failed``.
    """
    try:
        plan = build_plan(path, batch)
    except EmraError as error:
        raise failed(error.cause) from error
    if plan is None:
        return f"not checked: {NO_RTX}"
    return (
        f"{plan.title}: parser and builder accept it as a strongly typed network of {plan.layers} layers, plan of"
        f" {plan.bytes / 1e6:.1f} MB; products and convolutions: {plan.products}"
    )


def check_runtime(path: Path) -> str:
    """The file opens in `emra_deploy` and its golden tile comes out as PyTorch gave it.

    Raises:
        EmraError: Whatever the runtime found.
    """
    from emra_deploy.backends.opening import open_backend
    from emra_deploy.segmenting.selftest import self_test

    name = "onnxruntime"
    if half_quantizers_fail(onnx.load(path)):
        if importlib.util.find_spec("openvino") is None:
            return "not checked: emra_deploy's self-test, for which INT8 with FP16 needs ONNX Runtime 1.30 or OpenVINO"
        name = "openvino"
    backend, manifest = open_backend(path, name=name)
    try:
        different = self_test(backend, manifest)
    finally:
        backend.close()
    if different is None:
        raise failed("the file has no golden tile")
    return f"emra_deploy: Manifest read back, self-test passed, {different:.4%} of the golden tile's pixels differ"


def _compare(
    run: Callable[[np.ndarray], dict[str, np.ndarray]], reference: Expected, tiles: np.ndarray, limits: Limits
) -> Measured:
    agreeing, pixels, worst = 0, 0, 0.0
    for batch in reference.batches(tiles):
        expected = reference.logits(batch)
        found = run(reference.feed(batch))
        _check_outputs(found, expected.shape)
        if not (np.isfinite(expected).all() and np.isfinite(found["logits"]).all()):
            raise failed("there are logits that are not finite numbers")
        scale = float(np.abs(expected).max())
        worst = max(worst, float(np.abs(found["logits"] - expected).max()) / scale)
        labels = found["classes"] if "classes" in found else found["logits"].argmax(axis=1)
        agreeing += int((labels == expected.argmax(axis=1)).sum())
        pixels += labels.size
        if "confidence" in found:
            _check_confidence(found["confidence"], expected, limits.confidence_error)
    measured = Measured(agreeing / pixels, pixels, worst, len(tiles))
    if not (measured.agreement >= limits.agreement and worst <= limits.logit_error):
        raise failed(f"{measured}; expected at least {limits.agreement:.2%} and at most {limits.logit_error:.0e}")
    return measured


def _check_outputs(found: dict[str, np.ndarray], shape: Sequence[int]) -> None:
    batch, _, height, width = shape
    expected = {
        "classes": (np.uint8, (batch, height, width)),
        "logits": (np.float32, tuple(shape)),
        "confidence": (np.float32, (batch, height, width)),
    }
    for name, array in found.items():
        dtype, size = expected[name]
        if array.dtype != dtype or array.shape != size:
            raise failed(f"output {name!r} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {size}")


def _check_confidence(found: np.ndarray, logits: np.ndarray, limit: float) -> None:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    worst = float(np.abs(found - 1 / shares.sum(axis=1)).max())
    if not worst <= limit:
        raise failed(f"confidence differs by {worst:.1e}, expected at most {limit:.0e}")


def failed(cause: str) -> EmraError:
    """The error of a file that does not pass."""
    return EmraError(
        "export-check-failed", cause, "Nothing was written; report this with the versions that `emra doctor` prints"
    )
