"""The kernels compiled for the emulated machine, and a GPU that is only pretended."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.gpu.library import SOURCE, Aggregation
from tests.plugin.test_emulation import EMULATION, compiler


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Aggregation:
    target = tmp_path_factory.mktemp("library") / "libemra_emulated.so"
    include = [f"-I{EMULATION}", f"-I{EMULATION / 'cuda'}"]
    command = [compiler(), "-std=c++17", "-O0", "-shared", "-fPIC", *include, "-x", "c++"]
    subprocess.run([*command, SOURCE, EMULATION / "machine.cpp", "-o", target], check=True)
    return Aggregation(target)


class OnTheProcessor(TorchFunctionMode):
    """Create tensors for a GPU in host memory, aligned to 256 bytes as the kernels require."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.cuda:
            return args[0]
        if str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "cpu"
        if kwargs.get("dtype") == torch.uint8 and function in (torch.full, torch.empty):
            shape, *rest = args
            size = shape[0] if isinstance(shape, tuple) else shape
            made = function((size + 256,), *rest, **kwargs)
            start = -made.data_ptr() % 256
            return made[start : start + size]
        return function(*args, **kwargs)


class Graph:
    """A fake CUDA graph that repeats the calls made while it was captured by `timing.capture`."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self.works: list[Callable[[], object]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for work in self.works:
            work()


class Event:
    """A moment."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds, as torch gives them."""
        return (other.at - self.at) * 1e3


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    """The parts of `torch.cuda` that the suite uses, without a GPU; returns the captured graphs."""
    from benchmarks.gpu import timing

    graphs: list[Graph] = []

    def capture(works: Any) -> Graph:
        graph = Graph()
        graph.works = list(works)
        for work in works:
            work()
        graphs.append(graph)
        return graph

    stream = SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None)
    for name, value in {
        "current_stream": lambda: stream,
        "Stream": lambda: stream,
        "stream": lambda other: contextlib.nullcontext(),
        "Event": Event,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda: 1000,
        "max_memory_allocated": lambda: 3000,
        "reset_peak_memory_stats": lambda: None,
        "get_device_properties": lambda number: SimpleNamespace(multi_processor_count=2),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(timing, "capture", capture)
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: generator())
    # Two threads that wait for each other are slow where others want the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with OnTheProcessor():
            yield graphs
    finally:
        torch.set_num_threads(threads)
