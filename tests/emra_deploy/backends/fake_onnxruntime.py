"""An ONNX Runtime that claims to have GPU providers, and computes on the processor.

`test_backend_ort_gpu.py` compares the names of everything here with the real module's.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

CPU = "CPUExecutionProvider"


class Session:
    """``InferenceSession``: computes with the real one's CPU provider, and says that others do."""

    def __init__(self, fake: Fake, path: str, options: Any, providers: list[Any]) -> None:
        self._fake = fake
        self._real = onnxruntime.InferenceSession(path, options, providers=[CPU], enable_fallback=0)
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
        self._names = [name for name in names if name not in fake.broken]

    def get_providers(self) -> list[str]:
        return self._names

    def get_modelmeta(self) -> Any:
        return self._real.get_modelmeta()

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = lambda count: lambda: [object()] * count  # noqa: E731
        return [SimpleNamespace(ep_name=name, get_nodes=nodes(count)) for name, count in self._fake.nodes.items()]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self._fake.batches.append(len(next(iter(feed.values()))))
        self._fake.before_run(self._fake.batches[-1])
        return self._real.run(names, feed)


class Fake:
    """One pretended installation.

    Attributes:
        available: Names of the providers it was built with.
        broken: Those that do not load, which ONNX Runtime passes over silently.
        nodes: How many nodes of the graph each provider takes.
        asked: The providers of each session that was made.
        batches: The batch of each run.
        before_run: Called with the batch; what it raises is what the run raises.
        refusal: What making a session on a GPU raises, or None.
    """

    def __init__(self, *available: str) -> None:
        self.available = [*available, CPU]
        self.broken: set[str] = set()
        self.nodes: dict[str, int] = {}
        self.asked: list[list[Any]] = []
        self.batches: list[int] = []
        self.before_run: Callable[[int], None] = lambda batch: None
        self.refusal: Exception | None = None

    def module(self) -> ModuleType:
        """The module, to be put into ``sys.modules``."""
        made: Any = ModuleType("onnxruntime")
        made.__version__ = onnxruntime.__version__
        made.SessionOptions = onnxruntime.SessionOptions
        made.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
        made.get_available_providers = lambda: list(self.available)
        made.get_ep_devices = lambda: []
        made.preload_dlls = lambda: print("Failed to load libcublas.so")
        made.InferenceSession = self._session
        return made

    def _session(self, path: str, options: Any, providers: list[Any], enable_fallback: int) -> Session:
        assert enable_fallback == 0
        if providers != [CPU]:
            self.asked.append(providers)
            if self.refusal is not None:
                raise self.refusal
        return Session(self, path, options, providers)
