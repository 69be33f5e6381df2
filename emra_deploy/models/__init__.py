"""The model shipped with the package: INT8, converted from the repository's ``models/emra-ti-dubai.onnx``."""

from __future__ import annotations

from pathlib import Path

from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

SHIPPED = "emra-ti-dubai.int8.onnx"

_GSD = {"emra-ti-dubai": (1.0, 2.0)}
"""Ranges of models whose files were made before a Manifest could hold one, by their names: docs/model-card.md."""


def gsd_of(manifest: Manifest) -> float | tuple[float, float] | None:
    """The ground sample distance that a model was trained on, or its range, in metres a pixel."""
    return _GSD.get(manifest.name) if manifest.gsd is None else manifest.gsd


def shipped_model() -> Path:
    """The path of the model shipped with the package.

    Raises:
        EmraError: ``model-missing`` if this copy of the package was built without it.
    """
    path = Path(__file__).resolve().parent / SHIPPED
    if not path.is_file():
        raise EmraError(
            "model-missing",
            "This copy of emra-deploy has no model in it",
            "Install emra-deploy again, or name a model file with --model",
            path,
        )
    return path
