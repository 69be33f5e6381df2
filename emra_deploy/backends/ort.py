"""The ONNX Runtime backend, on the processor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.errors import EmraError
from emra_deploy.manifest import Manifest

if TYPE_CHECKING:
    import onnxruntime

_EXPORT = "Export the model again with export/to_onnx.py"
MAX_THREADS = 1024
"""More would only be a slip of the keyboard, and starting them takes minutes."""

_TYPES = {"classes": "tensor(uint8)", "logits": "tensor(float)", "confidence": "tensor(float)"}


class OnnxRuntimeBackend:
    """Runs an ONNX file with ONNX Runtime on the CPU.

    Args:
        path: The ``.onnx`` file.
        manifest: Used in place of the file's own Manifest, when given.
        threads: Threads of one run; None leaves the choice to ONNX Runtime (one per physical core).

    Raises:
        EmraError: ``backend-missing`` without onnxruntime; ``model-missing``, ``model-unreadable`` and
            ``model-external-data`` for files that do not load; ``manifest-…`` for a Manifest that is missing or
            wrong; ``model-mismatch`` and ``class-count`` when graph and Manifest disagree.
    """

    name = "onnxruntime"

    def __init__(
        self, path: str | os.PathLike[str], manifest: Manifest | None = None, threads: int | None = None
    ) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise EmraError(
                "threads", f"{threads} threads, expected 1 to {MAX_THREADS}", "Give as many as cores, or leave it out"
            )
        self._path, self._threads = path, threads
        self._session = _open_session(Path(path), threads)
        try:
            if manifest is None:
                manifest = Manifest.from_metadata(self._session.get_modelmeta().custom_metadata_map)
            _check_input(self._session.get_inputs(), manifest)
            _check_outputs(self._session.get_outputs(), manifest)
        except EmraError as error:
            # The checks see values only; the user needs to know which file holds them.
            raise EmraError(error.code, error.cause, error.remedy, path) from error
        except UnicodeDecodeError as error:
            # ONNX Runtime passes names and metadata on as they are in the file.
            raise EmraError(
                "model-unreadable",
                f"The file is damaged: it holds text that is none ({error})"[:300],
                "Copy the file again, or export it again with export/to_onnx.py",
                path,
            ) from error
        self.manifest = manifest

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Batch (None when any will do), height and width of the model's input."""
        return self.manifest.input_shape

    def describe(self) -> dict[str, str]:
        """Library, version, provider and threads."""
        import onnxruntime

        return {
            "backend": self.name,
            "version": onnxruntime.__version__,
            "device": "cpu",
            "threads": "auto" if self._threads is None else str(self._threads),
        }

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch; see `Backend.run`. A batch larger or smaller than a fixed one is split and padded."""
        check_batch(batch, self.input_shape)
        size = self.input_shape[0]
        if size is None or size == len(batch):
            return self._run(batch)
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            used = len(part)
            if used < size:
                part = np.concatenate([part, np.zeros((size - used, *part.shape[1:]), np.uint8)])
            parts.append({key: value[:used] for key, value in self._run(part).items()})
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        feed = np.ascontiguousarray(batch) if self.manifest.input_kind == "uint8" else self._normalise(batch)
        try:
            values = self._session.run(list(self.manifest.heads), {"image": feed})
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception.
            message = " ".join(str(error).split())[:300]
            raise EmraError(
                "model-run",
                f"ONNX Runtime cannot run this model on {len(batch)} tiles ({message})",
                "Give a smaller --batch or free memory; if that is not it, export the model again",
                self._path,
            ) from error
        outputs: Outputs = dict(zip(self.manifest.heads, values, strict=True))
        self._check_shapes(outputs, len(batch))
        if "classes" not in outputs:
            outputs["classes"] = outputs["logits"].argmax(axis=1).astype(np.uint8)
        return outputs

    def _check_shapes(self, outputs: Outputs, count: int) -> None:
        for name, value in outputs.items():
            channels = (len(self.manifest.classes),) if name == "logits" else ()
            expected = (count, *channels, *self.manifest.tile)
            if value.shape != expected:
                # Sizes that the graph leaves open show only here.
                raise EmraError(
                    "model-mismatch", f"Output {name!r} came as {value.shape}, expected {expected}", _EXPORT, self._path
                )

    def _normalise(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        mean = np.asarray(self.manifest.mean, np.float32)
        std = np.asarray(self.manifest.std, np.float32)
        scaled = (batch.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def close(self) -> None:
        """Let ONNX Runtime free the model."""
        del self._session


def _open_session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise EmraError("model-missing", f"The model file {what}", "Give the path of an .onnx file", path)
    try:
        import onnxruntime
    except ImportError as error:
        raise EmraError(
            "backend-missing", "onnxruntime is not installed", "Run: pip install 'emra-deploy[runtime]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        # By path, never by content: only so does ONNX Runtime confine external data to the folder of the file.
        # Without its fallback, which tries the same again and prints about it on standard output.
        return onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception.
        message = " ".join(str(error).split())[:300]
        if "external data" in message.lower():
            raise EmraError(
                "model-external-data",
                f"Weights that the model keeps in other files are missing or outside its folder ({message})",
                "Put all files of the model into one folder, or get the model from a source you trust",
                path,
            ) from error
        raise EmraError(
            "model-unreadable",
            f"The file is not an ONNX model that ONNX Runtime {onnxruntime.__version__} can load: it may be"
            f" truncated, damaged or of another kind ({message})",
            "Copy the file again and compare its size, or export it again with export/to_onnx.py",
            path,
        ) from error


def _check_input(inputs: list[Any], manifest: Manifest) -> None:
    batch, height, width = manifest.input_shape
    if manifest.input_kind == "uint8":
        expected_type, expected = "tensor(uint8)", [batch, height, width, 3]
    else:
        expected_type, expected = "tensor(float)", [batch, 3, height, width]
    found = [(value.name, value.type, _sizes(value.shape)) for value in inputs]
    if found != [("image", expected_type, expected)]:
        raise EmraError(
            "model-mismatch",
            f"The graph takes {found}, and its Manifest says {[('image', expected_type, expected)]}",
            _EXPORT,
        )


def _check_outputs(outputs: list[Any], manifest: Manifest) -> None:
    batch, height, width = manifest.input_shape
    found = {value.name: value for value in outputs}
    if set(found) != set(manifest.heads):
        raise EmraError(
            "model-mismatch", f"The graph gives {sorted(found)}, and its Manifest says {list(manifest.heads)}", _EXPORT
        )
    for name, value in found.items():
        shape = _sizes(value.shape)
        if name == "logits" and len(shape) == 4 and shape[1] not in (None, len(manifest.classes)):
            raise EmraError(
                "class-count",
                f"The graph gives logits of {shape[1]} classes, and its Manifest names {len(manifest.classes)}",
                _EXPORT,
            )
        expected: list[int | None] = [batch, height, width]
        if name == "logits":
            expected.insert(1, len(manifest.classes))
        # Shape inference may leave a size open; a size that is given must be right.
        agrees = len(shape) == len(expected) and all(
            size in (None, wanted) for size, wanted in zip(shape, expected, strict=True)
        )
        if value.type != _TYPES[name] or not agrees:
            raise EmraError(
                "model-mismatch",
                f"Output {name!r} is {value.type} {shape}, expected {_TYPES[name]} {expected}",
                _EXPORT,
            )


def _sizes(shape: list[Any]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]
