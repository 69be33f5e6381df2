"""Overlapping runs of an engine, on a simulated CUDA whose streams do their work as late as events allow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from emra_deploy.backends.tensorrt.backend import TensorRTBackend
from emra_deploy.backends.tensorrt.cuda import Cuda, CudaPython, PyCuda
from emra_deploy.backends.tensorrt.gpu_errors import MEMORY
from emra_deploy.backends.tensorrt.lanes import LANES, MAX_CAPTURED, WARM
from emra_deploy.backends.tensorrt.sidecar import MemoryNeed
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeDriver, FakeRuntime
from tests.emra_deploy.backends.tensorrt.test_backend import Make, make  # noqa: F401 - a fixture
from tests.onnx_models import nearest_colour, scene

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def batch_of(count: int, first: int = 0) -> np.ndarray:
    return np.stack([scene(32, 32, first + seed) for seed in range(count)])


def expected(batch: np.ndarray) -> np.ndarray:
    return np.stack([nearest_colour(picture) for picture in batch])


def test_a_batch_goes_to_the_gpu_while_the_one_before_is_computed(make: Make) -> None:  # noqa: F811
    bench = make(1, 2)
    engine = TensorRTBackend(bench.engine)
    batches = [batch_of(2, 10 * number) for number in range(7)]
    waits = bench.runtime.work.waits
    first, second = engine.begin(batches[0]), engine.begin(batches[1])
    # Nobody has waited for anything so far.
    assert bench.runtime.work.waits == waits
    third = engine.begin(batches[2])
    assert bench.runtime.work.waits == waits + 1
    for number, wait in ((1, second), (0, first), (2, third)):
        np.testing.assert_array_equal(wait()["classes"], expected(batches[number]))
    # A run that nobody waits for is no obstacle.
    for batch in batches[3:6]:
        engine.begin(batch)
    np.testing.assert_array_equal(engine.run(batches[6])["classes"], expected(batches[6]))
    engine.close()
    assert not bench.runtime.device
    assert not bench.runtime.host


@pytest.mark.parametrize("ahead", [(), (0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_events_keep_the_order_whichever_stream_is_ahead(make: Make, ahead: tuple[int, ...]) -> None:  # noqa: F811
    bench = make(1, 2)
    engine = TensorRTBackend(bench.engine)
    streams = sorted(bench.runtime.streams)
    assert len(streams) == 1 + LANES
    bench.runtime.work.eager = {streams[number] for number in ahead}
    batches = [batch_of(1 + number % 2, 10 * number) for number in range(10)]
    waiting = [(batch, engine.begin(batch)) for batch in batches]
    for batch, wait in waiting:
        np.testing.assert_array_equal(wait()["classes"], expected(batch))


def test_threads_that_hold_runs_do_not_wait_for_each_other(make: Make) -> None:  # noqa: F811
    engine = TensorRTBackend(make(1, 1).engine)
    together = threading.Barrier(4)

    def work(number: int) -> bool:
        pictures = [batch_of(1, 100 * number + turn) for turn in range(6)]
        together.wait(30)
        waiting = [(picture, engine.begin(picture)) for picture in pictures]
        return all(np.array_equal(wait()["classes"], expected(picture)) for picture, wait in waiting)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4), timeout=60)) == [True] * 4


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 3), (2, 4)])
def test_sizes_that_come_again_run_as_graphs(make: Make, low: int, high: int) -> None:  # noqa: F811
    bench = make(low, high)
    engine = TensorRTBackend(bench.engine)
    for turn in range(4 * (WARM + 2)):
        count = 1 + turn % high
        batch = batch_of(count, 20 * turn)
        np.testing.assert_array_equal(engine.run(batch)["classes"], expected(batch))
    assert engine.captured == tuple(range(low, high + 1))[-MAX_CAPTURED:]
    assert bench.runtime.launched > 0
    launched = bench.runtime.launched
    engine.run(batch_of(high))
    assert bench.runtime.launched == launched + 1
    engine.close()
    assert not bench.runtime.graphs
    assert not bench.runtime.device


def test_only_some_sizes_are_captured(make: Make) -> None:  # noqa: F811
    bench = make(1, MAX_CAPTURED + 2)
    engine = TensorRTBackend(bench.engine)
    for turn in range((MAX_CAPTURED + 2) * LANES * (WARM + 2)):
        batch = batch_of(1 + turn % (MAX_CAPTURED + 2), turn)
        np.testing.assert_array_equal(engine.run(batch)["classes"], expected(batch))
    assert len(engine.captured) == MAX_CAPTURED


def test_an_engine_that_cannot_be_captured_runs_without(make: Make) -> None:  # noqa: F811
    bench = make(1, 2)
    bench.fake.captures = False
    engine = TensorRTBackend(bench.engine)
    for turn in range(8):
        np.testing.assert_array_equal(engine.run(batch_of(2, turn))["classes"], expected(batch_of(2, turn)))
    assert engine.captured == ()
    assert bench.runtime.launched == 0
    assert bench.runtime.work.capturing is None


@pytest.mark.parametrize("integrated", [False, True])
def test_shared_memory_is_not_copied(make: Make, integrated: bool) -> None:  # noqa: F811
    bench = make(1, 2, integrated=integrated)
    engine = TensorRTBackend(bench.engine)
    assert engine.describe()["memory"] == ("shared" if integrated else "copied")
    for turn in range(6):
        np.testing.assert_array_equal(engine.run(batch_of(3, turn))["classes"], expected(batch_of(3, turn)))
    # 3 pictures of 32 x 32 pixels, of three bytes there and one back.
    assert bench.runtime.copied == (0 if integrated else 6 * 3 * 32 * 32 * 4)
    # The scratch memory is the GPU's own in both.
    assert len(bench.runtime.device) == (1 if integrated else 1 + 2 * LANES)
    engine.close()
    assert not bench.runtime.device
    assert not bench.runtime.host


def test_one_lane_will_do_where_there_is_no_room_for_two(
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = make(1, 2)
    bench.save(memory=MemoryNeed(None, None, 0))
    real = bench.runtime.cudaMalloc
    # The scratch memory, an input and an output.
    monkeypatch.setattr(
        bench.runtime, "cudaMalloc", lambda size: (2, None) if len(bench.runtime.device) == 3 else real(size)
    )
    engine = TensorRTBackend(bench.engine)
    assert "do not overlap" in caplog.text
    for turn in range(5):
        np.testing.assert_array_equal(engine.run(batch_of(5, turn))["classes"], expected(batch_of(5, turn)))
    engine.close()
    assert not bench.runtime.host
    assert not bench.runtime.events
    monkeypatch.setattr(bench.runtime, "cudaMalloc", lambda size: (2, None))
    with pytest.raises(EmraError) as caught:
        TensorRTBackend(bench.engine)
    assert caught.value.code == MEMORY
    assert not bench.runtime.streams


def test_a_segmenter_keeps_the_gpu_busy(make: Make) -> None:  # noqa: F811
    bench = make(1, 2)
    picture = scene(150, 190, seed=3)
    with Segmenter.open(bench.engine, batch=2) as segmenter:
        began: list[str] = []
        begin = segmenter.backend.begin  # type: ignore[attr-defined]

        def watched(batch: np.ndarray) -> object:
            began.append("begin")
            wait = begin(batch)

            def waited() -> object:
                began.append("wait")
                return wait()

            return waited

        segmenter.backend.begin = watched  # type: ignore[attr-defined]
        np.testing.assert_array_equal(segmenter.segment(picture).labels, nearest_colour(picture))
    assert began[:4] == ["begin", "begin", "wait", "begin"]
    assert began[-2:] == ["wait", "wait"]


@pytest.fixture(params=["cuda-python", "pycuda"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    made: Cuda = CudaPython(FakeRuntime(integrated=True)) if request.param == "cuda-python" else PyCuda(FakeDriver())
    return made


def test_events_and_shared_memory(cuda: Cuda) -> None:
    stream, event = cuda.stream(), cuda.event()
    cuda.record(event, stream)
    cuda.wait(stream, event)
    cuda.synchronize(stream)
    memory, address = cuda.mapped(64)
    assert address == memory.ctypes.data
    assert cuda.integrated
    memory[:] = np.arange(64)
    cuda.free_host(memory)
    cuda.free_event(event)
    cuda.free_stream(stream)
