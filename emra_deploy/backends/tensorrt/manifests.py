"""The Manifest of an ONNX file that need not be loaded: next to an engine, or on a device without ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path

from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import check_model_seal


def manifest_of_onnx(path: str | os.PathLike[str]) -> Manifest:
    """Read the Manifest of an ONNX file with any installed library.

    Raises:
        EmraError: ``model-missing``, ``model-unreadable``, ``backend-missing``, and those of `Manifest`.
    """
    place = Path(path)
    if not place.is_file():
        raise EmraError("model-missing", "The ONNX file does not exist", "Give the file of which it was built", path)
    try:
        import onnx
    except ImportError:
        return _with_runtime(place)
    check_model_seal(place)
    try:
        # External weights are not needed.
        model = onnx.load(place, load_external_data=False)
    except Exception as error:  # protobuf's decoder raises its own errors.
        raise EmraError(
            "model-unreadable", "The file is not an ONNX model, or is truncated or damaged", "Copy the file again", path
        ) from error
    try:
        return Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    except EmraError as error:
        raise EmraError(error.code, error.cause, error.remedy, path) from error


def _with_runtime(path: Path) -> Manifest:
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path)
    backend.close()
    return backend.manifest


def onnx_beside(engine: str | os.PathLike[str]) -> Path | None:
    """The ONNX file of the same name as an engine, None when there is none."""
    place = Path(engine).with_suffix(".onnx")
    return place if place.is_file() else None
