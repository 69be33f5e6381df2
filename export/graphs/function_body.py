"""The ONNX form of `emra::AttentionAggregation`: one node, and a function body for runtimes without a plugin for it.

TensorRT's parser looks the node up in its plugin registry. The body is the streamed form of
`training.model.aggregation` in standard operators, so ONNX Runtime, OpenVINO (after `onnx.inliner`), TensorRT without
the plugin and TensorRT-RTX compute the same from the same file.

The body defines the operator for any attributes and sizes: it reads heads, class tokens and scale from the node, and
all sizes from its inputs. Two things are fixed when it is made: P, because ONNX functions have no variadic inputs, and
the width that the values of the second attention are padded to, which does not affect the result.

Each TensorRT chooses between the two (`parseNode` of onnx-tensorrt's ModelImporter.cpp):

* before 10.7 it takes the body if there is one, so `drop_body` makes the file for the plugin there;
* from 10.7 to 10.14 it takes a registered plugin of the node's name, version and namespace, else the body;
* since 10.15 it takes the body, unless the node has an attribute ``plugin_namespace``, as ours has, and such a plugin
  is registered;
* TensorRT-RTX has no plugins and takes the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

DOMAIN = "emra"
OPERATOR = "AttentionAggregation"
DOMAIN_VERSION = 1
PLUGIN_VERSION = "1"

OPSET = 20
"""Of the operators in the body."""

GAIN = 1024.0
"""Factor on the class rows before the second attention, divided out of GCA after it. The rows are about 1 / N, of which
FP16 keeps fewer digits the longer the sequence; multiplied by this they keep all, and stay below it."""


def schema() -> OpSchema:
    """The operator's schema in ONNX's terms."""
    return OpSchema(
        OPERATOR,
        DOMAIN,
        DOMAIN_VERSION,
        "GCA, B x C x N, of P packed qkv tensors, B x T x 3D.",
        inputs=[OpSchema.FormalParameter("qkv", "T", param_option=OpSchema.FormalParameterOption.Variadic)],
        outputs=[OpSchema.FormalParameter("gca", "tensor(float)")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "all alike")],
        attributes=[
            OpSchema.Attribute("num_heads", OpSchema.AttrType.INT, "heads of each block", required=True),
            OpSchema.Attribute("num_class_tokens", OpSchema.AttrType.INT, "C, the first tokens", required=True),
            OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, "factor on Q K^T", required=True),
        ],
    )


def aggregation_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes of the operator in a model's graph."""
    return [node for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, OPERATOR)]


def mark_for_plugin(model: ModelProto) -> None:
    """Name, in place, the plugin that TensorRT's parser has to look up; see the top of this file."""
    for number, node in enumerate(aggregation_nodes(model)):
        node.name = f"attention_aggregation_{number}" if number else "attention_aggregation"
        kept = [attribute for attribute in node.attribute if not attribute.name.startswith("plugin_")]
        del node.attribute[:]
        # In a fixed order, so that equal models are equal files.
        node.attribute.extend(sorted([*kept, *_plugin_attributes()], key=lambda attribute: attribute.name))


def add_body(model: ModelProto, head_width: int) -> None:
    """Add, in place, the operator's body for this model's P.

    Args:
        model: A model with at least one node of the operator, all with the same number of inputs.
        head_width: Head width of the model's attention.
    """
    drop_body(model)
    nodes = aggregation_nodes(model)
    counts = {len(node.input) for node in nodes}
    if len(counts) != 1:
        raise ValueError(f"the model's aggregations have {sorted(counts)} inputs, expected one number")
    classes = max(attribute.i for node in nodes for attribute in node.attribute if attribute.name == "num_class_tokens")
    model.functions.append(function_body(counts.pop(), max(head_width, classes)))


def drop_body(model: ModelProto) -> None:
    """Remove the operator's body, in place; the file then needs the plugin."""
    kept = [body for body in model.functions if (body.domain, body.name) != (DOMAIN, OPERATOR)]
    del model.functions[:]
    model.functions.extend(kept)


def function_body(num_blocks: int, value_width: int) -> FunctionProto:
    """The operator, composed of standard ones.

    Inputs are P packed qkv tensors, B x T x 3D, all FP32 or all FP16; the output is GCA, B x C x N, FP32. Class rows,
    means and sums are FP32; the second attention has the inputs' type, so that TensorRT can fuse it.

    Args:
        num_blocks: P.
        value_width: Width that values are padded to where C is smaller; fused attention wants the head width.
    """
    body = _Body()
    scale = body.attribute("scale", AttributeProto.FLOAT)
    # Shapes are one-dimensional, attributes are numbers.
    one = body.integers(1)
    heads = body.add("Reshape", body.attribute("num_heads", AttributeProto.INT), one)
    classes = body.add("Reshape", body.attribute("num_class_tokens", AttributeProto.INT), one)
    zero, end = body.integers(0), body.integers(np.iinfo(np.int64).max)
    # B, T, heads, head width: a zero takes over the size, so no shape is computed while the model runs.
    split = body.add("Concat", body.integers(0, 0), heads, body.integers(-1), axis=0)
    inputs = [f"{DOMAIN}_qkv_{block}" for block in range(num_blocks)]
    over_heads, of_tokens, of_keys = one, body.integers(2), body.integers(3)

    patches, keys, rows = [], [], []
    for packed in inputs:
        q, k, _ = body.several("Split", 3, packed, axis=2, num_outputs=3)
        q = body.add("Transpose", body.add("Reshape", q, split), perm=[0, 2, 1, 3])
        k = body.add("Transpose", body.add("Reshape", k, split), perm=[0, 2, 3, 1])
        # Scaled before the product: in FP16 the product of a long head would pass 65504.
        q = body.add("Mul", q, body.add("CastLike", scale, packed))
        scores = body.add("MatMul", body.single(body.add("Slice", q, zero, classes, of_tokens)), body.single(k))
        rows.append(body.add("ReduceMean", body.add("Softmax", scores, axis=-1), over_heads, keepdims=1))
        patches.append(body.add("Slice", q, classes, end, of_tokens))
        keys.append(k)

    # c2p^T, with zeros for the class tokens among the keys and for the columns that C lacks of the value width.
    c2p = body.add("Slice", body.total(rows), classes, end, of_keys)
    values = body.add("Transpose", body.add("Mul", c2p, body.number(GAIN / num_blocks)), perm=[0, 1, 3, 2])
    missing = body.add("Max", body.add("Sub", body.integers(value_width), classes), zero)
    pads = body.add("Concat", body.integers(0, 0), classes, body.integers(0, 0, 0, 0), missing, axis=0)
    values = body.add("Pad", values, pads)

    means = []
    for packed, q, k in zip(inputs, patches, keys, strict=True):
        weights = body.add("Softmax", body.add("MatMul", q, k), axis=-1)
        spread = body.add("MatMul", weights, body.add("CastLike", values, packed))
        means.append(body.add("ReduceMean", body.single(spread), over_heads, keepdims=0))
    gca = body.add("Slice", body.total(means), zero, classes, of_tokens)
    gca = body.add("Mul", gca, body.number(1 / (GAIN * num_blocks)))
    gca = body.add("Transpose", gca, perm=[0, 2, 1])

    made = helper.make_function(
        DOMAIN,
        OPERATOR,
        inputs,
        [gca],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        ["num_heads", "num_class_tokens", "scale"],
        # The body does not use them; ONNX Runtime refuses nodes with attributes that their function does not list.
        _plugin_attributes(),
    )
    made.doc_string = f"GCA of {num_blocks} blocks in O(T) memory: class rows, then attention whose values are c2p^T."
    return made


class _Body:
    """The body's nodes in execution order, with names that no surrounding graph has.

    TensorRT before 10.8 confuses a name inside a function with the same name outside.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def several(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node and return the names of its outputs."""
        names = [f"{DOMAIN}_{operator}_{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        return self.several(operator, 1, *inputs, **attributes)[0]

    def integers(self, *values: int) -> str:
        """A constant one-dimensional INT64 tensor."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(values, np.int64)))

    def number(self, value: float) -> str:
        """A constant FP32 number."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value, np.float32)))

    def attribute(self, name: str, kind: int) -> str:
        """The value of an attribute of the node that the body replaces, as a number."""
        output = self.add("Constant")
        reference = self.nodes[-1].attribute.add()
        reference.name = "value_float" if kind == AttributeProto.FLOAT else "value_int"
        reference.ref_attr_name = name
        reference.type = kind
        return output

    def single(self, name: str) -> str:
        """The tensor in FP32."""
        return self.add("Cast", name, to=TensorProto.FLOAT)

    def total(self, names: Sequence[str]) -> str:
        """The sum of tensors of one shape."""
        total = names[0]
        for name in names[1:]:
            total = self.add("Add", total, name)
        return total


def _plugin_attributes() -> list[AttributeProto]:
    return [
        helper.make_attribute("plugin_namespace", DOMAIN),
        helper.make_attribute("plugin_version", PLUGIN_VERSION),
    ]
