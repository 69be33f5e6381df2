"""Emulation of an FP16 graph in FP32: every tensor that the graph holds in FP16 is rounded to FP16 where it is made.

Libraries on the CPU may compute an FP16 graph in FP32 and round only some tensors, so their results say little about
the graph. Here a Cast to FP16 and back rounds each FP16 tensor, and ONNX Runtime keeps these casts (tested). A GPU that
fuses nodes rounds fewer tensors and accumulates in FP32 as this does, so the emulation is the worst case.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs.view import GraphView
from export.half.rules import MOVES

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def with_rounding(half: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in FP32, with each tensor that is FP16 in the given one rounded.

    Args:
        half: A result of `export.half.convert.convert_to_half`. It is not changed.
    """
    view = GraphView(half)
    model = onnx.ModelProto()
    model.CopyFrom(half)
    graph = model.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    for tensor in half.graph.initializer:
        if tensor.data_type == HALF:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor = numpy_helper.from_array(values, tensor.name)
        graph.initializer.append(tensor)
    for node in half.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        if node.op_type == "Cast":
            attribute = next(a for a in copy.attribute if a.name == "to")
            attribute.i = FLOAT if attribute.i == HALF else attribute.i
        # Their inputs are rounded already.
        if node.op_type in MOVES:
            continue
        for place, name in enumerate(node.output):
            if view.type(name) == HALF:
                exact, rounded = f"{name}_exact", f"{name}_rounded"
                copy.output[place] = exact
                graph.node.append(helper.make_node("Cast", [exact], [rounded], name=rounded, to=HALF))
                graph.node.append(helper.make_node("Cast", [rounded], [name], name=f"{name}_back", to=FLOAT))
    return model
