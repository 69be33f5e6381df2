"""The OpenVINO backend, the fastest on Intel and other CPUs."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends import contract
from emra_deploy.backends.base import Outputs
from emra_deploy.backends.external_data import check_external_data
from emra_deploy.backends.options import DEFAULTS, LoadOptions
from emra_deploy.errors import EmraError, about, one_line
from emra_deploy.host.extras import install_command
from emra_deploy.host.files import instead_of_file
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import check_model_seal

if TYPE_CHECKING:
    import onnx
    import openvino

_WORDS = {"fp32": "f32", "fp16": "f16"}
"""OpenVINO's names of precisions, where they differ."""

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_X86 = ("x86_64", "amd64", "i686")
_MAX_OPSET = 1000


class OpenVinoBackend(contract.GraphBackend):
    """Runs an ONNX file with OpenVINO on the CPU.

    ONNX functions are inlined first, because OpenVINO does not support them.

    Args:
        path: The ``.onnx`` file.
        options: How to open it. By default OpenVINO uses one thread per physical core. The default precision of an FP32
            model is FP32; that of other models is BF16 if the CPU supports it, else FP16 for an FP16 file on ARM, else
            FP32. Q/DQ in the graph is INT8 in each case. OpenVINO is always given a precision, because by default it
            computes FP32 models in BF16 on CPUs that support it.

    Raises:
        EmraError: ``backend-missing`` without openvino or onnx; ``backend-precision`` for one that this processor does
            not support or that takes minutes per tile; ``model-missing``, ``model-unreadable`` and
            ``model-external-data`` for files that do not load; ``manifest-…`` for a missing or invalid Manifest;
            ``model-mismatch`` and ``class-count`` when graph and Manifest disagree.
    """

    name = "openvino"

    def __init__(self, path: str | os.PathLike[str], options: LoadOptions = DEFAULTS) -> None:
        self._path = path
        core = open_core()
        proto = _load(Path(path))
        # The checks see values only; the user needs to know which file holds them.
        with about(path):
            manifest = Manifest.from_metadata({entry.key: entry.value for entry in proto.metadata_props})
            quantised = any(node.op_type in _QUANTISERS for node in proto.graph.node)
            self.precision = _choose_precision(core, manifest, options.precision, quantised)
            graph = _read(core, proto)
            contract.check_graph(_values(graph.inputs), _values(graph.outputs), manifest)
            self._compiled = _compile(core, graph, options.threads, self.precision)
        self.manifest, self._owner = manifest, Owner()
        self._threads = str(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        # A request holds the memory of one run, so threads must not share one.
        self._requests = threading.local()

    def describe(self) -> dict[str, str]:
        """Library, version, device, threads and the precision of what is not INT8."""
        import openvino

        return {
            "backend": self.name,
            "version": openvino.__version__.split("-")[0],
            "device": "cpu",
            "threads": self._threads,
            "precision": self.precision,
        }

    def _run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        image = contract.feed(batch, self.manifest)
        try:
            request = getattr(self._requests, "request", None)
            if request is None:
                request = self._requests.request = self._compiled.create_infer_request()
            # share_outputs would return the request's own memory, which the next run overwrites.
            found = request.infer({"image": image}, share_inputs=True, share_outputs=False)
        except Exception as error:  # As when compiling.
            # Without its model, which another thread may have closed just now, there is no other cause.
            self._owner.check("the model", self._path)
            raise EmraError(
                "model-run",
                f"OpenVINO cannot run this model on {len(batch)} tiles ({one_line(error)})",
                "Give a smaller --batch or free memory; if that is not it, export the model again",
                self._path,
            ) from error
        outputs: Outputs = {output.get_any_name(): np.asarray(value) for output, value in found.items()}
        return contract.finish(outputs, len(batch), self.manifest, self._path)

    def close(self) -> None:
        """Let OpenVINO free the model."""
        if self._owner.release():
            del self._compiled, self._requests


def open_core() -> openvino.Core:
    """OpenVINO, with its CPU plugin loaded by a thread that has ended.

    The plugin replaces the signal stack of the thread that loads it, and unmaps the new stack in the thread that drops
    the last model (OpenVINO 2026.4.1). If these threads differ, the first keeps an unmapped stack, and the next signal
    that Python handles there, such as SIGTERM, ends the process with SIGSEGV. An ended thread handles no signals.

    Raises:
        EmraError: ``backend-missing`` when openvino is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise EmraError(
            "backend-missing", "openvino is not installed", f"Run: {install_command('openvino')}"
        ) from error
    core = openvino.Core()
    # Querying any property of a device loads its plugin. Compiling a model reports failures.
    loader = threading.Thread(target=_load_plugin, args=(core,))
    loader.start()
    loader.join()
    return core


def _load_plugin(core: openvino.Core) -> None:
    with contextlib.suppress(RuntimeError):
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _load(path: Path) -> onnx.ModelProto:
    """The file with its weights and without functions.

    Raises:
        EmraError: ``backend-missing``, ``model-missing``, ``model-unreadable``, ``model-external-data``.
    """
    if not path.is_file():
        raise EmraError(
            "model-missing", f"The model file {instead_of_file(path)}", "Give the path of an .onnx file", path
        )
    try:
        import onnx
        from onnx import inliner
    except ImportError as error:
        raise EmraError("backend-missing", "onnx is not installed", f"Run: {install_command('openvino')}") from error
    check_external_data(path)
    check_model_seal(path)
    try:
        proto = onnx.load(path, load_external_data=False)
        # An empty file is an empty message to protobuf.
        if not proto.graph.node:
            raise ValueError("it has no graph")
        # OpenVINO searches endlessly for operators of such a version.
        if not all(1 <= entry.version <= _MAX_OPSET for entry in proto.opset_import):
            raise ValueError("it asks for operators of a version that does not exist")
    except Exception as error:  # protobuf's errors share no base but Exception.
        raise EmraError(
            "model-unreadable",
            f"The file is not an ONNX model: it may be truncated, damaged or of another kind ({one_line(error)})",
            "Copy the file again and compare its size, or export it again with python -m export.to_onnx",
            path,
        ) from error
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:
        raise EmraError(
            "model-external-data",
            f"Weights that the model keeps in other files are missing or outside its folder ({one_line(error)})",
            "Put all files of the model into one folder, or get the model from a source you trust",
            path,
        ) from error
    return inliner.inline_local_functions(proto) if proto.functions else proto


def _read(core: openvino.Core, proto: onnx.ModelProto) -> openvino.Model:
    import openvino

    try:
        return core.read_model(proto.SerializeToString())
    except Exception as error:  # OpenVINO's own errors, and protobuf's for a graph of more than 2 GB.
        raise EmraError(
            "model-unreadable",
            f"OpenVINO {openvino.__version__.split('-')[0]} cannot read this graph ({one_line(error)})",
            "Copy the file again, or export it again with python -m export.to_onnx",
        ) from error


def _compile(core: openvino.Core, graph: openvino.Model, threads: int | None, precision: str) -> openvino.CompiledModel:
    # One stream: a batch gets all threads, as the segmenter asks for one batch at a time.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        return core.compile_model(graph, "CPU", config)
    except Exception as error:  # Damaged graphs raise errors of the C++ library, such as IndexError.
        raise EmraError(
            "model-unreadable",
            f"OpenVINO cannot compile this graph ({one_line(error)})",
            "Use another backend, or export the model again with python -m export.to_onnx",
        ) from error


def _choose_precision(core: openvino.Core, manifest: Manifest, wanted: str | None, quantised: bool) -> str:
    able = set(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    x86 = platform.machine().lower() in _X86
    if wanted is not None:
        if wanted.upper() not in able:
            raise EmraError(
                "backend-precision",
                f"this processor does not compute in {wanted}; OpenVINO names {', '.join(sorted(able))}",
                "Leave the precision out for the one that suits model and processor",
            )
        if wanted == "fp16" and quantised and x86:
            raise EmraError(
                "backend-precision",
                "OpenVINO has no fast kernels for INT8 beside FP16 on x86: one tile takes minutes",
                f"Give --precision {'bf16' if 'BF16' in able else 'fp32'}, or leave it out",
            )
        return _WORDS.get(wanted, wanted)
    if manifest.precision == "fp32":
        return "f32"
    if "BF16" in able:
        return "bf16"
    # On x86 FP16 is slower than FP32 also without INT8, and elsewhere INT8 beside FP16 was not measured: decision 0016.
    return "f16" if "FP16" in able and not x86 and not quantised else "f32"


def _values(ports: list[Any]) -> list[contract.Value]:
    return [
        contract.Value(
            port.get_any_name(),
            _type_name(port.element_type),
            tuple(size.get_length() if size.is_static else None for size in port.partial_shape),
        )
        for port in ports
    ]


def _type_name(element: Any) -> str:
    """NumPy's name of a type, or OpenVINO's where NumPy has none."""
    try:
        return str(np.dtype(element.to_dtype()).name)
    except Exception:
        return str(element.get_type_name())
