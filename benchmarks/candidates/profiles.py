"""Time of each layer by the libraries' own profilers, in separate sessions."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.candidates.timed import Batch, LayerTime
from emra_deploy.backends.contract import feed
from emra_deploy.model_file.manifest import Manifest


def profile_onnxruntime(
    path: Path, manifest: Manifest, batch: Batch, runs: int, threads: int | None
) -> list[LayerTime]:
    """By ONNX Runtime's profiler, after its graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    if threads is not None:
        options.intra_op_num_threads = threads
    image = feed(batch, manifest)
    with tempfile.TemporaryDirectory(prefix="emra-profile-") as folder:
        options.profile_file_prefix = os.path.join(folder, "run")  # noqa: PTH118 (a prefix, not a path)
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        # The first run allocates; its times are taken out below.
        for _ in range(runs + 1):
            session.run(None, {"image": image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return parse_onnxruntime(events, runs)


def parse_onnxruntime(events: list[dict[str, Any]], runs: int) -> list[LayerTime]:
    """The profiler's events; those of the first run are left out.

    Args:
        events: As in the file.
        runs: Runs that count.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kind = str(event.get("args", {}).get("op_name", "?"))
            times[name.removesuffix("_kernel_time"), kind].append(float(event["dur"]) / 1e6)
    return [LayerTime(name, kind, sum(found[1:]) / runs) for (name, kind), found in times.items()]


def profile_openvino(
    path: Path, manifest: Manifest, batch: Batch, runs: int, threads: int | None, precision: str
) -> list[LayerTime]:
    """By OpenVINO's performance counters, after its fusions."""
    import onnx
    from onnx import inliner

    from emra_deploy.backends.openvino import open_core

    core = open_core()
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "PERF_COUNT": True,
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    graph = inliner.inline_local_functions(onnx.load(path))
    request = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", config).create_infer_request()
    image = feed(batch, manifest)
    request.infer({"image": image})
    times: dict[tuple[str, str], float] = defaultdict(float)
    for _ in range(runs):
        request.infer({"image": image})
        for layer in request.profiling_info:
            if layer.real_time.total_seconds() > 0:
                times[layer.node_name, layer.node_type] += layer.real_time.total_seconds()
    return [LayerTime(name, kind, seconds / runs) for (name, kind), seconds in times.items()]
