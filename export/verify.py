"""What an exported file must pass before it gets its name.

Every check takes the finished file, returns one line that says what was measured, and raises `EmraError` when the
measure is not good enough. PyTorch's side is `training.model.EMRAProxy` itself, with the normalisation done here in
NumPy, so that nothing of `export.graph` is on both sides.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from emra_deploy.errors import EmraError
from export.onnx_file import OPSET, with_logits
from training.model import EMRAProxy

LABEL_AGREEMENT = 0.9999
"""Least share of pixels with the label that PyTorch gives."""

LOGIT_ERROR = 1e-4
"""Largest difference of a logit, relative to the largest absolute logit of the tile."""

DYNAMIC_OPERATORS = frozenset(
    {"Shape", "If", "Loop", "Scan", "NonZero", "Range", "ConstantOfShape", "Expand", "SequenceAt"}
)
"""Operators that compute shapes while running, which static engines pay for."""


@dataclass(frozen=True)
class Reference:
    """PyTorch's side of the comparison.

    Attributes:
        model: In evaluation mode, with the weights as the file stores them.
        mean: Of RGB scaled to 0..1.
        std: Of the same.
        input_kind: What the exported graph takes, ``"uint8"`` or ``"float"``.
        batch: The batch size of the graph, None for any.
    """

    model: EMRAProxy
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_kind: str
    batch: int | None

    def normalise(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 B x H x W x 3 -> float32 B x 3 x H x W."""
        unit = tiles.astype(np.float64) / 255
        planes = (unit - np.asarray(self.mean)) / np.asarray(self.std)
        return np.ascontiguousarray(planes.transpose(0, 3, 1, 2), dtype=np.float32)

    def logits(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 B x H x W x 3 -> float32 B x C x H x W."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(self.normalise(tiles))).numpy()

    def feed(self, tiles: np.ndarray) -> np.ndarray:
        """What the exported graph wants for these tiles."""
        return tiles if self.input_kind == "uint8" else self.normalise(tiles)

    def batches(self, tiles: np.ndarray) -> Iterator[np.ndarray]:
        """Groups of tiles of sizes that the graph takes: all fixed, or all dynamic ones from 1 up to 2."""
        if self.batch is None:
            yield tiles[:1]
            for start in range(1, len(tiles), 2):
                yield tiles[start : start + 2]
            return
        for start in range(0, len(tiles), self.batch):
            group = tiles[start : start + self.batch]
            yield np.concatenate([group, np.repeat(group[-1:], self.batch - len(group), axis=0)])


def check_structure(path: Path) -> str:
    """ONNX's own checker with shape inference, and what the design asks of a graph.

    Raises:
        EmraError: ``export-check-failed``.
    """
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _failed(f"the ONNX checker refuses the file: {str(error).splitlines()[0]}") from error
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    kinds = Counter(node.op_type for node in model.graph.node)
    dynamic = sorted(DYNAMIC_OPERATORS & set(kinds))
    if opset > OPSET:
        raise _failed(f"opset {opset}, expected at most {OPSET}")
    if dynamic:
        raise _failed(f"the graph computes shapes at run time ({', '.join(dynamic)})")
    if not kinds["LayerNormalization"]:
        raise _failed("LayerNormalization was decomposed, which overflows in half precision")
    return (
        f"ONNX checker (full): opset {opset}, {len(model.graph.node)} nodes, "
        f"{kinds['LayerNormalization']} LayerNormalization, {kinds['Softmax']} Softmax, no run-time shapes"
    )


def check_onnxruntime(path: Path, reference: Reference, tiles: np.ndarray) -> str:
    """ONNX Runtime on the CPU against PyTorch, labels and logits.

    Args:
        path: The file.
        reference: PyTorch's side.
        tiles: uint8 K x H x W x 3.

    Raises:
        EmraError: ``export-check-failed``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait by spinning take the processor from PyTorch, which answers in turns with this.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = with_logits(onnx.load(path))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"image": batch}), strict=True))

    return f"ONNX Runtime {onnxruntime.__version__} against PyTorch: {_compare(run, reference, tiles)}"


def check_openvino(path: Path, reference: Reference, tiles: np.ndarray) -> str:
    """OpenVINO in FP32 against PyTorch; a line that says so when it is not installed.

    Raises:
        EmraError: ``export-check-failed``.
    """
    if importlib.util.find_spec("openvino") is None:
        return "not checked: OpenVINO is not installed (pip install 'emra-deploy[openvino]')"
    import openvino
    from onnx import inliner

    # OpenVINO does not know ONNX functions.
    model = inliner.inline_local_functions(with_logits(onnx.load(path)))
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        found = compiled({"image": batch})
        return {output.get_any_name(): found[output] for output in compiled.outputs}

    return f"OpenVINO {openvino.__version__.split('-')[0]} against PyTorch: {_compare(run, reference, tiles)}"


def check_tensorrt(path: Path, batch: int | None) -> str:
    """The parser and the builder of TensorRT-RTX, which need no GPU, take the file as a strongly typed network.

    Raises:
        EmraError: ``export-check-failed``.
    """
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        return "not checked: TensorRT-RTX is not installed (pip install 'emra-deploy[rtx]')"
    import tensorrt_rtx_bindings as trt

    logger = _collector(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        errors = "; ".join(str(parser.get_error(i)).splitlines()[0] for i in range(parser.num_errors))
        raise _failed(f"TensorRT's parser refuses the file: {errors}")
    config = builder.create_builder_config()
    if batch is None:
        image = network.get_input(0)
        rest = tuple(image.shape)[1:]
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, (1, *rest), (1, *rest), (4, *rest))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(f"TensorRT's builder refuses the file: {'; '.join(logger.errors[-3:]) or 'no reason given'}")
    return (
        f"TensorRT-RTX {trt.__version__}: parser and builder accept it as a strongly typed network of "
        f"{network.num_layers} layers, plan of {plan.nbytes / 1e6:.1f} MB"
    )


def check_runtime(path: Path) -> str:
    """The file opens in `emra_deploy` and its golden tile comes out as PyTorch gave it.

    Raises:
        EmraError: Whatever the runtime found.
    """
    from emra_deploy.backends import open_backend
    from emra_deploy.selftest import self_test

    backend, manifest = open_backend(path, name="onnxruntime")
    try:
        different = self_test(backend, manifest)
    finally:
        backend.close()
    if different is None:
        raise _failed("the file has no golden tile")
    return f"emra_deploy: Manifest read back, self-test passed, {different:.4%} of the golden tile's pixels differ"


def _compare(run: Callable[[np.ndarray], dict[str, np.ndarray]], reference: Reference, tiles: np.ndarray) -> str:
    agreeing, pixels, worst = 0, 0, 0.0
    for batch in reference.batches(tiles):
        expected = reference.logits(batch)
        found = run(reference.feed(batch))
        _check_outputs(found, expected.shape)
        if not (np.isfinite(expected).all() and np.isfinite(found["logits"]).all()):
            raise _failed("there are logits that are not finite numbers")
        scale = float(np.abs(expected).max())
        worst = max(worst, float(np.abs(found["logits"] - expected).max()) / scale)
        labels = found["classes"] if "classes" in found else found["logits"].argmax(axis=1)
        agreeing += int((labels == expected.argmax(axis=1)).sum())
        pixels += labels.size
        if "confidence" in found:
            _check_confidence(found["confidence"], expected)
    share = agreeing / pixels
    measured = f"{share:.4%} of {pixels} labels agree, logits within {worst:.1e} of the largest"
    if not (share >= LABEL_AGREEMENT and worst <= LOGIT_ERROR):
        raise _failed(
            f"{measured}; expected at least {LABEL_AGREEMENT:.2%} and at most {LOGIT_ERROR:.0e} on {len(tiles)} tiles"
        )
    return f"{measured} ({len(tiles)} tiles)"


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
            raise _failed(f"output {name!r} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {size}")


def _check_confidence(found: np.ndarray, logits: np.ndarray) -> None:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    worst = float(np.abs(found - 1 / shares.sum(axis=1)).max())
    if not worst <= 1e-3:
        raise _failed(f"confidence differs by {worst:.1e} from PyTorch's, expected at most 1e-3")


def _failed(cause: str) -> EmraError:
    return EmraError(
        "export-check-failed", cause, "Nothing was written; report this with the versions that `emra doctor` prints"
    )


def _collector(trt: Any) -> Any:
    # The base class is known only once the library is loaded.
    class Collect(trt.ILogger):
        """Keeps the library's errors for the exception instead of the terminal."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR and "cuda" not in message.lower():
                self.errors.append(message.splitlines()[0])

    return Collect()
