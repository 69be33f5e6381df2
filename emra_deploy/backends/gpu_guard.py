"""Recovery from GPU errors: smaller batches when memory is short, no further runs when the GPU is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Outputs
from emra_deploy.backends.tensorrt.device import FreeMemory
from emra_deploy.backends.tensorrt.gpu_errors import LOST, MEMORY, RESTART, asked_for
from emra_deploy.errors import EmraError

_log = logging.getLogger(__name__)

Batch = npt.NDArray[np.uint8]


class GpuGuard:
    """Runs batches. A batch that does not fit is halved and run in two parts; the smaller size stays in force.

    Args:
        title: Name of the runner, for errors.
        needed: Total bytes of a batch; None if unknown.
        free: Free memory now; None if unknown.
    """

    def __init__(self, title: str, needed: Callable[[int], int | None], free: Callable[[], FreeMemory | None]) -> None:
        self._title, self._needed, self._free = title, needed, free
        self._most: int | None = None
        self._lost: EmraError | None = None

    @property
    def lost(self) -> bool:
        """Whether an error occurred after which this process cannot use the GPU."""
        return self._lost is not None

    @property
    def careful(self) -> bool:
        """Whether batches are halved, or can no longer be run."""
        return self._most is not None or self.lost

    def run(self, batch: Batch, run: Callable[[Batch], Outputs]) -> Outputs:
        """Run a batch.

        Args:
            batch: uint8 B×H×W×3.
            run: Runs one batch; raises `EmraError` with code `MEMORY` or `LOST` for the faults handled here.

        Raises:
            EmraError: ``gpu-memory`` with needed and free bytes when half a batch does not fit either;
                ``gpu-lost`` for this and every later batch; and those of ``run``.
        """
        if self._lost is not None:
            raise EmraError(LOST, f"The GPU was lost before: {self._lost.cause}", RESTART, self._lost.path)
        most = self._most
        if most is None:
            try:
                return self._once(batch, run)
            except EmraError as error:
                if error.code != MEMORY or len(batch) == 1:
                    raise
                most = (len(batch) + 1) // 2
                _log.warning("%d tiles at once do not fit into the GPU's memory; from now on %d", len(batch), most)
                self._most = most
        parts = [self._once(batch[start : start + most], run) for start in range(0, len(batch), most)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _once(self, batch: Batch, run: Callable[[Batch], Outputs]) -> Outputs:
        try:
            return run(batch)
        except EmraError as error:
            if error.code == LOST:
                self._lost = error
                raise
            if error.code != MEMORY:
                raise
            raise self._full(len(batch), error) from error

    def _full(self, count: int, error: EmraError) -> EmraError:
        needed, free = self._needed(count), self._free()
        if needed is None:
            asked = asked_for(error.cause)
            need = "how much it needs is not known" if asked is None else f"one buffer of {_size(asked)} is needed"
        else:
            need = f"{_size(needed)} are needed in all"
        left = (
            "how much is free is not known" if free is None else f"{_size(free.bytes)} of {free.kind} memory are free"
        )
        return EmraError(
            MEMORY,
            f"{self._title} has no room for {count} tile{'s' if count > 1 else ''} at once: {need}, and {left}"
            f" ({error.cause})",
            "Give a smaller --batch, close what else uses the GPU, or use a model of smaller windows or precision",
            error.path,
        )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
