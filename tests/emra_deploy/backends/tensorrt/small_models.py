"""A small vision transformer as real ONNX files in FP32, FP16 and INT8, with the contract of the project's models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from tests.onnx_models import CLASSES, MEAN, STD, make_manifest, scene

WIDTH, TOKENS, SIDE = 32, 16, 32
LINEARS = ("q", "k", "v", "out", "up", "down")
PRODUCTS = (*LINEARS, "scores", "mixed", "patches", "head")


class _Graph:
    """Nodes and weights, in one floating-point type."""

    def __init__(self, precision: str) -> None:
        self.random = np.random.default_rng(5)
        self.quantised = precision == "int8"
        self.half = precision != "fp32"
        self.type = np.float16 if self.half else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def linear(self, source: str, inner: int, outer: int, name: str) -> str:
        values = (self.random.standard_normal((inner, outer)) / inner**0.5).astype(np.float32)
        if not self.quantised:
            return self.node("MatMul", [source, self.weight(f"{name}_w", values.astype(self.type))], name)
        scales = np.abs(values).max(0) / 127
        eight = np.clip(np.round(values / scales), -127, 127).astype(np.int8)
        scale = self.weight(f"{name}_ws", scales.astype(self.type))
        zeros = self.weight(f"{name}_wz", np.zeros(outer, np.int8))
        step, zero = self.weight(f"{name}_xs", self.type(0.03)), self.weight(f"{name}_xz", np.int8(0))
        wide = self.node("DequantizeLinear", [self.weight(f"{name}_w", eight), scale, zeros], f"{name}_wd", axis=1)
        narrow = self.node("QuantizeLinear", [source, step, zero], f"{name}_xq")
        return self.node("MatMul", [self.node("DequantizeLinear", [narrow, step, zero], f"{name}_xd"), wide], name)

    def cast(self, source: str, name: str, kind: int) -> str:
        return self.node("Cast", [source], name, to=kind)


def build_graph(precision: str, batch: int | None = None) -> onnx.ModelProto:
    """One transformer block over patches of 8 pixels, 5 classes, uint8 in and out."""
    graph = _Graph(precision)
    half = TensorProto.FLOAT16 if graph.half else TensorProto.FLOAT
    first: int | str = "batch" if batch is None else batch
    unit = graph.node("Div", [graph.cast("image", "bytes", TensorProto.FLOAT), graph.weight("b", np.float32(255))], "u")
    centred = graph.node("Sub", [unit, graph.weight("mean", np.float32(MEAN))], "centred")
    normal = graph.node("Div", [centred, graph.weight("std", np.float32(STD))], "normal")
    planes = graph.cast(graph.node("Transpose", [normal], "planes", perm=[0, 3, 1, 2]), "typed", half)
    kernel = graph.weight("patch_w", (graph.random.standard_normal((WIDTH, 3, 8, 8)) / 14).astype(graph.type))
    patches = graph.node("Conv", [planes, kernel], "patches", strides=[8, 8])
    shape = graph.weight("rows", np.asarray([0, WIDTH, TOKENS], np.int64))
    tokens = graph.node("Transpose", [graph.node("Reshape", [patches, shape], "flat")], "tokens", perm=[0, 2, 1])
    scale = graph.weight("ln_w", np.ones(WIDTH, graph.type))
    shift = graph.weight("ln_b", np.zeros(WIDTH, graph.type))
    level = graph.node("LayerNormalization", [tokens, scale, shift], "ln")
    query, key, value = (graph.linear(level, WIDTH, WIDTH, name) for name in ("q", "k", "v"))
    scores = graph.node("MatMul", [query, graph.node("Transpose", [key], "kt", perm=[0, 2, 1])], "scores")
    shares = graph.node("Softmax", [scores], "shares", axis=-1)
    mixed = graph.linear(graph.node("MatMul", [shares, value], "mixed"), WIDTH, WIDTH, "out")
    joined = graph.node("Add", [tokens, mixed], "joined")
    inner = graph.node("Gelu", [graph.linear(joined, WIDTH, 2 * WIDTH, "up")], "gelu")
    end = graph.node("Add", [joined, graph.linear(inner, 2 * WIDTH, WIDTH, "down")], "end")
    classes = (graph.random.standard_normal((WIDTH, len(CLASSES))) / 3).astype(graph.type)
    logits = graph.node("MatMul", [end, graph.weight("head_w", classes)], "head")
    square = graph.weight("square", np.asarray([0, len(CLASSES), 4, 4], np.int64))
    small = graph.node("Reshape", [graph.node("Transpose", [logits], "lt", perm=[0, 2, 1]), square], "small")
    sizes = graph.weight("scales", np.asarray([1, 1, 8, 8], np.float32))
    wide = graph.node("Resize", [graph.cast(small, "full", TensorProto.FLOAT), "", sizes], "wide", mode="nearest")
    graph.cast(graph.node("ArgMax", [wide], "index", axis=1, keepdims=0), "classes", TensorProto.UINT8)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [first, SIDE, SIDE, 3])
    labels = helper.make_tensor_value_info("classes", TensorProto.UINT8, [first, SIDE, SIDE])
    made = helper.make_graph(graph.nodes, "small_vit", [image], [labels], graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save_model(path: Path, precision: str = "fp32", batch: int | None = None, **changes: object) -> Manifest:
    """Write the model with a Manifest whose golden tile is what ONNX Runtime answers, and return the Manifest."""
    import onnxruntime

    model = build_graph(precision, batch)
    picture = scene(SIDE, SIDE, seed=7)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [labels] = session.run(["classes"], {"image": np.repeat(picture[np.newaxis], batch or 1, axis=0)})
    golden = GoldenTile.encode(picture, labels[0], 0.0)
    manifest = replace(
        make_manifest((SIDE, SIDE), batch), precision=precision, golden=golden, name=f"small-{precision}"
    )
    manifest = replace(manifest, **changes)
    helper.set_model_props(model, manifest.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    return manifest
