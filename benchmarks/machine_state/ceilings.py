"""Ceilings of this machine: bytes per second of a copy, operations per second of a matrix product in each precision.

A ceiling is the best of several libraries and repetitions, as slower repetitions say nothing about a bound. Each names
the library that reached it.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 1536
"""Of the square matrices: 7.2 GFLOP a product, tens of milliseconds on two cores."""

COPY_BYTES = 256 * 2**20
"""Of the array that is copied: several times any processor's last cache."""

REPEATS = 7


Ceiling = dict[str, Any]
"""JSON values: ``per_second``, bytes or operations, and ``by``, the library that reached it."""


def measure_host(threads: int | None = None, side: int = SIDE, copy_bytes: int = COPY_BYTES) -> dict[str, Any]:
    """Ceilings of the processor.

    Args:
        threads: Threads of all libraries; None for the usable cores.
        side: Side of the matrices.
        copy_bytes: Size of the copied array.

    Returns:
        ``bandwidth`` and ``compute`` by precision, as JSON values.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = threads or cores
    compute: dict[str, Ceiling] = {}
    for precision, by, run in _products(side, count):
        best = 2 * side**3 / _best(run)
        if precision not in compute or best > compute[precision]["per_second"]:
            compute[precision] = {"per_second": best, "by": by}
    return {
        "device": "processor",
        "threads": count,
        "bandwidth": _copy(copy_bytes, count),
        "compute": compute,
    }


def measure_gpu(side: int = 8192, copy_bytes: int = 2**30) -> dict[str, Any] | None:
    """Ceilings of the GPU by PyTorch; None without torch or a CUDA device."""
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")

    def timed(run: Callable[[], Any]) -> float:
        def once() -> None:
            run()
            torch.cuda.synchronize()

        return _best(once, 20)

    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = {"per_second": 2 * copy_bytes / timed(lambda: target.copy_(source)), "by": "torch copy_"}
    compute = {}
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        first, second = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        compute[name] = {"per_second": 2 * side**3 / timed(partial(torch.matmul, first, second)), "by": "torch matmul"}
    first, second = (torch.randint(-127, 128, (side, side), device=device, dtype=torch.int8) for _ in range(2))
    compute["int8"] = {"per_second": 2 * side**3 / timed(lambda: torch._int_mm(first, second)), "by": "torch _int_mm"}
    return {
        "device": torch.cuda.get_device_name(device),
        "threads": None,
        "bandwidth": bandwidth,
        "compute": compute,
    }


def _best(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def _copy(size: int, threads: int) -> Ceiling:
    """Bytes read and written, as STREAM counts a copy (J. McCalpin): a write's fetch of the old line is not counted."""
    source = np.ones(size // 8, np.float64)
    target = np.zeros_like(source)
    cuts = np.linspace(0, source.size, threads + 1).astype(int)
    parts = [slice(begin, end) for begin, end in itertools.pairwise(cuts)]
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            # NumPy releases the GIL while it copies.
            list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

        return {"per_second": 2 * source.nbytes / _best(run), "by": f"NumPy copy, {threads} threads"}


def _products(side: int, threads: int) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Precision, library, and a product of two square matrices."""
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, side, side), np.float32)
    out = np.empty_like(first)
    yield "fp32", "NumPy", lambda: np.matmul(first, second, out=out)
    if find_spec("onnx") is None:
        return
    plain, quantised = _graph(second, None), _graph(second, float(np.abs(second).max()) / 127)
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        for precision, graph in (("fp32", plain), ("int8", quantised)):
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            yield precision, "ONNX Runtime", partial(session.run, None, {"x": first})
    if find_spec("openvino") is not None:
        import openvino

        from emra_deploy.backends.openvino import open_core

        core = open_core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        wanted = [("fp32", "f32", plain)]
        if "BF16" in able:
            wanted.append(("bf16", "bf16", plain))
        if "FP16" in able:
            wanted.append(("fp16", "f16", plain))
        wanted.append(("int8", "bf16" if "BF16" in able else "f32", quantised))
        for precision, hint, graph in wanted:
            config = {
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
            }
            request = core.compile_model(core.read_model(graph), "CPU", config).create_infer_request()
            request.set_tensor("x", openvino.Tensor(first, shared_memory=True))
            yield precision, "OpenVINO", request.infer


def _graph(weight: npt.NDArray[Any], scale: float | None) -> bytes:
    """``y = x @ weight``, and with a scale the same between QuantizeLinear and DequantizeLinear, as exports have it."""
    from onnx import TensorProto, helper, numpy_helper

    shape = list(weight.shape)
    nodes, constants = [], []
    if scale is None:
        constants.append(numpy_helper.from_array(weight, "w"))
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    else:
        levels = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
        constants += [
            numpy_helper.from_array(levels, "levels"),
            numpy_helper.from_array(np.array(scale, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
