"""The aggregation kernels as a shared library: built with nvcc, bound with ctypes, called with torch tensors."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    from torch import Tensor

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "plugin/attention_aggregation.cu"
BUILD_SECONDS = 240
"""Seconds after which nvcc counts as hung."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One shape of the operator, by the names of ``plugin/attention_aggregation.h``."""

    tokens: int
    batch: int = 1
    classes: int = 7
    heads: int = 12
    width: int = 64
    blocks: int = 4
    half: bool = True

    @property
    def scale(self) -> float:
        """The usual factor on Q K^T."""
        return float(self.width**-0.5)

    @property
    def patches(self) -> int:
        """Number of patch tokens, N."""
        return self.tokens - self.classes

    @property
    def exponentials(self) -> int:
        """T * T per image, head and block: the minimum for any form of the operator."""
        return self.batch * self.heads * self.blocks * self.tokens**2

    def __str__(self) -> str:
        kind = "fp16" if self.half else "fp32"
        return f"{kind} T={self.tokens} B={self.batch} C={self.classes} {self.heads}x{self.width} P={self.blocks}"


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, on the PATH or where toolkits are installed."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    places = [os.environ.get("PATH", ""), f"{home}/bin", f"{home}/compute-sanitizer"]
    return shutil.which(name, path=os.pathsep.join(places))


def nvcc_command(sources: Sequence[Path], target: Path, capability: tuple[int, int], *options: str) -> list[str]:
    """The command that compiles CUDA sources for one GPU.

    Raises:
        EmraError: There is no nvcc.
    """
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise EmraError("nvcc-missing", "nvcc was not found", "Install the CUDA toolkit, or set CUDA_HOME")
    architecture = f"-arch=sm_{capability[0]}{capability[1]}"
    return [nvcc, "-std=c++17", "-O3", architecture, *options, "-o", str(target), *map(str, sources)]


def compile_cuda(sources: Sequence[Path], target: Path, capability: tuple[int, int], *options: str) -> Path:
    """Compile CUDA sources; returns ``target``.

    Raises:
        EmraError: There is no nvcc, or it fails; its message is in the cause.
    """
    command = nvcc_command(sources, target, capability, *options)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired as error:
        cause = f"nvcc was not done after {BUILD_SECONDS} s"
        raise EmraError(
            "nvcc-failed", cause, "Use a machine with more cores, or a newer toolkit", sources[0]
        ) from error
    if done.returncode:
        message = " ".join((done.stdout + done.stderr).split())[-800:]
        raise EmraError("nvcc-failed", f"nvcc failed: {message}", "Correct the source or the toolkit", sources[0])
    return target


SHARED_LIBRARY = ("--shared", "-Xcompiler", "-fPIC")


class Aggregation:
    """The library, ready to be called: `training.model.kernels.Kernels` for a `Problem`.

    Args:
        path: Absolute path of the shared library.

    Raises:
        EmraError: Those of `training.model.kernels.Kernels`.
    """

    def __init__(self, path: Path) -> None:
        self._module = load_file("training/model/kernels.py")
        self._kernels = self._module.Kernels(path)

    def _shape(self, problem: Problem) -> ctypes.Structure:
        import torch

        shape: ctypes.Structure = self._module.Shape(
            problem.batch,
            problem.tokens,
            problem.classes,
            problem.heads,
            problem.width,
            problem.blocks,
            problem.scale,
            self._module.TYPES[torch.float16 if problem.half else torch.float32],
        )
        return shape

    def workspace_bytes(self, problem: Problem) -> int:
        """Device memory that a call needs.

        Raises:
            EmraError: The kernels do not support the shape.
        """
        shape = self._shape(problem)
        expected = self._kernels.refusal(shape)
        if expected is not None:
            raise EmraError("shape-unsupported", f"{problem}: {expected}", "Choose another shape")
        return int(self._kernels.workspace_bytes(shape))

    def launch(
        self, problem: Problem, qkv: Sequence[Tensor], gca: Tensor, workspace: Tensor, stream: int | None = None
    ) -> None:
        """Enqueue the kernels.

        Args:
            problem: The shape.
            qkv: P CUDA tensors, B x T x 3 * heads * width, contiguous, 16-byte aligned.
            gca: CUDA tensor, B x C x N, FP32, contiguous; overwritten.
            workspace: CUDA tensor of at least `workspace_bytes` bytes.
            stream: CUDA stream as a number; torch's current one where it is None.

        Raises:
            RuntimeError: The launch returned an error.
        """
        if stream is None:
            import torch

            stream = torch.cuda.current_stream().cuda_stream
        try:
            self._kernels.enqueue(self._shape(problem), qkv, gca, workspace, stream)
        except RuntimeError as error:
            raise RuntimeError(f"{problem}: {error}") from error

    def __call__(self, problem: Problem, qkv: Sequence[Tensor]) -> Tensor:
        """GCA, B x C x N, in newly allocated memory."""
        import torch

        gca = torch.empty(problem.batch, problem.classes, problem.patches, device=qkv[0].device)
        workspace = torch.empty(self.workspace_bytes(problem), dtype=torch.uint8, device=qkv[0].device)
        self.launch(problem, qkv, gca, workspace)
        return gca


@functools.cache
def load_file(name: str) -> ModuleType:
    """A file of the project as a separate module: its package may need libraries that are not installed.

    Args:
        name: Relative to the project.
    """
    spec = importlib.util.spec_from_file_location(f"emra_{Path(name).stem}", PROJECT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
