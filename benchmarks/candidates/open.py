"""Opening of candidates from specifications; only the libraries that are needed are imported."""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.spec import Spec, installed
from benchmarks.candidates.timed import TimedBackend
from emra_deploy.backends.tensorrt import flavour
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command

_FILES = ("onnx", "engine")
_EXTRAS = {"onnxruntime": "runtime", "openvino": "openvino", "torch": "train", "torch-compile": "train"}


def _how_to_get(backend: str) -> str:
    if backend == "tensorrt":
        return flavour.GET
    return f"Run: {install_command(_EXTRAS[backend])}"


def open_candidate(spec: Spec, check: bool = True) -> TimedBackend:
    """Load the candidate of a specification.

    Args:
        spec: The requested candidate.
        check: Whether a file's self-test is run.

    Raises:
        EmraError: ``backend-missing``, and any fault of the model.
    """
    if not installed(spec.backend):
        raise EmraError("backend-missing", f"{spec.backend} is not installed", _how_to_get(spec.backend), spec.path)
    if spec.kind in _FILES:
        from benchmarks.candidates.files import open_file

        return open_file(spec, check)
    try:
        from benchmarks.candidates.torch_models import open_torch
    except ImportError as error:
        raise EmraError("backend-missing", f"{error.name} is not installed", _how_to_get("torch")) from error
    return open_torch(spec)


def describe_manifest(spec: Spec, backend: TimedBackend) -> dict[str, Any] | None:
    """The part of a model file's Manifest to report with its figures; None for other models."""
    if spec.kind not in _FILES:
        return None
    manifest = backend.manifest
    return {
        "name": manifest.name,
        "precision": manifest.precision,
        "backbone": manifest.backbone,
        "aggregation": manifest.aggregation,
        "zoom": manifest.zoom,
        "input_shape": list(manifest.input_shape),
        "classes": list(manifest.classes.names),
        "parent_sha256": manifest.parent_sha256,
        "tools": manifest.tools,
        "evidence": manifest.evidence,
    }
