"""The ONNX file that an engine is built from, checked and prepared for TensorRT's parser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import inliner

from emra_deploy.backends.tensorrt.flavour import Flavour
from emra_deploy.backends.tensorrt.precision import asked_products, check_asked
from emra_deploy.errors import EmraError, about, one_line
from emra_deploy.host.digest import file_sha256
from emra_deploy.model_file.manifest import Manifest
from export.graphs.function_body import DOMAIN, drop_body
from export.graphs.model_file import opset_of, read_model

_AGAIN = "Copy the file again and compare its size, or export it again with python -m export.to_onnx"


@dataclass(frozen=True)
class InputModel:
    """A checked model.

    Attributes:
        path: The file.
        model: The graph for the parser: node names are unique, and operators of ``emra`` are replaced by their bodies,
            or kept without bodies for a plugin.
        manifest: Manifest of the file.
        sha256: Hash of the file.
        asked: Precision that the graph asks of each matrix product; see `emra_deploy.backends.tensorrt.precision`.
        operators: Operators of ``emra`` that a plugin is to run.
        has_body: Whether the file defines operators of ``emra`` by function bodies.
    """

    path: Path
    model: onnx.ModelProto
    manifest: Manifest
    sha256: str
    asked: dict[str, str]
    operators: tuple[str, ...]
    has_body: bool


def read_input_model(path: str | Path, flavour: Flavour, *, plugin: bool) -> InputModel:
    """Read a model for a build.

    Args:
        path: The ONNX file.
        flavour: The library that will parse it.
        plugin: Whether a plugin runs the operators of ``emra``.

    Raises:
        EmraError: Those of `export.graphs.model_file.read_model`; ``model-opset``, ``precision-mismatch`` and
            ``plugin-unused``.
    """
    # Without ONNX's checker: an opset that TensorRT does not read has an error of its own.
    model, manifest = read_model(path, check=False)
    with about(path):
        _check_opset(model, flavour)
        has_body = any(body.domain == DOMAIN for body in model.functions)
        model, operators = _settle_functions(model, plugin)
        name_nodes(model)
        asked = asked_products(model)
        check_asked(asked, manifest.precision)
    return InputModel(Path(path), model, manifest, file_sha256(path), asked, operators, has_body)


def name_nodes(model: onnx.ModelProto) -> None:
    """Make node names unique, in place: an engine's layers refer to them."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            base = node.output[0] if node.output and node.output[0] else node.op_type
            node.name = f"{base}_node{index}"
        seen.add(node.name)


def _check_opset(model: onnx.ModelProto, flavour: Flavour) -> None:
    version = opset_of(model)
    low, high = flavour.opsets
    if not low <= version <= high:
        raise EmraError(
            "model-opset",
            f"The model has opset {version}, and the parser of {flavour.title} reads {low} to {high}",
            "Export the model again with python -m export.to_onnx, which writes opset 20",
        )


def _settle_functions(model: onnx.ModelProto, plugin: bool) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Inline the function bodies, or drop those whose operators a plugin runs.

    TensorRT's choice between a plugin and a body depends on its version, so the file leaves it none.
    """
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    if plugin and not used:
        raise EmraError(
            "plugin-unused",
            "The model has no operator for a plugin to run",
            "Omit --plugin, or export with --aggregation plugin",
        )
    if plugin:
        _note_shapes(model)
        drop_body(model)
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:
            raise EmraError(
                "model-unreadable", f"Its functions cannot be put in place ({one_line(error)})", _AGAIN
            ) from error
    return model, tuple(sorted(used)) if plugin else ()


def _note_shapes(model: onnx.ModelProto) -> None:
    """Record, in place, the output shapes of operators that are about to lose the bodies that define them."""
    if not model.functions:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(inliner.inline_local_functions(model), data_prop=True)
    except Exception as error:
        raise EmraError(
            "model-unreadable", f"Its functions cannot be put in place ({one_line(error)})", _AGAIN
        ) from error
    wanted = {name for node in model.graph.node if node.domain == DOMAIN for name in node.output}
    wanted -= {value.name for value in model.graph.value_info}
    model.graph.value_info.extend(value for value in inferred.graph.value_info if value.name in wanted)
