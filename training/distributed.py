"""One process or many: `torchrun` sets the environment, everything else asks here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the group that `torchrun` started, if it did, and leave it at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    where = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    if world == 1:
        yield Processes(0, 1, where)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), world, where)
    finally:
        dist.destroy_process_group()


def mean_over(processes: Processes, value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if processes.world > 1:
        dist.all_reduce(value)
        value /= processes.world
    return value


def wait(processes: Processes) -> None:
    """Wait until every process is here."""
    if processes.world > 1:
        dist.barrier()
