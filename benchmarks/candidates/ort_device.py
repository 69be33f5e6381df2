"""ONNX Runtime with its tensors on a device: the peer that a GPU's user has at hand without building an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.candidates.spec import Spec
from benchmarks.candidates.timed import Batch, LayerTime
from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.backends.contract import feed
from emra_deploy.backends.providers import CUDA
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class OrtDeviceBackend:
    """An ONNX file by ONNX Runtime's I/O binding, copies timed apart from computing.

    Args:
        spec: The requested candidate.
        manifest: Manifest of the file.
        device: ``"cuda"``; ``"cpu"`` runs the same code where there is no GPU, for tests.

    With ``cuda-graph`` in the specification, ONNX Runtime captures a CUDA graph at the second run and replays it, which
    needs inputs and outputs that stay where they are.

    Raises:
        EmraError: ``backend-option`` where this ONNX Runtime has no such device, ``model-run`` for a file whose labels
            it does not give.
    """

    name = "onnxruntime"

    def __init__(self, spec: Spec, manifest: Manifest, device: str = "cuda") -> None:
        import onnxruntime

        provider = _PROVIDERS[device]
        if provider not in onnxruntime.get_available_providers():
            raise EmraError(
                "backend-option",
                f"This ONNX Runtime has no {provider}; it has {', '.join(onnxruntime.get_available_providers())}",
                CUDA.get(),
                spec.path,
            )
        if "classes" not in manifest.heads:
            raise EmraError("model-run", "The model gives no labels", "Export it with the head classes", spec.path)
        assert spec.path is not None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.cuda_graph: bool | None = spec.option == "cuda-graph"
        settings = {"enable_cuda_graph": "1"} if self.cuda_graph and device == "cuda" else {}
        # Without fallback: a figure of the processor must not pass for one of the GPU.
        self._session = onnxruntime.InferenceSession(
            os.fspath(spec.path), options, providers=[(provider, settings)], enable_fallback=0
        )
        self._kept: tuple[Any, Any, Any] | None = None
        self._library, self._device, self.manifest = onnxruntime, device, manifest
        self.input_shape, self.precision = manifest.input_shape, manifest.precision
        self.stages: Mapping[str, float] = {}

    def run(self, batch: Batch) -> Outputs:
        """Label a batch and time its stages."""
        check_batch(batch, self.input_shape)
        image = feed(batch, self.manifest)
        begin = time.perf_counter()
        binding, output = self._bind(image)
        binding.synchronize_inputs()
        uploaded = time.perf_counter()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = time.perf_counter()
        labels = (binding.get_outputs()[0] if output is None else output).numpy()
        end = time.perf_counter()
        self.stages = {"upload": uploaded - begin, "compute": computed - uploaded, "download": end - computed}
        return {"classes": labels}

    def _bind(self, image: Any) -> tuple[Any, Any]:
        """The picture on the device, bound; and the output's memory where it is always the same."""
        make = self._library.OrtValue
        if self._kept is not None and tuple(self._kept[1].shape()) == image.shape:
            binding, value, output = self._kept
            value.update_inplace(image)
            return binding, output
        binding = self._session.io_binding()
        value = make.ortvalue_from_numpy(image, self._device, 0)
        binding.bind_ortvalue_input("image", value)
        if not self.cuda_graph:
            binding.bind_output("classes", self._device, 0)
            return binding, None
        shape = [len(image), *self.manifest.tile]
        output = make.ortvalue_from_shape_and_type(shape, np.uint8, self._device, 0)
        binding.bind_ortvalue_output("classes", output)
        self._kept = (binding, value, output)
        return binding, output

    def describe(self) -> dict[str, str]:
        """Library, version and device."""
        return {"backend": self.name, "version": self._library.__version__, "device": self._device}

    def profile(self, batch: Batch, runs: int) -> list[LayerTime] | None:
        """Not offered: its profiler counts kernels when they are started, not while they run."""
        return None

    def close(self) -> None:
        """Free the model."""
        self._kept = None
        del self._session


def open_on_device(spec: Spec, device: str = "cuda") -> OrtDeviceBackend:
    """Load a file for a device, after the processor's backend has checked it.

    Raises:
        EmraError: Those of the processor's backend, and of `OrtDeviceBackend`.
    """
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    assert spec.path is not None
    checked = OnnxRuntimeBackend(spec.path, replace(spec, option=None).load_options())
    checked.close()
    return OrtDeviceBackend(spec, checked.manifest, device)
