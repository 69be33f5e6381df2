"""Single and multi-process training: the group that `torchrun` starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist

from emra_deploy.errors import EmraError


@dataclass(frozen=True)
class Processes:
    """This process within its group."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the group that `torchrun` started, if it did, and leave it at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        EmraError: ``device-missing``.
    """
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local >= torch.cuda.device_count():
        raise EmraError(
            "device-missing",
            f"device is {device} but process {local} of this machine has no GPU of its own: "
            f"PyTorch sees {torch.cuda.device_count()}",
            "Set device to cpu, or start one process per GPU",
        )
    where = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    if world == 1:
        yield Processes(0, 1, where)
        return
    # Validation runs in the first process alone; on a large split it exceeds the default time-out of ten minutes.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=6))
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


@contextmanager
def first_alone(processes: Processes) -> Iterator[None]:
    """Run a body in the first process only, and end the others if it fails.

    All processes enter; the body does its work in the first and skips it in the others. Its exception is raised in the
    first process; the others exit silently with the status of a user error.
    """
    failed = torch.zeros(1, device=processes.device)
    try:
        yield
    except BaseException:
        failed += 1
        raise
    finally:
        if processes.world > 1:
            dist.all_reduce(failed)
    if failed:
        raise SystemExit(2)


def wait(processes: Processes) -> None:
    """Wait for all processes."""
    if processes.world > 1:
        dist.barrier()
