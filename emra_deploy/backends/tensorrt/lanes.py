"""Overlapping runs of an engine: while the GPU computes one batch, the next batch is copied to it.

There are two lanes, each with memory for a batch and a stream for its copies, and one compute stream, because the
engine's scratch memory serves one run at a time. Events keep the order: a run waits for its input copy, an output copy
for its run. If CPU and GPU share memory, nothing is copied.

A repeated batch size is captured as a CUDA graph, which starts all kernels of a run at once. A CUDA graph is valid for
one execution context at one shape, so each captured size has its own context, on the same scratch memory (NVIDIA,
"Working with Dynamic Shapes" and "CUDA Graphs" in the TensorRT guide).

Nothing here locks: `emra_deploy.backends.tensorrt.backend` calls it from one thread at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from emra_deploy.backends.tensorrt.bindings import Binding
from emra_deploy.backends.tensorrt.cuda import Bytes, Cuda
from emra_deploy.backends.tensorrt.gpu_errors import MEMORY
from emra_deploy.errors import EmraError

_log = logging.getLogger(__name__)

LANES = 2
MAX_CAPTURED = 4
"""Number of batch sizes captured; the last batches of pictures have others, too rare to be worth capturing."""

WARM = 2
"""Number of runs of a size before it is captured."""

Arrays = dict[str, npt.NDArray[Any]]
Explain = Callable[[str], EmraError]
"""Makes an error from a description of the failure, such as ``"did not run"``."""


class Pending:
    """A run in flight."""

    def __init__(self, used: int, size: int) -> None:
        self.used, self.size = used, size
        self.outputs: Arrays | None = None
        self.error: EmraError | None = None
        self.lane: _Lane | None = None

    def result(self) -> Arrays:
        """Wait for the run to finish.

        Raises:
            EmraError: The error of the run.
        """
        if self.lane is not None:
            self.lane.finish()
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs


@dataclass
class _Slot:
    """Memory of one tensor, on the host and on the GPU."""

    binding: Binding
    host: Bytes
    address: int
    shared: bool


@dataclass
class _Lane:
    """Memory, stream and events of one run."""

    cuda: Cuda
    slots: list[_Slot] = field(default_factory=list)
    stream: int = 0
    filled: int = 0
    computed: int = 0
    graphs: dict[int, int] = field(default_factory=dict)
    pending: Pending | None = None

    def finish(self) -> None:
        """Wait for the run in this lane and hand it its results."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        pending.lane = None
        try:
            self.cuda.synchronize(self.stream)
        except EmraError as error:
            pending.error = error
            return
        # Copies: the next run writes here.
        pending.outputs = {
            slot.binding.name: slot.binding.view(slot.host, pending.size)[: pending.used].copy()
            for slot in self.slots[1:]
        }


class Lanes:
    """The memory and streams of a loaded engine, and its runs.

    Args:
        engine: TensorRT's engine object.
        trt: The tensorrt module.
        inputs: The engine's one input.
        outputs: Its outputs.
        largest: Largest batch.
        cuda: CUDA.
        explain: Makes the errors.

    Raises:
        EmraError: ``gpu-memory`` when there is no room for one lane; the second lane is optional.
    """

    def __init__(
        self,
        engine: Any,
        trt: Any,
        inputs: Sequence[Binding],
        outputs: Sequence[Binding],
        largest: int,
        cuda: Cuda,
        explain: Explain,
    ) -> None:
        self._engine, self._trt, self._cuda, self._explain = engine, trt, cuda, explain
        self._bindings = (*inputs, *outputs)
        self._lanes: list[_Lane] = []
        self._turn = 0
        self._compute = self._scratch = 0
        self._shared = cuda.integrated
        self._own: dict[int, Any] = {}
        self._seen: Counter[int] = Counter()
        self._context: Any = None
        try:
            self._reserve(largest)
        except BaseException:
            self.close(_must)
            raise

    def _reserve(self, largest: int) -> None:
        self._context = self._make_first()
        self._compute = self._cuda.stream()
        for number in range(LANES):
            try:
                self._add(largest)
            except EmraError as error:
                if number == 0:
                    raise
                self._drop(self._lanes.pop(), _must)
                _log.warning("copies do not overlap with computing: %s", error.cause)

    @property
    def captured(self) -> tuple[int, ...]:
        """Batch sizes that run as CUDA graphs."""
        return tuple(sorted({size for lane in self._lanes for size in lane.graphs}))

    @property
    def shared(self) -> bool:
        """Whether the GPU reads and writes host memory in place."""
        return self._shared

    def begin(self, feed: npt.NDArray[Any], size: int) -> Pending:
        """Queue a run.

        Args:
            feed: Input values of the first pictures of the batch; the others are black.
            size: Batch size.

        Raises:
            EmraError: An immediate error of TensorRT or CUDA.
        """
        lane = self._lanes[self._turn]
        self._turn = (self._turn + 1) % len(self._lanes)
        # The thread that waits for it finds its results.
        lane.finish()
        cuda, image = self._cuda, lane.slots[0]
        view = image.binding.view(image.host, size)
        view[: len(feed)] = feed
        view[len(feed) :] = 0
        if not image.shared:
            cuda.upload(image.address, image.host[: image.binding.size(size)], lane.stream)
        cuda.record(lane.filled, lane.stream)
        cuda.wait(self._compute, lane.filled)
        self._queue(lane, size)
        cuda.record(lane.computed, self._compute)
        cuda.wait(lane.stream, lane.computed)
        for slot in lane.slots[1:]:
            if not slot.shared:
                cuda.download(slot.host[: slot.binding.size(size)], slot.address, lane.stream)
        lane.pending = pending = Pending(len(feed), size)
        pending.lane = lane
        return pending

    def close(self, give_back: Callable[[Callable[[Any], None], Any], None]) -> None:
        """Free all resources.

        Args:
            give_back: Calls its first argument with its second, and handles errors.
        """
        for lane in self._lanes:
            lane.finish()
        # The order matters: graphs and contexts use the memory.
        for lane in self._lanes:
            for graph in lane.graphs.values():
                give_back(self._cuda.free_graph, graph)
            lane.graphs.clear()
        self._own.clear()
        self._context = self._engine = None
        for lane in self._lanes:
            self._drop(lane, give_back)
        self._lanes = []
        if self._scratch:
            give_back(self._cuda.free_device, self._scratch)
        if self._compute:
            give_back(self._cuda.free_stream, self._compute)
        self._scratch = self._compute = 0

    def _make_first(self) -> Any:
        """The context for all sizes. It uses our shared scratch memory if this TensorRT supports that."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        kinds = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        if size is not None and kinds is not None and self._cuda.captures:
            self._scratch = self._cuda.device(max(1, int(size)))
            return self._make(int(size))
        return self._made(self._engine.create_execution_context())

    def _make(self, size: int) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._made(self._engine.create_execution_context(strategy))
        context.set_device_memory(self._scratch, max(1, size))
        return context

    def _made(self, context: Any) -> Any:
        if context is None:
            error = self._explain("cannot make room for running the engine")
            remedy = "Close what else uses the GPU, or build an engine with a smaller --max-batch"
            raise EmraError(MEMORY, error.cause, remedy, error.path)
        return context

    def _add(self, largest: int) -> None:
        cuda = self._cuda
        lane = _Lane(cuda)
        self._lanes.append(lane)
        lane.stream = cuda.stream()
        lane.filled, lane.computed = cuda.event(), cuda.event()
        for binding in self._bindings:
            size = binding.size(largest)
            if self._shared:
                host, address = cuda.mapped(size)
            else:
                host, address = cuda.host(size), 0
            slot = _Slot(binding, host, address, self._shared)
            lane.slots.append(slot)
            if not self._shared:
                slot.address = cuda.device(size)

    def _drop(self, lane: _Lane, give_back: Callable[[Callable[[Any], None], Any], None]) -> None:
        for slot in lane.slots:
            if slot.address and not slot.shared:
                give_back(self._cuda.free_device, slot.address)
            give_back(self._cuda.free_host, slot.host)
        for event in (lane.filled, lane.computed):
            if event:
                give_back(self._cuda.free_event, event)
        if lane.stream:
            give_back(self._cuda.free_stream, lane.stream)

    def _queue(self, lane: _Lane, size: int) -> None:
        """Queue the computation of a batch, as a CUDA graph if it is captured."""
        if size in lane.graphs:
            self._cuda.launch(lane.graphs[size], self._compute)
            return
        self._seen[size] += 1
        if self._may_capture(size):
            context: Any = self._own.get(size)
            if context is not None:
                self._prepare(context, lane, size)
                graph = self._cuda.capture(self._compute, lambda: bool(context.execute_async_v3(self._compute)))
                if graph is not None:
                    lane.graphs[size] = graph
                    self._cuda.launch(graph, self._compute)
                    return
                _log.info("batches of %d cannot be captured as a CUDA graph", size)
                self._scorn(size)
            else:
                # The first run does work that cannot be captured.
                context = self._own[size] = self._make(int(self._engine.device_memory_size_v2))
        else:
            context = self._context
        self._prepare(context, lane, size)
        if not context.execute_async_v3(self._compute):
            raise self._explain(f"did not run {size} tiles")

    def _may_capture(self, size: int) -> bool:
        if not self._scratch or self._seen[size] <= WARM:
            return False
        return size in self._own or len(self._own) < MAX_CAPTURED

    def _scorn(self, size: int) -> None:
        """Exclude a size from capturing."""
        del self._own[size]
        self._seen[size] = -(2**60)

    def _prepare(self, context: Any, lane: _Lane, size: int) -> None:
        shape = lane.slots[0].binding.view(lane.slots[0].host, size).shape
        if not context.set_input_shape("image", shape):
            raise self._explain(f"refuses an input of {shape}")
        for slot in lane.slots:
            if not context.set_tensor_address(slot.binding.name, slot.address):
                raise self._explain(f"refuses the address of {slot.binding.name!r}")


def _must(free: Callable[[Any], None], what: Any) -> None:
    free(what)
