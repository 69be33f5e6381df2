"""The model shipped with the package: INT8, converted from the repository's ``models/emra-ti-dubai.onnx``."""

from __future__ import annotations

from pathlib import Path

from emra_deploy.errors import EmraError

SHIPPED = "emra-ti-dubai.int8.onnx"


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
