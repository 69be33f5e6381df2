"""The Manifest of an ONNX file, where the model itself is not to be loaded: beside an engine, or on a bare device."""

from __future__ import annotations

import os
from pathlib import Path

from emra_deploy.errors import EmraError, about
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import check_model_seal


def manifest_of_onnx(path: str | os.PathLike[str]) -> Manifest:
    """Read the Manifest out of an ONNX file, with whichever library is here.

    Raises:
        EmraError: ``model-missing``, ``model-unreadable``, ``backend-missing``, and those of `Manifest`.
    """
    place = Path(path)
    if not place.is_file():
        raise EmraError("model-missing", "The ONNX file does not exist", "Give the file the engine was built of", path)
    try:
        import onnx
    except ImportError:
        return _with_runtime(place)
    check_model_seal(place)
    try:
        # The weights in other files are not needed, and not looked for.
        model = onnx.load(place, load_external_data=False)
    except Exception as error:  # Protobuf's decoder has errors of its own.
        raise EmraError(
            "model-unreadable", "The file is no ONNX model, or is cut short or damaged", "Copy the file again", path
        ) from error
    with about(path):
        return Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})


def _with_runtime(path: Path) -> Manifest:
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path)
    backend.close()
    return backend.manifest


def onnx_beside(engine: str | os.PathLike[str]) -> Path | None:
    """The ONNX file of the same name as an engine, None when there is none."""
    place = Path(engine).with_suffix(".onnx")
    return place if place.is_file() else None
