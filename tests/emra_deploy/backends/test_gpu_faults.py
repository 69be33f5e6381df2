"""A GPU without free memory, or lost. Every fault is simulated, with the messages of real libraries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy.backends.gpu_guard import GpuGuard
from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.tensorrt.backend import TensorRTBackend
from emra_deploy.backends.tensorrt.device import FreeMemory
from emra_deploy.backends.tensorrt.gpu_errors import LOST, MEMORY, asked_for, fault_of
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.stream import Stream, StreamState
from tests.emra_deploy.backends.fake_onnxruntime import Fake
from tests.emra_deploy.backends.tensorrt.test_backend import Make, make  # noqa: F401 - a fixture
from tests.onnx_models import build_model, nearest_colour, scene

pytest.importorskip("onnx")

STAYING = (214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810)
"""Errors of which CUDA's documentation says that the process must be relaunched, or whose context is gone."""


def test_the_texts_of_the_real_runtime_are_understood() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for error in runtime.cudaError_t:
        text = runtime.cudaGetErrorString(error)[1]
        text = text.decode() if isinstance(text, bytes) else text
        expected = LOST if int(error) in STAYING else MEMORY if int(error) == 2 else None
        if int(error) == 53:
            # "unspecified launch failure in prior launch", of CUDA 3.0 and older.
            continue
        assert fault_of(text) == expected, (error, text)
        if expected is not None:
            assert fault_of(f"call failed with {error.name}") in (expected, None)


@pytest.mark.parametrize(
    ("text", "code", "size"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize", LOST, None),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size)", MEMORY, None),
        (
            "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 1536000",
            MEMORY,
            1536000,
        ),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", MEMORY, None),
        ("Error Code 2: OutOfMemory (Requested size was 4096 bytes.)", MEMORY, 4096),
        ("cuMemcpyDtoHAsync failed: an illegal memory access was encountered", LOST, None),
        ("Error Code 1: Cuda Runtime (unspecified launch failure)", LOST, None),
        ("Non-zero status code returned while running Reshape node", None, None),
    ],
)
def test_the_texts_of_libraries_are_understood(text: str, code: str | None, size: int | None) -> None:
    assert fault_of(text) == code
    assert asked_for(text) == size


class Gpu:
    """Memory for some tiles at once, with an illegal access on request."""

    def __init__(self, room: int) -> None:
        self.room, self.broken = room, False
        self.batches: list[int] = []

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(len(batch))
        if self.broken:
            raise EmraError(LOST, "an illegal memory access was encountered", "restart")
        if len(batch) > self.room:
            raise EmraError(MEMORY, "out of memory", "less")
        return {"classes": batch[..., 0]}


def batch_of(count: int) -> np.ndarray:
    return np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)


@pytest.mark.parametrize("count", [4, 5, 7])
def test_a_simulated_full_gpu_gets_half_the_batch_from_then_on(count: int, caplog: pytest.LogCaptureFixture) -> None:
    gpu, guard = Gpu(4), GpuGuard("TensorRT", lambda size: None, lambda: None)
    for _ in range(2):
        found = guard.run(batch_of(count), gpu.run)["classes"]
        np.testing.assert_array_equal(found, batch_of(count)[..., 0])
    half = (count + 1) // 2
    halves = [half, count - half]
    assert gpu.batches == ([4, 4] if count == 4 else [count, *halves, *halves])
    assert len(caplog.records) == (count > 4)


def test_a_simulated_gpu_that_is_too_full_says_what_is_needed_and_free() -> None:
    gpu = Gpu(1)
    guard = GpuGuard("TensorRT", lambda size: size * 10**9, lambda: FreeMemory(123_000_000, "shared"))
    with pytest.raises(
        EmraError, match=r"4 tiles at once: 4\.0 GB are needed in all, and 123\.0 MB of shared"
    ) as caught:
        guard.run(batch_of(8), gpu.run)
    assert caught.value.code == MEMORY
    assert gpu.batches == [8, 4]
    alone = GpuGuard("TensorRT", lambda size: None, lambda: None)
    with pytest.raises(EmraError, match="1 tile at once: how much it needs is not known"):
        alone.run(batch_of(1), Gpu(0).run)


def test_a_simulated_lost_gpu_is_not_asked_again() -> None:
    gpu, guard = Gpu(4), GpuGuard("TensorRT", lambda size: None, lambda: None)
    guard.run(batch_of(1), gpu.run)
    gpu.broken = True
    for reported in ("illegal memory access", "was lost before", "was lost before"):
        with pytest.raises(EmraError, match=reported) as caught:
            guard.run(batch_of(2), gpu.run)
        assert caught.value.code == LOST
        gpu.broken = False
    assert gpu.batches == [1, 2]
    assert guard.lost


def simulate(path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    build_model(path)
    fake = Fake("CUDAExecutionProvider")
    monkeypatch.setitem(sys.modules, "onnxruntime", fake.module())
    return fake


def test_simulated_faults_of_onnx_runtime_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = simulate(tmp_path / "model.onnx", monkeypatch)
    backend = open_backend(tmp_path / "model.onnx", backend="onnxruntime-cuda")

    def full(batch: int) -> None:
        if batch > 2:
            raise RuntimeError(f"Failed to allocate memory for requested buffer of size {batch * 1000}")

    fake.before_run = full
    pictures = np.stack([scene(32, 32, seed) for seed in range(4)])
    found = backend.run(pictures)["classes"]
    np.testing.assert_array_equal(found, np.stack([nearest_colour(picture) for picture in pictures]))
    assert fake.batches == [4, 2, 2]

    def fuller(batch: int) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    fake.before_run = fuller
    with pytest.raises(EmraError, match="MB are needed in all") as caught:
        backend.run(pictures)
    assert caught.value.code == MEMORY

    def broken(batch: int) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    fake.before_run = broken
    with pytest.raises(EmraError, match="CUDA cannot run 1 tiles") as caught:
        backend.run(pictures[:1])
    assert caught.value.code == LOST
    fake.before_run = lambda batch: None
    with pytest.raises(EmraError, match="was lost before"):
        backend.run(pictures[:1])


def test_simulated_faults_of_tensorrt(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    bench = make(1, 4)
    engine = TensorRTBackend(bench.engine)
    pictures = np.stack([scene(32, 32, seed) for seed in range(4)])
    real = bench.runtime.cudaStreamSynchronize
    answers: list[int] = [2]
    monkeypatch.setattr(
        bench.runtime, "cudaStreamSynchronize", lambda stream: (answers.pop(),) if answers else real(stream)
    )
    found = engine.run(pictures)["classes"]
    np.testing.assert_array_equal(found, np.stack([nearest_colour(picture) for picture in pictures]))
    answers[:] = [2]
    with pytest.raises(EmraError, match=r"2 tiles at once: .* are needed in all, and .* of GPU memory are free"):
        engine.run(pictures)
    answers[:] = [700]
    with pytest.raises(EmraError, match="an illegal memory access") as caught:
        engine.run(pictures)
    assert caught.value.code == LOST
    with pytest.raises(EmraError, match="was lost before"):
        engine.run(pictures)
    # Nothing can be freed then, and nothing is said about it.
    for name in ("cudaFree", "cudaStreamDestroy"):
        monkeypatch.setattr(bench.runtime, name, lambda handle: (700,))
    engine.close()


def test_a_stream_on_a_simulated_lost_gpu_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = simulate(tmp_path / "model.onnx", monkeypatch)

    def broken(batch: int) -> None:
        if len(fake.batches) > 3:
            raise RuntimeError("CUDA failure 719: unspecified launch failure")

    fake.before_run = broken
    segmenter = Segmenter.open(tmp_path / "model.onnx", backend="onnxruntime-cuda")
    pictures: list[Any] = [scene(32, 32, seed) for seed in range(6)]
    seen: list[Any] = []
    with Stream(segmenter, pictures) as stream, pytest.raises(EmraError) as caught:
        seen.extend(stream)
    assert caught.value.code == LOST
    status = stream.status()
    assert status.state is StreamState.FAILED
    assert "unspecified launch failure" in status.reason
    assert status.counters.delivered == 2
    assert status.counters.left >= 1
