"""ONNX Runtime's execution providers for NVIDIA GPUs: names, requirements, options and installation.

The names of the options are those of the providers' sources (microsoft/onnxruntime,
``core/providers/{cuda,tensorrt,nv_tensorrt_rtx}``). Nothing here loads a library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from emra_deploy.backends.options import LoadOptions
from emra_deploy.host.extras import install_command, pip_install, pip_replace
from emra_deploy.model_file.manifest import Manifest


@dataclass(frozen=True)
class Provider:
    """A provider as a backend.

    Attributes:
        name: Name of the backend, such as ``"onnxruntime-cuda"``.
        ep: ONNX Runtime's name of the provider.
        title: Name for messages.
        builder: Prefix of the shape options of a provider that builds an engine when it loads a model; otherwise "".
        plugin: Python module that contains the provider as a separate library, or None.
        libraries: Python modules that load the libraries that the provider links to.
        get: Installation instructions.
    """

    name: str
    ep: str
    title: str
    builder: str
    plugin: str | None
    libraries: tuple[str, ...]
    get: Callable[[], str]


# The bounds of the extra `runtime`: the last release for Python 3.10 is 1.23.2.
_OLDEST = "1.30" if sys.version_info >= (3, 11) else "1.23.2"


def _gpu_wheel() -> str:
    return pip_replace("onnxruntime", f"onnxruntime-gpu[cuda,cudnn]>={_OLDEST}")


CUDA = Provider(
    "onnxruntime-cuda",
    "CUDAExecutionProvider",
    "CUDA",
    "",
    None,
    (),
    lambda: f"Run: {_gpu_wheel()}; it takes the place of onnxruntime and needs an NVIDIA driver",
)
TENSORRT = Provider(
    "onnxruntime-tensorrt",
    "TensorrtExecutionProvider",
    "TensorRT",
    "trt_",
    None,
    ("tensorrt",),
    lambda: (
        f"Run: {_gpu_wheel()}; and install the TensorRT that this release was made with (JetPack's, or"
        f" {install_command('tensorrt')})"
    ),
)
RTX = Provider(
    "onnxruntime-tensorrt-rtx",
    "NvTensorRTRTXExecutionProvider",
    "TensorRT-RTX",
    "nv_",
    "onnxruntime_ep_nv_tensorrt_rtx",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    lambda: (
        f"Run: {pip_install('onnxruntime-ep-nv-tensorrt-rtx')} beside onnxruntime; it needs a GeForce or RTX card of"
        " the Ampere generation or later and an NVIDIA driver"
    ),
)
PROVIDERS = {provider.name: provider for provider in (CUDA, TENSORRT, RTX)}
"""By the names of the backends."""


def provider_options(provider: Provider, manifest: Manifest, load: LoadOptions, largest: int) -> dict[str, str]:
    """The options of a provider, by its own names.

    No precision is set, so TensorRT builds a strongly typed engine in the precisions of the graph.

    Args:
        provider: One of `PROVIDERS`.
        manifest: The model's Manifest, with the sizes that an engine is built for.
        load: Options of opening the model.
        largest: Largest batch, if the model's is dynamic.
    """
    if not provider.builder:
        # Otherwise each allocation is rounded up to a power of two.
        return {"device_id": str(load.device), "arena_extend_strategy": "kSameAsRequested"}
    fixed, height, width = manifest.input_shape
    rest = (height, width, 3) if manifest.input_kind == "uint8" else (3, height, width)
    chosen = {"device_id": str(load.device)}
    # Without these the engine is rebuilt for each batch that is larger or smaller than all before.
    for kind, batch in (("min", fixed or 1), ("opt", fixed or largest), ("max", fixed or largest)):
        shape = "x".join(map(str, (batch, *rest)))
        chosen[f"{provider.builder}profile_{kind}_shapes"] = f"image:{shape}"
    if load.engine_cache is not None:
        cache = os.fspath(load.engine_cache)
        if provider is TENSORRT:
            # The providers accept only these two words.
            chosen |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": cache}
        else:
            chosen["nv_runtime_cache_path"] = cache
    return chosen
