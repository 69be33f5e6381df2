"""The ONNX side of an export: tracing, trimming, half-precision storage, on ModelProto values."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from export.graphs import function_body
from export.graphs.deployed import HALF_FROM_BYTES, Deployed
from export.graphs.model_file import OPSET

MAX_DYNAMIC_BATCH = 4096
BATCH = "batch"


def trace(deployed: Deployed, batch: int | None) -> onnx.ModelProto:
    """The graph of a deployed model, without Manifest.

    Args:
        deployed: In evaluation mode.
        batch: The one batch size that the graph takes, or None for any, named `BATCH`.
    """
    height, width = deployed.model.config.image_size
    count = 2 if batch is None else batch
    if deployed.input_kind == "uint8":
        example = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    else:
        example = torch.zeros(count, 3, height, width)
    free = {"image": {0: torch.export.Dim(BATCH, min=1, max=MAX_DYNAMIC_BATCH)}} if batch is None else None
    with quiet():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(deployed.heads),
            dynamic_shapes=free,
            optimize=True,
            verbose=False,
            custom_translation_table={torch.ops.emra.attention_aggregation.default: _aggregation_node},
        )
    assert program is not None
    model = program.model_proto
    trim(model)
    if deployed.model.config.aggregation == "plugin":
        function_body.mark_for_plugin(model)
        blocks: Any = deployed.model.backbone.blocks
        function_body.add_body(model, blocks[0].attn.head_dim)
    return model


def _aggregation_node(qkv: Sequence[Any], num_heads: int, num_class_tokens: int, scale: float) -> Any:
    """The node that the tracer writes for the operator."""
    from onnxscript.values import Op, Opset

    domain = Opset(function_body.DOMAIN, function_body.DOMAIN_VERSION)
    operator = Op(domain, function_body.OPERATOR, function_body.schema())
    return operator(*qkv, num_heads=num_heads, num_class_tokens=num_class_tokens, scale=scale)


def trim(model: onnx.ModelProto) -> None:
    """Remove, in place, the tracer's notes on source files: they are bulky and hold paths of the machine."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.name = "emra_proxy"
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for entry in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    model.producer_name = "emra-deploy"
    model.producer_version = ""


def store_halves(model: onnx.ModelProto) -> int:
    """Store, in place, each large FP32 weight as FP16 and a Cast back to FP32, where that loses nothing.

    The model still computes in FP32; runtimes fold the casts when they load it. Weights that
    `export.graphs.deployed.round_weights` rounded lose nothing.

    Returns:
        How many bytes were saved.
    """
    graph = model.graph
    casts = []
    saved = 0
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.nbytes <= HALF_FROM_BYTES:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_to_float", to=TensorProto.FLOAT))
        saved += halves.nbytes
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return saved


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the tracer's progress and its deprecation warnings about itself off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
