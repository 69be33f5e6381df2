"""Small model files that the trials run: each pixel gets the class whose colour is nearest."""

from __future__ import annotations

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
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Rectangles in colours between those of the classes, with noise: uint8 H x W x 3."""
    chance = np.random.default_rng(seed)
    made = np.empty((height, width, 3), np.float64)
    made[:] = CLASSES.palette[1]
    for _ in range(14):
        top, left = chance.integers(0, height), chance.integers(0, width)
        first, second = chance.integers(len(CLASSES), size=2)
        share = chance.random()
        colour = share * np.asarray(CLASSES.palette[first]) + (1 - share) * np.asarray(CLASSES.palette[second])
        made[top : top + max(1, height // 3), left : left + max(1, width // 3)] = colour
    return np.clip(made + chance.integers(-20, 21, made.shape), 0, 255).astype(np.uint8)


def nearest_colour(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What the models answer, computed without one: uint8 H x W."""
    weight, bias = _scores()
    scaled = (image.astype(np.float32) / 255 - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)
    labels: npt.NDArray[np.uint8] = np.argmax(scaled @ weight.T + bias, axis=-1).astype(np.uint8)
    return labels


def make_manifest(side: int) -> Manifest:
    """Of `write_model`'s file."""
    golden = picture(side, side, seed=7)
    return Manifest(
        name="nearest-colour",
        classes=CLASSES,
        mean=_MEAN,
        std=_STD,
        backbone="none",
        hra_block=3,
        mca_blocks=4,
        fusion="product",
        aggregation="streamed",
        input_shape=(None, side, side),
        gsd=0.3,
        tools={"onnx": "benchmark"},
        evidence={"miou": 0.5, "of": ["a", {"b": 1}]},
        golden=GoldenTile.encode(golden, nearest_colour(golden), 0.0),
    )


def write_model(path: Path, side: int = 32) -> Manifest:
    """Write the model: normalise, a 1 x 1 convolution, argmax.

    Args:
        path: The ``.onnx`` file.
        side: Height and width of its input.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight, bias = _scores()
    weights: list[Any] = [
        numpy_helper.from_array(value, name)
        for name, value in {
            "weight": weight[:, :, None, None],
            "bias": bias,
            "scale": np.asarray(255, np.float32),
            "mean": np.asarray(_MEAN, np.float32),
            "std": np.asarray(_STD, np.float32),
        }.items()
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["bytes", "scale"], ["unit"]),
        helper.make_node("Sub", ["unit", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node("Transpose", ["normal"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["classes"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", side, side, 3])
    labels = helper.make_tensor_value_info("classes", TensorProto.UINT8, ["batch", side, side])
    graph = helper.make_graph(nodes, "nearest_colour", [image], [labels], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = make_manifest(side)
    helper.set_model_props(model, manifest.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    return manifest


def _scores() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    # |x - c|^2 is smallest where 2 c x - |c|^2 is largest.
    centres = (np.asarray(CLASSES.palette, np.float64) / 255 - _MEAN) / _STD
    return (2 * centres).astype(np.float32), -(centres**2).sum(1).astype(np.float32)
