"""ONNX Runtime's execution providers for NVIDIA GPUs: names, needs, options, and how to get each.

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
        name: Of the backend, such as ``"onnxruntime-cuda"``.
        ep: ONNX Runtime's name of the provider.
        title: For people.
        builder: Beginning of the names of its options about shapes, for a provider that builds an engine when it
            loads a model; or "".
        plugin: Python module that brings the provider as a library of its own, or None.
        libraries: Python modules that load what the provider links to.
        get: How to get it.
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

    No option of a precision is given: TensorRT then builds as the graph says, strongly typed.

    Args:
        provider: Of `PROVIDERS`.
        manifest: Of the model: the sizes that an engine is built for.
        load: How the model is opened.
        largest: Largest batch, where the model leaves it open.
    """
    if not provider.builder:
        # Otherwise each request for memory is rounded up to a power of two.
        return {"device_id": str(load.device), "arena_extend_strategy": "kSameAsRequested"}
    fixed, height, width = manifest.input_shape
    rest = (height, width, 3) if manifest.input_kind == "uint8" else (3, height, width)
    chosen = {"device_id": str(load.device)}
    # Without these the engine is built anew for each batch that is larger or smaller than those before.
    for kind, batch in (("min", fixed or 1), ("opt", fixed or largest), ("max", fixed or largest)):
        shape = "x".join(map(str, (batch, *rest)))
        chosen[f"{provider.builder}profile_{kind}_shapes"] = f"image:{shape}"
    if load.engine_cache is not None:
        cache = os.fspath(load.engine_cache)
        if provider is TENSORRT:
            # Only these two words are taken for yes and no.
            chosen |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": cache}
        else:
            chosen["nv_runtime_cache_path"] = cache
    return chosen
