"""The names of backends and their files, in a module that loads no library: the command line's help stays fast."""

from __future__ import annotations

GPU_PROVIDERS = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")
"""ONNX Runtime's providers for NVIDIA GPUs."""

BACKENDS = ("onnxruntime", *GPU_PROVIDERS, "openvino", "tensorrt")
"""All names besides ``"auto"``."""

PRECISIONS = ("fp32", "bf16", "fp16")
"""Precisions that OpenVINO can be asked for."""

ENGINES = (".engine", ".plan", ".trt")
"""Endings of the names of TensorRT engines."""
