"""Results as benchmarks write them, without measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.reporting.results import make_result
from export.measure import paired_ratio, summarise

SHA = "a" * 64


def candidate(key: str, milliseconds: Sequence[float], *, sha256: str | None = SHA, **changes: Any) -> dict[str, Any]:
    """One candidate of a latency result; ``milliseconds`` has one block median a round."""
    seconds = [value / 1000 for value in milliseconds]
    return {
        "key": key,
        "name": key.split(" ")[0],
        "sha256": sha256,
        "backend": {"backend": "onnxruntime", "version": "1.31.1", "device": "cpu", "threads": "2"},
        "batch": 1,
        "height": 256,
        "width": 256,
        "precision": "fp32",
        "cuda_graph": None,
        "stages": {
            "decode": summarise([value / 20 for value in seconds]).to_dict(),
            "upload": None,
            "compute": summarise(seconds).to_dict(),
            "download": None,
            "post": summarise([value / 50 for value in seconds]).to_dict(),
            "end_to_end": summarise([value * 1.07 for value in seconds]).to_dict(),
        },
        "rounds": {"compute": seconds, "end_to_end": [value * 1.07 for value in seconds]},
        "throughput": 1 / float(np.mean(seconds)),
        "energy": None,
        "profile": None,
        "accuracy": None,
        **changes,
    }


def latency_result(
    candidates: Sequence[dict[str, Any]] | None = None, *, quiet: bool = True, probe: float = 0.004, **changes: Any
) -> dict[str, Any]:
    """A whole latency result of two candidates, or of those given."""
    random = np.random.default_rng(1)
    if candidates is None:
        candidates = [
            candidate("emra.onnx | onnxruntime | b1 | 256x256", 100 + random.normal(0, 1, 10)),
            candidate("emra.onnx | openvino f32 | b1 | 256x256", 60 + random.normal(0, 1, 10)),
        ]
    first = candidates[0]
    ratios = []
    for other in candidates[1:]:
        for stage in ("compute", "end_to_end"):
            ratio = paired_ratio(other["rounds"][stage], first["rounds"][stage])
            ratios.append(
                {
                    "key": other["key"],
                    "against": first["key"],
                    "stage": stage,
                    **ratio.to_dict(),
                    "verdict": ratio.verdict(quiet),
                }
            )
    content = {
        "plan": {"iterations": 100, "warmup": 10, "rounds": 10, "settle": 1, "seed": 0},
        "noise": {
            "foreign": 0.01 if quiet else 0.62,
            "scatter": 0.01,
            "drift": 0.0,
            "throttled": None,
            "quiet": quiet,
            "reasons": [] if quiet else ["other processes took 62% of all cores (at most 10%)"],
        },
        "candidates": list(candidates),
        "ratios": ratios,
        "probe": {"rounds": list(probe * random.normal(1, 0.002, 10))},
        "energy_scope": "the kernel gives no energy counters of the processor",
    }
    result = make_result(
        "latency",
        "latency.py",
        ["emra.onnx", "--json", "a.json"],
        content,
        models=[
            {
                "name": "emra.onnx",
                "sha256": SHA,
                "bytes": 11_800_000,
                "manifest": {"name": "emra", "precision": "fp32", "evidence": {"miou": 0.6}},
            }
        ],
        not_measured=[{"what": "TensorRT", "why": "no CUDA device", "command": "python benchmarks/gpu_suite.py"}],
    )
    result.update(changes)
    return result
