"""The options of opening a model file: one object, passed from the command line to the backend."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from emra_deploy.backends.names import BACKENDS, PRECISIONS
from emra_deploy.errors import EmraError

MAX_BATCH, MAX_THREADS, MAX_DEVICE, MAX_TILES = 4096, 1024, 63, 2**40
"""Larger numbers are typing errors: starting more threads takes minutes."""


@dataclass(frozen=True)
class LoadOptions:
    """The options of opening a model file.

    Each attribute is a flag of the command line, with its text here as the help; see `emra_deploy.cli.flags`.

    Attributes:
        backend: Library that runs the model. By default, ``auto``, file and machine decide.
        precision: Precision that OpenVINO computes in where the model allows a choice. The default suits the model.
        device: Number of the GPU, for ONNX Runtime.
        engine_cache: Folder for the engines that ONNX Runtime's TensorRT providers build. Without one each load builds
            an engine, which takes seconds to minutes. Loading an engine runs its code: nobody else should have write
            access to the folder.
        trust_engine: Load a TensorRT engine without a matching sidecar, such as one built by trtexec. Loading it runs
            its code. Its Manifest is read from the ONNX file of the same name in the same folder.
        isolate: Run the model in a separate process, which is replaced when it crashes, hangs or loses its GPU.
        threads: Threads of one run. By default the backend's choice. GPUs ignore it.
        batch: Tiles run at once. By default the model's choice.
        tiles: Total number of tiles to run, by default many: ``auto`` trades load time against run time.

    Raises:
        EmraError: ``backend-unknown``, ``backend-precision``, ``backend-option``, ``threads``, ``batch-size``.
    """

    backend: str = field(default="auto", metadata={"one_of": ("auto", *BACKENDS)})
    precision: str | None = field(default=None, metadata={"one_of": PRECISIONS})
    device: int = 0
    engine_cache: str | os.PathLike[str] | None = None
    trust_engine: bool = False
    isolate: bool = False
    threads: int | None = None
    batch: int | None = None
    tiles: int | None = field(default=None, metadata={"flag": False})

    def __post_init__(self) -> None:
        if self.backend != "auto" and self.backend not in BACKENDS:
            raise EmraError(
                "backend-unknown", f"There is no backend {self.backend!r}", f"Use auto or {', '.join(BACKENDS)}"
            )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise EmraError(
                "backend-precision",
                f"precision {self.precision!r}, expected one of {', '.join(PRECISIONS)}",
                "Leave it out for the one that suits the model",
            )
        _check_range("device", self.device, 0, MAX_DEVICE, "0 is the first GPU", code="backend-option")
        _check_range("threads", self.threads, 1, MAX_THREADS, "Give as many as cores, or leave it out", code="threads")
        check_batch_size(self.batch)
        _check_range("tiles", self.tiles, 0, MAX_TILES, "Leave it out for many", code="backend-option")
        if self.engine_cache is not None:
            object.__setattr__(self, "engine_cache", os.fsdecode(self.engine_cache))


def check_batch_size(batch: int | None) -> None:
    """Refuse a batch size that is out of range.

    Raises:
        EmraError: ``batch-size``.
    """
    _check_range("batch size", batch, 1, MAX_BATCH, "Give fewer tiles at once", code="batch-size")


def _check_range(what: str, value: object, low: int, high: int, remedy: str, *, code: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
        raise EmraError(code, f"{what} is {value!r}, expected {low} to {high}", remedy)


DEFAULTS = LoadOptions()
"""The options by default: the backend that suits file and machine."""
