"""Costs on a target: measured where its library is installed, otherwise modelled by a roofline.

Two costs are needed. The time that INT8 saves in *one linear* orders the search. It is measured on the linear alone,
cut out of the graph with its own shapes: in the whole graph one linear of fifty is less than the noise. The time of a
*whole graph* is measured on whole graphs, interleaved, at the end.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.backends import contract
from emra_deploy.backends.openvino import open_core
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command
from emra_deploy.model_file.manifest import Manifest
from export.int8.linears import Linear, constant_tensors
from export.int8.qdq import insert_qdq
from export.measure import Plan, Ratio, Series, measure, paired_ratio

TARGETS = ("cpu", "openvino", "rtx", "orin")
"""``cpu`` is ONNX Runtime on this machine's processor, ``openvino`` OpenVINO on the same, ``rtx`` TensorRT-RTX
and ``orin`` TensorRT on a Jetson AGX Orin; the last two are modelled."""

LINEAR_PLAN = Plan(iterations=24, warmup=3, rounds=6, settle=1)
GRAPH_PLAN = Plan(iterations=12, warmup=2, rounds=6, settle=1)

STAGE = "run"

Run = Callable[[npt.NDArray[Any]], object]


@dataclass(frozen=True)
class Device:
    """Peak rates of a GPU, dense, and their source.

    Attributes:
        name: Name of the device.
        macs: Multiply-accumulates a second, by precision; half of the operations that vendors count.
        bandwidth: Bytes a second of memory.
        source: Source of the figures.
    """

    name: str
    macs: Mapping[str, float]
    bandwidth: float
    source: str


DEVICES = {
    "orin": Device(
        "Jetson AGX Orin 64GB",
        {"fp32": 5.3e12 / 2, "fp16": 42.5e12 / 2, "int8": 85e12 / 2},
        204.8e9,
        "NVIDIA Jetson AGX Orin Series Technical Brief: 170 sparse INT8 TOPS of the GPU, 5.3 FP32 TFLOPS, 204.8 GB/s;"
        " dense is half of sparse, FP16 half of INT8",
    ),
    "rtx": Device(
        "GeForce RTX 4090",
        {"fp32": 82.6e12 / 2, "fp16": 165.2e12 / 2, "int8": 660.6e12 / 2},
        1008e9,
        "NVIDIA Ada GPU Architecture: dense tensor rates, FP16 with FP32 accumulation, and 1008 GB/s",
    ),
}


class CostModel(Protocol):
    """Estimator of costs on one target.

    Attributes:
        measured: Whether it measures on the target itself.
        description: One phrase for people about the source of the costs.
    """

    measured: bool
    description: str

    def savings(
        self, model: onnx.ModelProto, linears: Sequence[Linear], ranges: Mapping[str, float], progress: Progress
    ) -> dict[str, float]:
        """Seconds a picture that INT8 saves in each linear, below 0 where it costs."""
        ...

    def graphs(self, variants: Mapping[str, Variant], progress: Progress) -> dict[str, Timing]:
        """Times of whole graphs; the others are compared with the first."""
        ...


Progress = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Time of a whole graph.

    Attributes:
        seconds: Seconds a picture.
        ratio: Ratio to the graph it is compared with, with its interval, where it was measured.
    """

    seconds: float
    ratio: Ratio | None = None


@dataclass(frozen=True)
class Variant:
    """A whole graph, its linears, and the names of those that are INT8."""

    model: onnx.ModelProto
    linears: tuple[Linear, ...]
    quantized: frozenset[str]


class Roofline:
    """A stated model: each linear takes the longer of its arithmetic at peak rate and its bytes at full bandwidth.

    It is a lower bound of the linears alone (Williams, Waterman and Patterson 2009): attention, normalisation and
    launch times are not in it, so it ranks linears and does not predict the time of a graph.

    Args:
        device: Rates of the device.
        high: Precision of the parts that are not INT8, ``"fp16"`` or ``"fp32"``.
    """

    measured = False

    def __init__(self, device: Device, high: str) -> None:
        self.device = device
        self.high = high
        self.description = (
            f"modelled: roofline of the linears alone on a {device.name}, {high} against int8 ({device.source})"
        )

    def seconds(self, linear: Linear, quantized: bool) -> float:
        """Seconds of one linear for one picture."""
        wide = {"fp32": 4, "fp16": 2}[self.high]
        narrow = 1 if quantized else wide
        # A quantised input is written as int8 by the node before, into which Q is fused; the output is wide either way.
        moved = narrow * (linear.rows * linear.inputs + linear.inputs * linear.outputs)
        moved += wide * linear.rows * linear.outputs
        rate = self.device.macs["int8" if quantized else self.high]
        return max(linear.macs / rate, moved / self.device.bandwidth)

    def savings(
        self, model: onnx.ModelProto, linears: Sequence[Linear], ranges: Mapping[str, float], progress: Progress
    ) -> dict[str, float]:
        """Savings by the model; see `CostModel.savings`."""
        return {linear.name: self.seconds(linear, False) - self.seconds(linear, True) for linear in linears}

    def graphs(self, variants: Mapping[str, Variant], progress: Progress) -> dict[str, Timing]:
        """Times of the linears alone; see `CostModel.graphs`."""
        return {
            name: Timing(sum(self.seconds(linear, linear.name in variant.quantized) for linear in variant.linears))
            for name, variant in variants.items()
        }


class Stopwatch:
    """Interleaved medians on a library of this machine.

    Args:
        name: ``"cpu"`` or ``"openvino"``.
        manifest: Manifest of the model.
        tile: uint8 H x W x 3, for timing whole graphs.
    """

    measured = True

    def __init__(self, name: str, manifest: Manifest, tile: npt.NDArray[np.uint8]) -> None:
        self._compile = {"cpu": compile_onnxruntime, "openvino": compile_openvino}[name]
        self._feed = contract.feed(np.stack([tile] * (manifest.input_shape[0] or 1)), manifest)
        self._batch = manifest.input_shape[0] or 1
        self.description = f"measured: {_library(name)} on this machine, medians of interleaved rounds"

    def savings(
        self, model: onnx.ModelProto, linears: Sequence[Linear], ranges: Mapping[str, float], progress: Progress
    ) -> dict[str, float]:
        """Measured savings, linears of one shape timed once; see `CostModel.savings`."""
        found: dict[tuple[object, ...], float] = {}
        savings = {}
        for linear in linears:
            key = (linear.kind, linear.inputs, linear.outputs, linear.rows, _attributes(model, linear))
            if key not in found:
                wide, narrow = cut_out(model, linear), cut_out(model, linear, ranges)
                series = self._measure({"high": wide, "int8": narrow}, LINEAR_PLAN)
                high, int8 = (np.median(series[name].samples(STAGE)) for name in ("high", "int8"))
                found[key] = float(high - int8)
            savings[linear.name] = found[key]
            progress()
        return savings

    def graphs(self, variants: Mapping[str, Variant], progress: Progress) -> dict[str, Timing]:
        """Measured times; see `CostModel.graphs`."""
        stripped = {}
        for name, variant in variants.items():
            copy = onnx.ModelProto()
            copy.CopyFrom(variant.model)
            del copy.metadata_props[:]
            stripped[name] = (copy, self._feed)
        series = self._measure(stripped, GRAPH_PLAN, progress)
        base = next(iter(series.values())).medians(STAGE)
        return {
            name: Timing(float(np.median(one.samples(STAGE))) / self._batch, paired_ratio(one.medians(STAGE), base))
            for name, one in series.items()
        }

    def _measure(
        self,
        graphs: Mapping[str, tuple[onnx.ModelProto, npt.NDArray[Any]]],
        plan: Plan,
        progress: Progress = lambda: None,
    ) -> dict[str, Series]:
        runs = {name: (self._compile(graph), batch) for name, (graph, batch) in graphs.items()}

        def timed(name: str) -> Callable[[int], Mapping[str, float]]:
            run, batch = runs[name]

            def once(_: int) -> Mapping[str, float]:
                start = time.perf_counter()
                run(batch)
                return {STAGE: time.perf_counter() - start}

            return once

        series = measure({name: timed(name) for name in runs}, plan, lambda number, name: progress())
        for one in series.values():
            if one.failure is not None:
                raise one.failure
        return series


def open_cost_model(target: str, manifest: Manifest, tile: npt.NDArray[np.uint8], high: str) -> CostModel:
    """The cost model of a target.

    Args:
        target: One of `TARGETS`.
        manifest: Manifest of the model.
        tile: uint8 H x W x 3, for timing whole graphs.
        high: Precision of the parts that are not INT8.

    Raises:
        EmraError: ``optimize-target`` for an unknown target or one whose library is missing.
    """
    if target not in TARGETS:
        raise EmraError("optimize-target", f"target {target!r} is unknown", f"Choose one of {', '.join(TARGETS)}")
    if target in DEVICES:
        return Roofline(DEVICES[target], high)
    module, extra = {"cpu": ("onnxruntime", "runtime"), "openvino": ("openvino", "openvino")}[target]
    if importlib.util.find_spec(module) is None:
        raise EmraError(
            "optimize-target",
            f"target {target} is timed with {module}, which is not installed",
            f"Run {install_command(extra)}, or choose a modelled target: {', '.join(DEVICES)}",
        )
    return Stopwatch(target, manifest, tile)


def cut_out(
    model: onnx.ModelProto, linear: Linear, ranges: Mapping[str, float] | None = None
) -> tuple[onnx.ModelProto, npt.NDArray[Any]]:
    """One linear as a graph of its own, and an input for it, float32 of the shape it has for one picture.

    Args:
        model: The FP32 model.
        linear: A linear of it.
        ranges: Quantise it with these; None leaves it in FP32.
    """
    node = _node(model, linear)
    constants = constant_tensors(model.graph)
    graph = onnx.GraphProto(name="linear")
    for name in node.input[1:]:
        values = numpy_helper.to_array(constants[name]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, name))
    graph.node.append(node)
    shape = _input_shape(model, linear)
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    graph.node[0].input[0] = "image"
    graph.output.append(helper.make_tensor_value_info(linear.node, TensorProto.FLOAT, None))
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    random = np.random.default_rng(0)
    if ranges is None:
        return alone, random.standard_normal(shape, np.float32)
    from dataclasses import replace

    local = replace(linear, source="image")
    scaled = insert_qdq(alone, [local], {"image": ranges[linear.source]})
    return scaled, random.standard_normal(shape, np.float32)


def compile_onnxruntime(model: onnx.ModelProto) -> Run:
    """Function that runs a graph whose input is ``image`` in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Many graphs take turns here, as in `export.compare.runners`.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"image": batch})


def compile_openvino(model: onnx.ModelProto) -> Run:
    """Function that runs it in OpenVINO, other parts than INT8 in BF16 where the processor can, as in the runtime."""
    from onnx import inliner

    core = open_core()
    # OpenVINO does not know ONNX functions.
    compiled = core.compile_model(
        core.read_model(inliner.inline_local_functions(model).SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": _openvino_precision(core)},
    )
    return lambda batch: compiled({"image": batch})


def _openvino_precision(core: Any) -> str:
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _node(model: onnx.ModelProto, linear: Linear) -> onnx.NodeProto:
    nodes: Sequence[onnx.NodeProto] = model.graph.node
    return next(node for node in nodes if node.output[0] == linear.node)


def _attributes(model: onnx.ModelProto, linear: Linear) -> tuple[str, ...]:
    return tuple(sorted(str(attribute) for attribute in _node(model, linear).attribute))


def _input_shape(model: onnx.ModelProto, linear: Linear) -> list[int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    entries: Iterable[Any] = (*inferred.value_info, *inferred.input)
    dims = next(entry.type.tensor_type.shape.dim for entry in entries if entry.name == linear.source)
    # The batch comes first and is the only size that may be open.
    return [1, *(dim.dim_value for dim in dims[1:])]


def _library(name: str) -> str:
    if name == "cpu":
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}"
    import openvino

    precision = _openvino_precision(open_core())
    return f"OpenVINO {openvino.__version__.split('-')[0]} ({precision} where not INT8)"
