"""Small real ONNX models with the contract of the project's model files, for tests.

The graph classifies each pixel as the class whose palette colour is nearest (in normalised RGB): a
normalisation, a 1×1 convolution and an argmax. So what it must answer is known for any picture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest

CLASSES = ClassSet(
    ("water", "land", "road", "building", "vegetation"),
    ((20, 60, 200), (190, 160, 110), (90, 90, 90), (230, 40, 40), (30, 150, 40)),
)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def nearest_colour(image: npt.NDArray[np.uint8], classes: ClassSet = CLASSES) -> npt.NDArray[np.uint8]:
    """The labels that the models give: uint8 H×W for a uint8 H×W×3 picture."""
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    pixels = (image.astype(np.float32) / 255 - mean) / std
    weight, bias = _scores(classes)
    labels: npt.NDArray[np.uint8] = np.argmax(pixels @ weight.T + bias, axis=-1).astype(np.uint8)
    return labels


def scene(height: int, width: int, seed: int = 0, classes: ClassSet = CLASSES) -> npt.NDArray[np.uint8]:
    """A picture of rectangles in the classes' colours with a little noise: uint8 H×W×3."""
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        labels[top : top + max(1, height // 3), left : left + max(1, width // 3)] = random.integers(len(classes))
    noise = random.integers(-8, 9, (height, width, 3))
    return np.clip(np.asarray(classes.palette)[labels] + noise, 0, 255).astype(np.uint8)


def make_manifest(
    size: tuple[int, int] = (32, 32),
    batch: int | None = None,
    classes: ClassSet = CLASSES,
    heads: tuple[str, ...] = ("classes",),
    input_kind: str = "uint8",
    golden: bool = True,
) -> Manifest:
    """The Manifest that goes with `build_model` of the same arguments."""
    picture = scene(*size, seed=7, classes=classes)
    return Manifest(
        name="nearest-colour",
        classes=classes,
        mean=MEAN,
        std=STD,
        backbone="none",
        hra_block=3,
        mca_blocks=4,
        fusion="product",
        aggregation="streamed",
        input_shape=(batch, *size),
        input_kind=input_kind,
        heads=heads,
        gsd=0.3,
        tools={"onnx": "test"},
        evidence={"miou": 0.5},
        golden=GoldenTile.encode(picture, nearest_colour(picture, classes), 0.0) if golden else None,
    )


def build_model(
    path: Path,
    size: tuple[int, int] = (32, 32),
    batch: int | None = None,
    classes: ClassSet = CLASSES,
    heads: tuple[str, ...] = ("classes",),
    input_kind: str = "uint8",
    golden: bool = True,
    manifest: Manifest | None = None,
    metadata: bool = True,
    **changes: Any,
) -> Manifest:
    """Write an ONNX model and return its Manifest.

    Args:
        path: The file to write.
        size: Height and width of the input.
        batch: Fixed batch, or None for a dynamic one.
        classes: The classes that the graph distinguishes.
        heads: Outputs, of ``classes``, ``logits``, ``confidence``.
        input_kind: ``uint8`` (B×H×W×3) or ``float`` (normalised B×3×H×W).
        golden: Whether the Manifest has a golden tile.
        manifest: A Manifest to write in place of the fitting one.
        metadata: False leaves the Manifest out of the file.
        **changes: Fields of the Manifest to replace.
    """
    import onnx

    manifest = manifest or make_manifest(size, batch, classes, heads, input_kind, golden)
    manifest = replace(manifest, **changes)
    model = build_graph(size, batch, classes, heads, input_kind)
    if metadata:
        onnx.helper.set_model_props(model, manifest.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    return manifest


def build_graph(
    size: tuple[int, int],
    batch: int | None = None,
    classes: ClassSet = CLASSES,
    heads: tuple[str, ...] = ("classes",),
    input_kind: str = "uint8",
) -> Any:
    """The ``onnx.ModelProto`` alone, without metadata."""
    from onnx import TensorProto, helper, numpy_helper

    height, width = size
    first: int | str = "batch" if batch is None else batch
    weight, bias = _scores(classes)
    weights = [
        numpy_helper.from_array(weight[:, :, None, None], "weight"),
        numpy_helper.from_array(bias, "bias"),
    ]
    nodes = []
    if input_kind == "uint8":
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [first, height, width, 3])
        weights += [
            numpy_helper.from_array(np.float32(255), "scale"),
            numpy_helper.from_array(np.asarray(MEAN, np.float32), "mean"),
            numpy_helper.from_array(np.asarray(STD, np.float32), "std"),
        ]
        nodes += [
            helper.make_node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["bytes", "scale"], ["unit"]),
            helper.make_node("Sub", ["unit", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["normal"]),
            helper.make_node("Transpose", ["normal"], ["planes"], perm=[0, 3, 1, 2]),
        ]
    else:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [first, 3, height, width])
        nodes.append(helper.make_node("Identity", ["image"], ["planes"]))
    nodes.append(helper.make_node("Conv", ["planes", "weight", "bias"], ["logits"]))
    outputs = []
    if "classes" in heads:
        nodes += [
            helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
            helper.make_node("Cast", ["index"], ["classes"], to=TensorProto.UINT8),
        ]
        outputs.append(helper.make_tensor_value_info("classes", TensorProto.UINT8, [first, height, width]))
    if "logits" in heads:
        shape = [first, len(classes), height, width]
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))
    if "confidence" in heads:
        weights.append(numpy_helper.from_array(np.asarray([1], np.int64), "axes"))
        nodes += [
            helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
            helper.make_node("ReduceMax", ["shares", "axes"], ["confidence"], keepdims=0),
        ]
        outputs.append(helper.make_tensor_value_info("confidence", TensorProto.FLOAT, [first, height, width]))
    graph = helper.make_graph(nodes, "nearest_colour", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _scores(classes: ClassSet) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    # |x - c|² is smallest where 2 c·x - |c|² is largest.
    centres = (np.asarray(classes.palette, np.float64) / 255 - MEAN) / STD
    return (2 * centres).astype(np.float32), -(centres**2).sum(1).astype(np.float32)
