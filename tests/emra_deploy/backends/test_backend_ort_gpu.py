"""ONNX Runtime's GPU providers: the options they receive, and no silent fallback to the CPU.

There is no GPU here: providers are pretended by `fake_onnxruntime`, which computes on the processor.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.ort import OnnxRuntimeBackend
from emra_deploy.backends.ort_gpu import OnnxRuntimeGpuBackend
from emra_deploy.backends.providers import PROVIDERS
from emra_deploy.errors import EmraError
from tests.emra_deploy.backends.fake_onnxruntime import CPU, Fake, Session
from tests.onnx_models import build_model, nearest_colour, scene

GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path)
    return path


def install(monkeypatch: pytest.MonkeyPatch, *available: str) -> Fake:
    fake = Fake(*available)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake.module())
    return fake


def batch_of(count: int) -> np.ndarray:
    return np.stack([scene(32, 32, seed) for seed in range(count)])


def refused(path: Path, name: str, code: str, **options: Any) -> EmraError:
    with pytest.raises(EmraError) as caught:
        open_backend(path, backend=name, **options)
    assert caught.value.code == code, caught.value
    return caught.value


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_is_not_installed_is_named_with_what_is(model: Path, name: str) -> None:
    if PROVIDERS[name].ep in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has it")
    error = refused(model, name, "backend-missing")
    assert PROVIDERS[name].ep in error.cause
    assert "CPUExecutionProvider" in error.cause
    assert "pip install" in error.remedy


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "onnxruntime-cuda",
            [("CUDAExecutionProvider", {"device_id": "1", "arena_extend_strategy": "kSameAsRequested"}), CPU],
        ),
        (
            "onnxruntime-tensorrt",
            [
                (
                    "TensorrtExecutionProvider",
                    {
                        "device_id": "1",
                        "trt_profile_min_shapes": "image:1x32x32x3",
                        "trt_profile_opt_shapes": "image:4x32x32x3",
                        "trt_profile_max_shapes": "image:4x32x32x3",
                    },
                ),
                ("CUDAExecutionProvider", {"device_id": "1"}),
                CPU,
            ],
        ),
        (
            "onnxruntime-tensorrt-rtx",
            [
                (
                    "NvTensorRTRTXExecutionProvider",
                    {
                        "device_id": "1",
                        "nv_profile_min_shapes": "image:1x32x32x3",
                        "nv_profile_opt_shapes": "image:4x32x32x3",
                        "nv_profile_max_shapes": "image:4x32x32x3",
                    },
                ),
                ("CUDAExecutionProvider", {"device_id": "1"}),
                CPU,
            ],
        ),
    ],
)
def test_simulated_providers_receive_their_options(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, expected: list[Any]
) -> None:
    fake = install(monkeypatch, *GPU)
    backend = open_backend(model, backend=name, device=1, batch=4)
    assert fake.asked == [expected]
    assert backend.name == name
    assert backend.describe()["device"] == "gpu 1"
    assert backend.describe()["provider"] == PROVIDERS[name].ep
    found = backend.run(batch_of(9))["classes"]
    np.testing.assert_array_equal(found, np.stack([nearest_colour(picture) for picture in batch_of(9)]))
    assert fake.batches == ([9] if name == "onnxruntime-cuda" else [4, 4, 1])
    # What ONNX Runtime prints would spoil --json.
    assert capsys.readouterr().out == ""


def test_simulated_engines_are_kept_only_where_asked(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = install(monkeypatch, *GPU)
    folder = tmp_path / "a" / "engines"
    open_backend(model, backend="onnxruntime-tensorrt", engine_cache=folder)
    open_backend(model, backend="onnxruntime-tensorrt-rtx", engine_cache=folder)
    first, second = (asked[0][1] for asked in fake.asked)
    assert folder.is_dir()
    assert first["trt_engine_cache_enable"] == "True"
    assert first["trt_engine_cache_path"] == str(folder)
    assert second["nv_runtime_cache_path"] == str(folder)
    for name in ("onnxruntime-cuda", "onnxruntime", "openvino"):
        refused(model, name, "backend-option", engine_cache=folder)
    (tmp_path / "file").write_text("")
    assert (
        "cannot be made"
        in refused(model, "onnxruntime-tensorrt", "backend-option", engine_cache=tmp_path / "file").cause
    )


def test_simulated_fixed_batches_and_float_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, *GPU)
    path = tmp_path / "fixed.onnx"
    build_model(path, size=(16, 24), batch=3, input_kind="float")
    backend = open_backend(path, backend="onnxruntime-tensorrt", batch=8)
    shapes = {value for key, value in fake.asked[0][0][1].items() if "shapes" in key}
    assert shapes == {"image:3x3x16x24"}
    pictures = np.stack([scene(16, 24, seed) for seed in range(4)])
    expected = OnnxRuntimeBackend(path).run(pictures)["classes"]
    np.testing.assert_array_equal(backend.run(pictures)["classes"], expected)


def test_a_simulated_provider_that_does_not_load_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, *GPU)
    fake.broken = {"CUDAExecutionProvider"}
    error = refused(model, "onnxruntime-cuda", "backend-provider")
    assert "it runs with CPUExecutionProvider only" in error.cause
    assert "--backend onnxruntime" in error.remedy
    fake.broken, fake.refusal = set(), RuntimeError("CUDA failure 35:\n driver version is insufficient")
    assert "CUDA failure 35: driver" in refused(model, "onnxruntime-cuda", "backend-provider").cause


def test_a_simulated_provider_that_takes_no_node_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, *GPU)
    fake.nodes = {CPU: 7}
    assert "none of the 7 nodes" in refused(model, "onnxruntime-cuda", "backend-provider").cause
    fake.nodes = {CPU: 1, "CUDAExecutionProvider": 6}
    assert open_backend(model, backend="onnxruntime-cuda").describe()["nodes"] == "6 of 7"


def test_simulated_providers_refuse_the_same_files(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, *GPU)
    refused(tmp_path / "none.onnx", "onnxruntime-cuda", "model-missing")
    refused(model, "onnxruntime-cuda", "backend-option", device=-1)
    content = model.read_bytes()
    model.write_bytes(content[:200])
    refused(model, "onnxruntime-cuda", "model-unreadable")
    build_model(model, metadata=False)
    refused(model, "onnxruntime-cuda", "manifest-missing")


def test_a_provider_in_a_library_of_its_own_runs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real ONNX Runtime: its CPU provider is also offered the way that plugins are."""
    chosen = PROVIDERS["onnxruntime-tensorrt-rtx"]
    stand_in = type(chosen)(**{**vars(chosen), "ep": CPU})
    monkeypatch.setitem(PROVIDERS, chosen.name, stand_in)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider"])
    backend = OnnxRuntimeGpuBackend(model, LoadOptions(chosen.name))
    # Reported by 1.24 and later.
    mine, _, every = backend.describe().get("nodes", "").partition(" of ")
    assert mine == every
    assert bool(mine) == hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    picture = scene(32, 32)
    np.testing.assert_array_equal(backend.run(picture[None])["classes"][0], nearest_colour(picture))
    refused(model, chosen.name, "backend-option", device=1)


def test_a_plugin_that_does_not_load_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the real ONNX Runtime, and a file that is not a library."""
    plugin: Any = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    library = tmp_path / "libprovider.so"
    library.write_bytes(b"no library")
    plugin.get_ep_name = lambda: PROVIDERS["onnxruntime-tensorrt-rtx"].ep
    plugin.get_library_path = lambda: str(library)
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    error = refused(model, "onnxruntime-tensorrt-rtx", "backend-provider")
    assert "is installed and does not load" in error.cause


def test_the_fake_has_the_names_of_the_real_module() -> None:
    for name in vars(Fake().module()):
        assert name.startswith("__") or hasattr(onnxruntime, name), name
    for name, member in vars(Session).items():
        if name == "get_provider_graph_assignment_info" and not hasattr(onnxruntime.InferenceSession, name):
            continue  # New in 1.24.
        if inspect.isfunction(member) and not name.startswith("_"):
            real = list(inspect.signature(getattr(onnxruntime.InferenceSession, name)).parameters)
            assert len(inspect.signature(member).parameters) <= len(real), name
    # The provider for TensorRT-RTX left the module in 1.32 and has since been registered from a separate library.
    assert hasattr(onnxruntime, "register_execution_provider_library")
    missing = {provider.ep for provider in PROVIDERS.values()} - set(onnxruntime.get_all_providers())
    assert missing <= {"NvTensorRTRTXExecutionProvider"}
