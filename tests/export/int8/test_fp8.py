"""FP8 (E4M3) instead of INT8: the claims of decision 0007. No command writes FP8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.tensorrt.flavour import RTX, load_flavour
from emra_deploy.backends.tensorrt.precision import parse_layer_lines, realised
from emra_deploy.backends.tensorrt.sidecar import Flags
from export.compare.comparison import compare
from export.compare.runners import OnnxRunner
from export.engine.builder import Request, build, make_profile
from export.engine.input_model import read_input_model
from export.engine.progress import BuildProgress
from export.graphs.model_file import read_model, write_model
from export.int8.linears import choose_linears, constant_tensors, find_linears
from export.int8.qdq import LEVELS, insert_qdq
from export.int8.ranges import collect_magnitudes, ranges_of
from training.data.scenes import generate

pytest.importorskip("openvino")
pytest.importorskip("tensorrt_rtx_bindings")

LARGEST = 448.0
"""Of E4M3 without infinities, float8e4m3fn."""


def as_fp8(model: onnx.ModelProto, single: onnx.ModelProto) -> onnx.ModelProto:
    """The INT8 graph with FP8 instead of INT8: zero points and weights of that type, scales to its largest number.

    Args:
        model: What `insert_qdq` gave.
        single: What it was made of, whose weights are rounded anew.
    """
    weights = {linear.name: linear for linear in find_linears(single)}
    before = constant_tensors(single.graph)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".scale"):
            scale = numpy_helper.to_array(tensor) * np.float32(LEVELS / LARGEST)
            tensor.CopyFrom(numpy_helper.from_array(scale, tensor.name))
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.INT8:
            continue
        values = np.zeros(list(tensor.dims), np.float32)
        if tensor.name.endswith(".weight.int8"):
            linear = weights[tensor.name.removesuffix(".weight.int8")]
            shape = [1] * values.ndim
            shape[linear.axis] = -1
            exact = numpy_helper.to_array(before[linear.weight]).astype(np.float32)
            values = exact / scales[tensor.name.replace(".int8", ".scale")].reshape(shape)
        made = helper.make_tensor(tensor.name, TensorProto.FLOAT8E4M3FN, tensor.dims, values.ravel().tolist())
        tensor.CopyFrom(made)
    return model


def test_the_builder_makes_fp8_kernels_and_the_labels_stay(small_file: Path, tmp_path: Path) -> None:
    single, manifest = read_model(small_file)
    # A convolution of three channels has no FP8 kernel: the builder computes it in FP32, as `realised` shows.
    linears = choose_linears(find_linears(single), ["patch_embed"])
    calibration = np.stack([generate(seed, 64, 64).image for seed in range(4)])
    ranges = ranges_of(collect_magnitudes(single, linears, manifest, calibration), "minmax")
    model = as_fp8(insert_qdq(single, linears, ranges), single)
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "m.onnx"
    # The Manifest has no name for FP8; the requested precision is read from the graph.
    write_model(model, replace(manifest, precision="int8"), path)

    flavour = load_flavour(RTX)
    source = read_input_model(path, flavour, plugin=False)
    built = build(source, Request(make_profile(source, None, None, 1), Flags()), flavour, BuildProgress())
    assert realised(parse_layer_lines(built.messages.layers), source.asked).counts["fp8"] == len(linears)

    from emra_deploy.backends.openvino import OpenVinoBackend

    tiles = np.stack([generate(seed, 64, 64).image for seed in range(20, 28)])
    other = OpenVinoBackend(path, LoadOptions(precision="fp32"))
    found = compare(OnnxRunner(single, manifest), other, tiles)
    # Three bits of fraction where INT8 has up to seven.
    assert 0.98 <= found.agreement < 1
