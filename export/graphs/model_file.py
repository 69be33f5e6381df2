"""Reading and writing of ONNX model files with their Manifest."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from emra_deploy import __version__
from emra_deploy.errors import EmraError, about, one_line
from emra_deploy.host.files import check_input
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.seal import check_model_seal, seal_model

OPSET = 20
"""The newest that TensorRT 10.3 reads, and the first with Gelu as one operator."""

_REMEDY = "Copy the file again and compare its size, or export it again with python -m export.to_onnx"


@dataclass(frozen=True)
class WrittenModel:
    """A model file that was written and checked.

    Attributes:
        path: The file.
        manifest: Of the file.
        checks: One line per check, in the order in which they ran.
        size: Bytes.
    """

    path: Path
    manifest: Manifest
    checks: tuple[str, ...]
    size: int


def read_model(path: str | Path, *, check: bool = True) -> tuple[onnx.ModelProto, Manifest]:
    """The graph with all its weights, and the Manifest.

    Args:
        path: An ``.onnx`` file; external weights are read from its folder and nowhere else.
        check: Whether to run ONNX's checker on the graph.

    Raises:
        EmraError: ``model-format``, ``model-unreadable``, ``model-damaged``, ``model-external-data``,
            ``manifest-missing`` and the other codes of the Manifest, and those of `emra_deploy.host.files.check_input`.
    """
    path = check_input(path)
    if path.suffix.lower() != ".onnx":
        raise EmraError(
            "model-format", f"the name of the model file ends in {path.suffix!r}, expected '.onnx'", "Give it", path
        )
    check_model_seal(path)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no base but Exception.
        raise _unreadable(path, error) from error
    if not model.graph.node or not model.opset_import:
        # Protobuf reads many kinds of rubbish as a message without fields.
        raise _unreadable(path, ValueError("it holds no graph"))
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises its checker's error, OSError and ValueError here.
        raise EmraError(
            "model-external-data",
            "weights that the model keeps in other files are missing, cut or outside its folder"
            f" ({one_line(error, 200)})",
            "Put all files of the model into one folder, or get the model from a source you trust",
            path,
        ) from error
    try:
        if check:
            onnx.checker.check_model(model)
    except Exception as error:  # The checker's own error, or protobuf's when it cannot write the message.
        raise _unreadable(path, error) from error
    with about(path):
        manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    return model, manifest


def write_model(model: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Write a model and its Manifest as one file, without external data, and seal it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, manifest.to_metadata())
    onnx.save_model(copy, path)
    seal_model(path)


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its logits as an output, for checks of a file that does not have them as one.

    A graph without an ArgMax is returned unchanged.
    """
    if any(output.name == "logits" for output in model.graph.output):
        return model
    last = next((node for node in reversed(model.graph.node) if node.op_type == "ArgMax"), None)
    if last is None:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    source = last.input[0]
    # Every library removes a cast of FP32 to FP32, so the type need not be known; a graph may already have a tensor
    # called logits.
    if source != "logits":
        copy.graph.node.append(helper.make_node("Cast", [source], ["logits"], name="logits_cast", to=TensorProto.FLOAT))
    copy.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    return copy


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses, 0 for none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def has_half(model: onnx.ModelProto) -> bool:
    """Whether the graph computes in FP16; weights that are only stored in FP16 do not count."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(
        node.op_type == "Cast" and node.input[0] not in constants and attribute.i == TensorProto.FLOAT16
        for node in model.graph.node
        for attribute in node.attribute
    )


def tool_versions(*packages: str) -> dict[str, str]:
    """Versions of this project and of those packages that are installed, for a Manifest or sidecar."""
    tools = {"emra-deploy": __version__}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            tools[package] = version(package)
    return tools


def _unreadable(path: Path, error: Exception) -> EmraError:
    return EmraError(
        "model-unreadable",
        f"not a whole ONNX model: it may be truncated, damaged or of another kind ({one_line(error, 200)})",
        _REMEDY,
        path,
    )
