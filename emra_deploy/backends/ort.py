"""The ONNX Runtime backend on the CPU; for GPUs see `emra_deploy.backends.ort_gpu`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends import contract
from emra_deploy.backends.base import Outputs
from emra_deploy.backends.external_data import check_external_data
from emra_deploy.backends.half_quantizing import check_rounding, version_of
from emra_deploy.backends.options import DEFAULTS, LoadOptions
from emra_deploy.errors import EmraError, about, one_line
from emra_deploy.host import slow_steps
from emra_deploy.host.extras import install_command
from emra_deploy.host.files import instead_of_file
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import check_model_seal

if TYPE_CHECKING:
    import onnxruntime

_RELEASES_PYTHON = (1, 32)
"""Oldest release known to release Python's GIL while it creates a session; 1.23 to 1.30 do not."""

_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxRuntimeBackend(contract.GraphBackend):
    """Runs an ONNX file with ONNX Runtime on the CPU.

    Args:
        path: The ``.onnx`` file.
        options: How to open it. By default ONNX Runtime uses one thread per physical core.

    Raises:
        EmraError: ``backend-missing`` without onnxruntime; ``backend-rounding`` for a graph that this release computes
            incorrectly; ``model-missing``, ``model-unreadable`` and
            ``model-external-data`` for files that do not load; ``manifest-…`` for a missing or invalid Manifest;
            ``model-mismatch`` and ``class-count`` when graph and Manifest disagree.
    """

    name = "onnxruntime"

    def __init__(self, path: str | os.PathLike[str], options: LoadOptions = DEFAULTS) -> None:
        self._path, self._options, self._owner = path, options, Owner()
        check_file(Path(path))
        check_rounding(Path(path), load_runtime())
        self._session = open_session(Path(path), self._session_options())
        self.manifest = self._checked()

    def _session_options(self) -> onnxruntime.SessionOptions:
        options = load_runtime().SessionOptions()
        options.log_severity_level = 3
        if self._options.threads is not None:
            options.intra_op_num_threads = self._options.threads
        return options

    def _checked(self) -> Manifest:
        """The Manifest, after checking the graph against it."""
        try:
            # The checks see values only; the user needs to know which file holds them.
            with about(self._path):
                manifest = Manifest.from_metadata(self._session.get_modelmeta().custom_metadata_map)
                inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
                contract.check_graph(_values(inputs), _values(outputs), manifest)
        except UnicodeDecodeError as error:
            # ONNX Runtime returns names and metadata unchecked, as they are in the file.
            raise EmraError(
                "model-unreadable",
                f"The file is damaged: its text is not valid UTF-8 ({error})"[:300],
                "Copy the file again, or export it again with python -m export.to_onnx",
                self._path,
            ) from error
        return manifest

    def describe(self) -> dict[str, str]:
        """Library, version, provider and threads."""
        import onnxruntime

        return {
            "backend": self.name,
            "version": onnxruntime.__version__,
            "device": "cpu",
            "threads": str(self._options.threads or "auto"),
        }

    def _run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        image = contract.feed(batch, self.manifest)
        try:
            values = self._session.run(list(self.manifest.heads), {"image": image})
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception.
            # Without its session, which another thread may have closed just now, there is no other cause.
            self._owner.check("the model", self._path)
            raise self._failure(one_line(error), len(batch)) from error
        outputs: Outputs = dict(zip(self.manifest.heads, values, strict=True))
        return contract.finish(outputs, len(batch), self.manifest, self._path)

    def _failure(self, message: str, count: int) -> EmraError:
        """The error for a run that failed."""
        return EmraError(
            "model-run",
            f"ONNX Runtime cannot run this model on {count} tiles ({message})",
            "Give a smaller --batch or free memory; if that is not it, export the model again",
            self._path,
        )

    def close(self) -> None:
        """Let ONNX Runtime free the model."""
        if self._owner.release():
            del self._session


def check_file(path: Path) -> None:
    """Refuse a path that is not a file.

    Raises:
        EmraError: ``model-missing``.
    """
    if not path.is_file():
        raise EmraError(
            "model-missing", f"The model file {instead_of_file(path)}", "Give the path of an .onnx file", path
        )


def load_runtime() -> Any:
    """The module onnxruntime.

    Raises:
        EmraError: ``backend-missing``.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EmraError(
            "backend-missing", "onnxruntime is not installed", f"Run: {install_command('runtime')}"
        ) from error
    return onnxruntime


def make_session(path: str | os.PathLike[str], options: onnxruntime.SessionOptions, **settings: Any) -> Any:
    """An ONNX Runtime session for a file; signals can interrupt its creation.

    Args:
        path: The file.
        options: Options of the session.
        settings: Other arguments of ``InferenceSession``.
    """
    library = load_runtime()
    # By path, never by content: ONNX Runtime confines external data to the file's folder only if it knows the path.
    # Without its fallback, which repeats the same attempt and prints to standard output.
    with nullcontext() if version_of(library) >= _RELEASES_PYTHON else slow_steps.unanswered():
        return library.InferenceSession(os.fspath(path), options, enable_fallback=0, **settings)


def open_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Load a file on the CPU.

    Raises:
        EmraError: ``model-unreadable``, ``model-external-data``; ``model-run`` when there is not enough memory.
    """
    library = load_runtime()
    check_external_data(path)
    check_model_seal(path)
    try:
        return make_session(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception.
        message = one_line(error)
        if "external data" in message.lower():
            raise EmraError(
                "model-external-data",
                f"Weights that the model keeps in other files are missing or outside its folder ({message})",
                "Put all files of the model into one folder, or get the model from a source you trust",
                path,
            ) from error
        if "bad_alloc" in message:
            raise EmraError(
                "model-run",
                f"ONNX Runtime cannot load this model, which needs more memory than is free ({message})",
                "Free memory, or get the model from a source you trust",
                path,
            ) from error
        raise EmraError(
            "model-unreadable",
            f"The file is not an ONNX model that ONNX Runtime {library.__version__} can load: it may be"
            f" truncated, damaged or of another kind ({message})",
            "Copy the file again and compare its size, or export it again with python -m export.to_onnx",
            path,
        ) from error


def _values(nodes: list[Any]) -> list[contract.Value]:
    """The inputs or outputs of a session; ONNX Runtime gives dynamic sizes a name."""
    return [
        contract.Value(
            node.name,
            _TYPES.get(node.type, node.type),
            tuple(size if isinstance(size, int) else None for size in node.shape),
        )
        for node in nodes
    ]
