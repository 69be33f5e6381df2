"""TensorRT's Python interface over ONNX Runtime: engines of it hold the ONNX file and run it on real addresses.

`test_fakes.py` compares the names, parameters and members of everything here with the real bindings of TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import json
import math
import struct
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeRuntime
from tests.emra_deploy.backends.tensorrt.fake_tensorrt_enums import (
    BuilderFlag,
    DataType,
    DeviceType,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    Severity,
    TensorIOMode,
)

PLAN = struct.Struct("<4s20x4BI")
"""Tag, version at byte 24, and the length of the JSON that follows; the ONNX file comes after it."""


class ILogger:
    Severity = Severity

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    pass


class IHostMemory(bytes):
    @property
    def nbytes(self):
        return len(self)


class Fake:
    """One pretended installation of TensorRT.

    Attributes:
        version: Four numbers.
        wrong: Changes an engine's labels, as a release that computes wrongly does.
        loaded: How many engines were deserialised.
        inspector: What the inspector tells, by default nothing.
        creators: Plugin creators that loading a library registers.
        cores: Number of DLA cores.
        refuse: Whether engines do not deserialise.
        built: The last builder configuration.
        runtime: The CUDA whose streams engines run in; None runs them at once.
        captures: Whether runs can be captured as CUDA graphs.
    """

    def __init__(self, version: tuple[int, int, int, int] = (10, 3, 0, 30)) -> None:
        self.version = version
        self.wrong: Callable[[np.ndarray], np.ndarray] = lambda labels: labels
        self.loaded = 0
        self.libraries: list[str] = []
        self.inspector = '{"Layers": ["only a name"]}'
        self.creators = ["AttentionAggregation"]
        self.cores = 0
        self.refuse = False
        self.built: object = None
        self.runtime: FakeRuntime | None = None
        self.captures = True

    def module(self, name: str = "tensorrt") -> ModuleType:
        """The module, to be put into ``sys.modules``."""
        made = ModuleType(name)
        made.__version__ = ".".join(map(str, self.version))
        made.__spec__ = ModuleSpec(name, None)
        for kind in (
            DataType, TensorIOMode, NetworkDefinitionCreationFlag, BuilderFlag, ProfilingVerbosity, MemoryPoolType,
            HardwareCompatibilityLevel, DeviceType, LayerInformationFormat, ILogger, IProgressMonitor,
            ExecutionContextAllocationStrategy,
        ):  # fmt: skip
            setattr(made, kind.__name__, kind)
        made.nptype = lambda kind: np.dtype(kind.value)
        made.Runtime = lambda logger: Runtime(self, logger)
        made.Builder = lambda logger: Builder(self, logger)
        made.OnnxParser = lambda network, logger: OnnxParser(network, logger)
        return made

    def plan(self, onnx: bytes, low: int = 1, high: int = 1) -> bytes:
        """An engine file of this installation."""
        text = json.dumps({"low": low, "high": high}).encode()
        return PLAN.pack(b"ftrt", *self.version, len(text)) + text + onnx


class IPluginRegistry:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self._loaded = False

    @property
    def all_creators(self):
        kind = type("Creator", (), {})
        found = []
        for name in self._fake.creators if self._loaded else []:
            found.append(kind())
            found[-1].name = name
        return found

    def load_library(self, plugin_path):
        self._loaded = True
        self._fake.libraries.append(plugin_path)
        return object()


class Runtime:
    def __init__(self, fake: Fake, logger: ILogger) -> None:
        self._fake, self._logger = fake, logger
        # As in TensorRT, builders and runtimes do not see each other's libraries.
        self._registry = IPluginRegistry(fake)

    def get_plugin_registry(self):
        return self._registry

    def deserialize_cuda_engine(self, serialized_engine):
        self._fake.loaded += 1
        if self._fake.refuse:
            self._logger.log(Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization")
            return None
        return ICudaEngine(self._fake, bytes(serialized_engine))


class ICudaEngine:
    def __init__(self, fake: Fake, plan: bytes) -> None:
        import onnxruntime

        length = PLAN.unpack_from(plan)[-1]
        self._fake = fake
        self._range = json.loads(plan[PLAN.size : PLAN.size + length])
        self._session = onnxruntime.InferenceSession(plan[PLAN.size + length :], providers=["CPUExecutionProvider"])
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()
        self._tensors = {value.name: value for value in (*self._inputs, *self._outputs)}

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    @property
    def device_memory_size_v2(self):
        return 12345

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_shape(self, name):
        return tuple(size if isinstance(size, int) else -1 for size in self._tensors[name].shape)

    def get_tensor_dtype(self, name):
        kinds = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}
        return kinds[self._tensors[name].type]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in {value.name for value in self._inputs} else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile_index):
        rest = self.get_tensor_shape(name)[1:]
        return [(self._range[key], *rest) for key in ("low", "high", "high")]

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        return IExecutionContext(self, strategy)

    def create_engine_inspector(self):
        return EngineInspector(self._fake)

    # Not TensorRT's.
    def _compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        image = np.dtype(self.get_tensor_dtype("image").value)
        data = ctypes.string_at(addresses["image"], math.prod(shape) * image.itemsize)
        names = [value.name for value in self._outputs]
        feed = np.frombuffer(data, image).reshape(shape)
        for name, value in zip(names, self._session.run(names, {"image": feed}), strict=True):
            made = np.ascontiguousarray(self._fake.wrong(value) if name == "classes" else value)
            ctypes.memmove(addresses[name], made.ctypes.data, made.nbytes)


class EngineInspector:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake

    def get_engine_information(self, format):
        assert format is LayerInformationFormat.JSON
        return self._fake.inspector


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._has_memory = strategy is not ExecutionContextAllocationStrategy.USER_MANAGED
        self._ran_at: tuple[int, ...] = ()

    def set_device_memory(self, memory, size):
        runtime = self._engine._fake.runtime
        assert runtime is None or ctypes.sizeof(runtime.device[memory]) >= size
        assert size >= self._engine.device_memory_size_v2
        self._has_memory = True

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name, shape):
        limits = self._engine._range
        self._shape = tuple(shape)
        return limits["low"] <= shape[0] <= limits["high"]

    def execute_async_v3(self, stream_handle):
        engine, shape, addresses = self._engine, self._shape, dict(self._addresses)
        runtime = engine._fake.runtime
        if not self._has_memory:
            return False
        if runtime is None:
            engine._compute(shape, addresses)
            return True
        if runtime.work.capturing is None:
            self._ran_at = shape
            runtime.work.queue(stream_handle, lambda: engine._compute(shape, addresses))
            return True
        # The first run at a shape does work that cannot be captured.
        if not engine._fake.captures or self._ran_at != shape:
            return False

        def replay() -> None:
            assert self._shape == shape, "a graph is replayed after its context was given another shape"
            engine._compute(shape, addresses)

        runtime.work.queue(stream_handle, replay)
        return True


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self):
        return IHostMemory(self.data + b"+")


class IOptimizationProfile:
    def set_shape(self, input, min, opt, max):
        self.shapes = (min, opt, max)


class IBuilderConfig:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[IOptimizationProfile] = []
        self.pools: dict[MemoryPoolType, int] = {}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self.progress_monitor: object = None
        self.cache: ITimingCache | None = None

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool, pool_size):
        self.pools[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache):
        data = bytes(serialized_timing_cache)
        if data and not data.startswith(b"timings"):
            self._logger.log(Severity.WARNING, "Failed to deserialize timing cache. Returning an empty timing cache.")
            return ITimingCache(b"timings")
        return ITimingCache(data or b"timings")

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return ignore_mismatch or b"foreign" not in cache.data

    def get_timing_cache(self):
        return self.cache


class INetworkDefinition:
    def __init__(self, fake: Fake, flags: int) -> None:
        self._fake, self.flags = fake, flags
        self.onnx = b""

    @property
    def num_inputs(self):
        return 1

    @property
    def num_layers(self):
        return 7

    def get_input(self, index):
        return type("ITensor", (), {"name": "image"})()


class ParserError:
    def __init__(self, description, name, operator):
        self._record = (description, name, operator)

    def desc(self):
        return self._record[0]

    def node_name(self):
        return self._record[1]

    def node_operator(self):
        return self._record[2]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network

    @property
    def num_errors(self):
        return 0

    def get_error(self, index):
        raise IndexError

    def parse(self, model, path=None):
        self._network.onnx = bytes(model)
        return True


class Builder:
    def __init__(self, fake: Fake, logger: ILogger) -> None:
        self._fake, self._logger = fake, logger
        self._registry = IPluginRegistry(fake)

    @property
    def num_DLA_cores(self):
        return self._fake.cores

    def get_plugin_registry(self):
        return self._registry

    def create_network(self, flags=0):
        return INetworkDefinition(self._fake, flags)

    def create_builder_config(self):
        self._fake.built = IBuilderConfig(self._logger)
        return self._fake.built

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        config.flags_of_network = network.flags
        config.onnx = network.onnx
        config.progress_monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("Building engine", step):
                return None
        config.progress_monitor.phase_finish("Building engine")
        low, high = (config.profiles[0].shapes[0][0], config.profiles[0].shapes[2][0]) if config.profiles else (1, 1)
        return IHostMemory(self._fake.plan(network.onnx, low, high))
