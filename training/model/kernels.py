"""The CUDA kernels of `plugin/`, called with PyTorch's tensors through their C interface.

`plugin/attention_aggregation.h` is the contract; this file is its Python side and nothing else. The library is built by
``make plugin`` and looked for in ``build/``, or where ``EMRA_KERNELS`` says.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from emra_deploy.backends.tensorrt.plugin_library import check_plugin_library
from emra_deploy.errors import EmraError

VARIABLE = "EMRA_KERNELS"
"""Environment variable with the absolute path of the library."""

_BUILD = Path(__file__).resolve().parents[2] / "build"
PLACES = tuple(_BUILD / place / "libemra_kernels.so" for place in ("plugin/lib", "plugin", "."))
"""Where ``make plugin`` puts the library, and ``cmake --build build``."""

VERSION = 1
"""EMRA_AGGREGATION_VERSION of the header that this file follows."""

SYMBOLS = tuple(f"emra_aggregation_{name}" for name in ("version", "check", "workspace", "launch"))
TYPES = {torch.float32: 0, torch.float16: 1}
"""EmraType."""

_ALIGNMENT = 16
_logger = logging.getLogger(__name__)


class Shape(ctypes.Structure):
    """EmraAggregationShape."""

    _fields_ = (
        ("batch", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("num_class_tokens", ctypes.c_int32),
        ("num_heads", ctypes.c_int32),
        ("head_width", ctypes.c_int32),
        ("num_blocks", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("type", ctypes.c_int32),
    )


class Kernels:
    """The library, loaded.

    Args:
        path: Absolute.

    Raises:
        EmraError: Those of `check_plugin_library`; ``kernels-load``; ``kernels-version``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        library = check_plugin_library(path, symbols=SYMBOLS)
        try:
            loaded = ctypes.CDLL(os.fspath(library.path))
        except OSError as error:
            raise EmraError(
                "kernels-load", f"The kernels cannot be loaded ({error})", "Check their dependencies with ldd", path
            ) from error
        version, self._check, self._workspace, self._launch = (getattr(loaded, name) for name in SYMBOLS)
        version.restype, version.argtypes = ctypes.c_int, ()
        if version() != VERSION:
            raise EmraError(
                "kernels-version",
                f"The kernels have interface version {version()}, expected {VERSION}",
                "Build them again: make plugin",
                path,
            )
        shape = ctypes.POINTER(Shape)
        self._check.restype, self._check.argtypes = ctypes.c_char_p, (shape,)
        self._workspace.restype, self._workspace.argtypes = ctypes.c_size_t, (shape,)
        pointer = ctypes.c_void_p
        self._launch.restype = ctypes.c_int
        self._launch.argtypes = (shape, ctypes.POINTER(pointer), pointer, pointer, pointer)

    def refusal(self, shape: Shape) -> str | None:
        """What the kernels expect instead of this shape; None when they take it."""
        text = self._check(ctypes.byref(shape))
        return None if text is None else text.decode("utf-8", "replace")

    def launch(self, shape: Shape, qkv: Sequence[Tensor], stream: int) -> Tensor:
        """Enqueue one aggregation.

        Args:
            shape: One that `refusal` has nothing against, of these tensors.
            qkv: P tensors, B x T x 3D, on the device of the stream; others than contiguous, 16-byte aligned ones are
                copied.
            stream: A ``cudaStream_t`` as a number.

        Returns:
            GCA, B x C x N, FP32, written once the stream gets there.

        Raises:
            RuntimeError: The CUDA error of the launch.
        """
        # Copies and workspace may be freed on return: torch's allocator reuses memory in the order of the stream.
        packed = [_aligned(block) for block in qkv]
        classes = shape.num_class_tokens
        gca = packed[0].new_empty((shape.batch, classes, shape.tokens - classes), dtype=torch.float32)
        workspace = packed[0].new_empty(self.workspace_bytes(shape), dtype=torch.uint8)
        self.enqueue(shape, packed, gca, workspace, stream)
        return gca

    def workspace_bytes(self, shape: Shape) -> int:
        """Device memory that a call needs beside its inputs and GCA, for a shape that `refusal` has nothing against."""
        return int(self._workspace(ctypes.byref(shape)))

    def enqueue(self, shape: Shape, qkv: Sequence[Tensor], gca: Tensor, workspace: Tensor, stream: int) -> None:
        """Enqueue one aggregation into memory that is there.

        Args:
            shape: As for `launch`.
            qkv: P tensors, B x T x 3D, contiguous, 16-byte aligned, on the device of the stream.
            gca: B x C x N, FP32, contiguous; overwritten.
            workspace: At least `workspace_bytes` bytes.
            stream: A ``cudaStream_t`` as a number.

        Raises:
            RuntimeError: The CUDA error of the launch.
        """
        pointers = (ctypes.c_void_p * len(qkv))(*(block.data_ptr() for block in qkv))
        code = self._launch(ctypes.byref(shape), pointers, gca.data_ptr(), workspace.data_ptr(), stream)
        if code:
            raise RuntimeError(f"the attention-aggregation kernels failed with CUDA error {code}")


def shape_of(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Shape | None:
    """The shape that describes one call; None for a type that the kernels do not have."""
    first = qkv[0]
    if first.dtype not in TYPES:
        return None
    batch, tokens, packed = first.shape
    width = packed // (3 * num_heads)
    return Shape(batch, tokens, num_class_tokens, num_heads, width, len(qkv), scale, TYPES[first.dtype])


@functools.cache
def find_kernels() -> Kernels | None:
    """The library that ``EMRA_KERNELS`` names, or that of ``build/``; None where there is neither.

    Raises:
        EmraError: There is a library, and it is not usable. Computing without it would hide that.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Kernels(named)
    for place in PLACES:
        if place.is_file():
            return Kernels(place)
    _logger.info("no CUDA kernels in %s and no %s: attention is aggregated in PyTorch", _BUILD, VARIABLE)
    return None


def aggregate(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor | None:
    """GCA by the kernels, on torch's current stream.

    Args:
        qkv: P CUDA tensors, B x T x 3D.
        num_heads: Heads per block.
        num_class_tokens: C.
        scale: Factor on Q K^T.

    Returns:
        B x C x N, FP32; None when there is no library, or none for this shape and type.

    Raises:
        EmraError: See `find_kernels`.
    """
    kernels = find_kernels()
    shape = shape_of(qkv, num_heads, num_class_tokens, scale)
    if kernels is None or shape is None or qkv[0].numel() == 0:
        return None
    refusal = kernels.refusal(shape)
    if refusal is not None:
        _say_once(refusal)
        return None
    with torch.cuda.device(qkv[0].device):
        return kernels.launch(shape, qkv, torch.cuda.current_stream().cuda_stream)


@functools.cache
def _say_once(refusal: str) -> None:
    _logger.warning("the CUDA kernels do not take this shape (%s): attention is aggregated in PyTorch", refusal)


def _aligned(block: Tensor) -> Tensor:
    block = block.detach().contiguous()
    return block if block.data_ptr() % _ALIGNMENT == 0 else block.clone()
