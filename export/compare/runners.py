"""Opening of models to compare, with the logits of ONNX graphs as outputs.

Only `open_runner` of a checkpoint folder needs PyTorch, and imports `training` when it is called.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx

from emra_deploy.backends import contract
from emra_deploy.backends.base import Backend, Outputs, check_batch
from emra_deploy.backends.half_quantizing import truncates
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest
from export.graphs.model_file import read_model, with_logits
from export.half.rounding import with_rounding

if TYPE_CHECKING:
    import onnxruntime


class OnnxRunner:
    """An ONNX graph in ONNX Runtime on the CPU, with its logits as an output.

    Args:
        model: The graph.
        manifest: The Manifest of its file.
        threads: Threads of one run; None leaves the choice to ONNX Runtime.

    Raises:
        EmraError: ``model-unreadable`` when ONNX Runtime refuses the graph.
    """

    name = "onnxruntime"

    def __init__(self, model: onnx.ModelProto, manifest: Manifest, threads: int | None = None) -> None:
        self._session = open_session(model, threads)
        self._names = [output.name for output in self._session.get_outputs()]
        if "logits" in self._names and "logits" not in manifest.heads:
            manifest = replace(manifest, heads=(*manifest.heads, "logits"))
        self.manifest = manifest

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Batch (None when any will do), height and width."""
        return self.manifest.input_shape

    def describe(self) -> dict[str, str]:
        """Library, version and device."""
        import onnxruntime

        return {"backend": self.name, "version": onnxruntime.__version__, "device": "cpu", "threads": "auto"}

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """uint8 B x H x W x 3 -> ``classes`` uint8 B x H x W, and ``logits`` float32 B x C x H x W where they are."""
        check_batch(batch, self.input_shape)
        outputs = contract.in_fixed_batches(batch, self.input_shape[0], self._run)
        if "classes" not in outputs:
            outputs["classes"] = outputs["logits"].argmax(axis=1).astype(np.uint8)
        return outputs

    def _run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        values = self._session.run(self._names, {"image": contract.feed(batch, self.manifest)})
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Let ONNX Runtime free the model."""
        del self._session


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
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph ({' '.join(str(error).split())[:300]})",
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
