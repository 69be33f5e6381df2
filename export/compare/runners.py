"""Opening of models to compare, with the logits of ONNX graphs as outputs.

Only `open_runner` of a checkpoint folder needs PyTorch, and imports `training` when it is called.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from emra_deploy.backends.base import Backend
from emra_deploy.backends.half_quantizing import truncates
from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.ort import OnnxRuntimeBackend
from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.manifest import Manifest
from export.graphs.model_file import read_model, with_logits
from export.half.rounding import with_rounding

if TYPE_CHECKING:
    import onnxruntime


class OnnxRunner(OnnxRuntimeBackend):
    """An ONNX graph in ONNX Runtime on the CPU, its logits laid open.

    Args:
        model: The graph.
        manifest: The Manifest of its file.
        threads: Threads of one run; None leaves the choice to ONNX Runtime.

    Raises:
        EmraError: ``model-unreadable`` when ONNX Runtime refuses the graph.
    """

    def __init__(self, model: onnx.ModelProto, manifest: Manifest, threads: int | None = None) -> None:
        self._path, self._options, self._owner = "", LoadOptions(threads=threads), Owner()
        self._session = open_session(model, threads)
        if "logits" not in manifest.heads and any(output.name == "logits" for output in self._session.get_outputs()):
            manifest = replace(manifest, heads=(*manifest.heads, "logits"))
        self.manifest = manifest


def half_quantizers_fail(model: onnx.ModelProto) -> bool:
    """Whether this ONNX Runtime truncates FP16 values that the graph quantises; see `backends.half_quantizing`."""
    import onnxruntime

    return truncates(model.SerializeToString(), onnxruntime)


def open_session(model: onnx.ModelProto, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on the CPU, its logits among the outputs.

    Args:
        model: The graph.
        threads: Threads of one run; None leaves the choice to ONNX Runtime.

    Raises:
        EmraError: ``model-unreadable`` when ONNX Runtime refuses the graph.
    """
    import onnxruntime

    if half_quantizers_fail(model):
        # The same graph in FP32, with a rounding for each FP16 tensor.
        model = with_rounding(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Two models run in turns: threads that wait by spinning would slow down the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            with_logits(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception.
        raise EmraError(
            "model-unreadable",
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph ({one_line(error)})",
            "Export the model again with python -m export.to_onnx",
        ) from error


def open_runner(
    source: str | Path, *, backend: str = "auto", threads: int | None = None, size: tuple[int, int] | None = None
) -> Backend:
    """Open a model file or a checkpoint folder.

    Args:
        source: An ONNX file, a folder that training wrote, or another file that `emra_deploy.backends.opening` knows.
        backend: ``"auto"``, which opens an ONNX file in ONNX Runtime with its logits, or a backend's name.
        threads: Threads of one run; None leaves the choice to the library.
        size: (height, width) that a checkpoint is run at; files have their own.

    Raises:
        EmraError: Any fault of the file or folder.
    """
    path = Path(source)
    if path.is_dir():
        from training.backend import checkpoint_backend
        from training.checkpoint import load_checkpoint

        return checkpoint_backend(load_checkpoint(path), path.name or "checkpoint", size)
    if path.suffix.lower() == ".onnx" and backend in ("auto", "onnxruntime"):
        return OnnxRunner(*read_model(path), threads=threads)
    return open_backend(path, backend=backend, threads=threads)


def open_pair(
    a: str | Path, b: str | Path, *, backends: tuple[str, str] = ("auto", "auto"), threads: int | None = None
) -> tuple[Backend, Backend]:
    """Open two models to compare; a checkpoint compared with a file runs at the file's input size.

    Args:
        a: Source of the first, as in `open_runner`.
        b: Source of the second.
        backends: Names of the backends of both.
        threads: Threads of one run; None leaves the choice to the library.

    Raises:
        EmraError: Any fault of the files or folders.
    """
    if Path(a).is_dir() and not Path(b).is_dir():
        second = open_runner(b, backend=backends[1], threads=threads)
        return open_runner(a, backend=backends[0], threads=threads, size=second.manifest.tile), second
    first = open_runner(a, backend=backends[0], threads=threads)
    return first, open_runner(b, backend=backends[1], threads=threads, size=first.manifest.tile)
