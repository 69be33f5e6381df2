"""Search for the node of an FP16 graph that overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.compare.runners import open_session
from export.graphs.view import GraphView
from export.half.rounding import with_rounding

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def first_overflow(half: onnx.ModelProto, feeds: dict[str, npt.NDArray[Any]]) -> onnx.NodeProto | None:
    """The first node whose FP16 result is infinite or NaN, or None if all are finite.

    Every FP16 tensor of the run is kept in memory, so call this only to locate a known fault.

    Args:
        half: A graph that `export.half.convert.convert_to_half` made.
        feeds: The graph's inputs.
    """
    view = GraphView(half)
    model = with_rounding(half)
    made = [(node, name) for node in view.nodes for name in node.output if view.type(name) == HALF]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for _, name in made)
    found = open_session(model).run([name for _, name in made], feeds)
    return next((node for (node, _), value in zip(made, found, strict=True) if not np.isfinite(value).all()), None)
