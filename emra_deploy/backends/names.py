"""Names of backends and their file suffixes. This module imports no library, which keeps ``--help`` fast."""

from __future__ import annotations

GPU_PROVIDERS = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")
"""ONNX Runtime's providers for NVIDIA GPUs."""

BACKENDS = ("onnxruntime", *GPU_PROVIDERS, "openvino", "tensorrt")
"""All names besides ``"auto"``."""

PRECISIONS = ("fp32", "bf16", "fp16")
"""Precisions that OpenVINO offers."""

ENGINES = (".engine", ".plan", ".trt")
"""File suffixes of TensorRT engines."""
