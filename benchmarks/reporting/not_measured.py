"""Figures that a machine cannot measure, each with a command that measures it elsewhere."""

from __future__ import annotations

from typing import Any

GPU = (
    "TensorRT engines, CUDA graphs, torch with SDPA on a GPU, ONNX Runtime CUDA",
    "python -m benchmarks.latency model.onnx model.engine CHECKPOINT "
    "--backend tensorrt,tensorrt:no-graph,torch,torch:graph,torch-compile:graph,onnxruntime:cuda,"
    "onnxruntime:cuda-graph --json gpu.json",
)
JETSON = (
    "Jetson: latency, power and joules per picture",
    "sudo nvpmodel -m 0 && sudo jetson_clocks && python -m benchmarks.latency model.engine --json jetson.json",
)
ENERGY = (
    "energy",
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj, then the same command, on a machine that has counters",
)


def list_unmeasured(machine: dict[str, Any], *, has_meter: bool, why_no_meter: str = "") -> list[dict[str, str]]:
    """Figures that this machine cannot measure.

    Args:
        machine: Facts by `benchmarks.reporting.provenance.describe_machine`.
        has_meter: Whether energy was measured.
        why_no_meter: The reason, if not.
    """
    found = []
    if not machine["gpus"] and machine["jetson"] is None:
        found.append({"what": GPU[0], "why": "this machine has no CUDA device", "command": GPU[1]})
    if machine["jetson"] is None:
        found.append({"what": JETSON[0], "why": "this machine is no Jetson", "command": JETSON[1]})
    if not has_meter:
        found.append({"what": ENERGY[0], "why": why_no_meter, "command": ENERGY[1]})
    return found
