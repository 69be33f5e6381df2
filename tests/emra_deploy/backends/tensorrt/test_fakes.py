"""The fakes have the interfaces of the real modules, so tests with fakes are valid for these."""

from __future__ import annotations

import enum
import inspect
import re

import pytest

from emra_deploy.backends.tensorrt.cuda_python import _MAPPED, _WITHOUT_TIMING
from tests.emra_deploy.backends.tensorrt import fake_tensorrt
from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeRuntime


def parameters(method: object) -> list[list[tuple[str, bool]]]:
    """For each overload its parameters and whether they may be left out, from what pybind11 writes into docstrings."""
    overloads = []
    for line in (getattr(method, "__doc__", None) or "").splitlines():
        found = re.match(r"\s*(?:\d+\. )?\w+\((.*)\) -> ", line)
        if found and "*args" not in line:
            parts = re.split(r"(?:^|, )(\w+): ", found.group(1))
            overloads.append([(name, " = " in kind) for name, kind in zip(parts[1::2], parts[2::2], strict=True)])
    return overloads


def takes(method: object, names: list[str]) -> bool:
    """Whether some overload takes these parameters, by these names, and needs no others."""
    return any(
        [name for name, _ in overload[: len(names)]] == names
        and all(optional for _, optional in overload[len(names) :])
        for overload in parameters(method)
    )


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx_bindings")


CLASSES = [
    kind
    for kind in vars(fake_tensorrt).values()
    if inspect.isclass(kind)
    and kind.__module__.startswith(fake_tensorrt.__name__)
    and kind.__name__ not in ("Fake", "Severity")
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_tensorrt(trt, kind: type) -> None:
    real = getattr(trt, kind.__name__)
    if issubclass(kind, enum.Enum):
        assert set(kind.__members__) <= set(real.__members__)
        return
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        assert hasattr(real, name), f"the real {kind.__name__} has no {name}"
        if inspect.isfunction(member):
            mine = list(inspect.signature(member).parameters)
            assert takes(getattr(real, name), mine), f"{kind.__name__}.{name}: {parameters(getattr(real, name))}"
        elif isinstance(member, property):
            assert not parameters(getattr(real, name)), f"the real {kind.__name__}.{name} is a method"


def test_attributes_that_the_builder_sets(trt) -> None:
    settable = {"profiling_verbosity", "hardware_compatibility_level", "default_device_type", "DLA_core"}
    for name in (*settable, "progress_monitor"):
        assert name in vars(fake_tensorrt.IBuilderConfig(fake_tensorrt.ILogger()))
        assert isinstance(getattr(trt.IBuilderConfig, name), property)
        assert getattr(trt.IBuilderConfig, name).fset is not None


def test_monitors_and_loggers_are_called_as_written(trt) -> None:
    from emra_deploy.backends.tensorrt.log import Messages, make_logger
    from export.engine.progress import BuildProgress, make_monitor

    monitor = make_monitor(trt, BuildProgress())
    for name in ("phase_start", "step_complete", "phase_finish"):
        mine = ["self", *inspect.signature(getattr(monitor, name)).parameters]
        assert takes(getattr(trt.IProgressMonitor, name), mine)
    logger = make_logger(trt, Messages())
    assert takes(trt.ILogger.log, ["self", *inspect.signature(logger.log).parameters])
    assert set(fake_tensorrt.Severity.__members__) == set(trt.ILogger.Severity.__members__)


def test_types_of_tensors(trt) -> None:
    made = fake_tensorrt.Fake().module()
    for kind in fake_tensorrt.DataType:
        assert made.nptype(kind) == trt.nptype(getattr(trt.DataType, kind.name))


def test_cuda_python() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name in vars(FakeRuntime) if name.startswith("cuda")]
    assert len(names) > 10
    for name in names:
        if inspect.isclass(getattr(FakeRuntime, name)):
            for member in getattr(FakeRuntime, name):
                assert int(getattr(getattr(real, name), member.name)) == int(member)
            continue
        mine = [
            parameter for parameter in inspect.signature(getattr(FakeRuntime, name)).parameters if parameter != "self"
        ]
        assert mine == list(inspect.signature(getattr(real, name)).parameters)
    assert {"name", "major", "minor"} <= set(dir(real.cudaDeviceProp()))
    assert (int(real.cudaHostAllocMapped), int(real.cudaEventDisableTiming)) == (_MAPPED, _WITHOUT_TIMING)
