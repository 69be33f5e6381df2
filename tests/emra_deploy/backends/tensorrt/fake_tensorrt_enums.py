"""The enumerations of TensorRT's Python interface that are in use."""

from __future__ import annotations

import enum


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, UINT8, INT32, INT64 = "f4", "f2", "i1", "u1", "i4", "i8"


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    GPU_FALLBACK, TF32, VERSION_COMPATIBLE = range(3)


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, DETAILED, NONE = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class HardwareCompatibilityLevel(enum.Enum):
    NONE, AMPERE_PLUS = range(2)


class DeviceType(enum.Enum):
    GPU, DLA = range(2)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)
