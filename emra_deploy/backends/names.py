"""The names of the backends, for the command line's help, which shall not wait for libraries."""

from __future__ import annotations

GPU_PROVIDERS = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")
"""ONNX Runtime's providers for NVIDIA GPUs."""

BACKENDS = ("onnxruntime", *GPU_PROVIDERS, "openvino", "tensorrt")
"""All names besides ``"auto"``."""

PRECISIONS = ("fp32", "bf16", "fp16")
"""What OpenVINO can be asked to compute in."""
