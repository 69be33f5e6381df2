"""A model in a separate process, which is replaced; flag files simulate crashes, hangs and lost GPUs there."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy.backends.isolated import MOST_LOSSES, IsolatedBackend
from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.shared_memory import ALIGNMENT, place
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.stream import Stream, StreamState
from tests.emra_deploy.cli.cli_helpers import emra, save_png
from tests.onnx_models import build_model, nearest_colour, scene

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are isolated on POSIX systems only")

SIMULATION = """
import os
if "EMRA_TEST_FAULTS" in os.environ:
    import time
    from pathlib import Path
    from emra_deploy.backends import ort
    from emra_deploy.errors import EmraError

    def run(self, batch, real=ort.OnnxRuntimeBackend._run):
        for flag in sorted(Path(os.environ["EMRA_TEST_FAULTS"]).iterdir()):
            when, kind = flag.name.split("-")[:2]
            if when == "once":
                flag.unlink()
            if kind == "crash":
                os.kill(os.getpid(), 11)
            if kind == "lost":
                raise EmraError("gpu-lost", "CUDA failure 700: an illegal memory access", "Restart")
            if kind == "hang":
                time.sleep(60)
            if kind == "refuse":
                raise EmraError("model-run", "no", "another")
            if kind == "bug":
                raise KeyError("a bug")
        return real(self, batch)

    ort.OnnxRuntimeBackend._run = run
"""
OPTIONS = LoadOptions("onnxruntime", threads=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path, heads=("classes", "logits", "confidence"))
    return path


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: a file ``once-KIND`` or ``always-KIND`` in it makes the process that runs a model fail."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SIMULATION)
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    monkeypatch.setenv("EMRA_TEST_FAULTS", str(folder))
    return folder


def batch_of(count: int) -> np.ndarray:
    return np.stack([scene(32, 32, seed) for seed in range(count)])


def test_it_answers_as_the_backend_does_for_any_batch(model: Path) -> None:
    backend = open_backend(model, backend="onnxruntime", threads=1, isolate=True)
    expected = open_backend(model, backend="onnxruntime", threads=1)
    assert backend.manifest == expected.manifest
    assert backend.input_shape == expected.input_shape
    assert backend.describe() == {**expected.describe(), "isolated": "yes"}
    for count in (2, 5, 1):
        found = backend.run(batch_of(count))
        for name, value in expected.run(batch_of(count)).items():
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
    with pytest.raises(EmraError) as caught:
        backend.run(np.zeros((1, 31, 32, 3), np.uint8))
    assert caught.value.code == "batch-shape"
    process = backend.process  # type: ignore[attr-defined]
    backend.close()
    backend.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(EmraError, match="closed"):
        backend.run(batch_of(1))


def test_errors_of_loading_are_the_backends_own(tmp_path: Path, model: Path) -> None:
    for path, name, code in (
        (tmp_path / "none.onnx", "onnxruntime", "model-missing"),
        (model, "caffe", "backend-unknown"),
        (model, "onnxruntime-cuda", "backend-missing"),
    ):
        with pytest.raises(EmraError) as caught:
            open_backend(path, backend=name, isolate=True)
        assert caught.value.code == code


def test_simulated_faults_replace_the_process(model: Path, faults: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = IsolatedBackend(model, OPTIONS)
    expected = np.stack([nearest_colour(picture) for picture in batch_of(3)])
    for restarts, (kind, reported) in enumerate((("crash", "SIGSEGV"), ("lost", "illegal memory access")), 1):
        (faults / f"once-{kind}").touch()
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(backend.run(batch_of(3))["classes"], expected)
        assert backend.restarts == restarts
        assert reported in caplog.records[-1].getMessage()
    os.kill(backend.process or 0, signal.SIGKILL)
    np.testing.assert_array_equal(backend.run(batch_of(3))["classes"], expected)
    assert backend.restarts == 3
    backend.close()


def test_a_simulated_hang_is_noticed(model: Path, faults: Path) -> None:
    backend = IsolatedBackend(model, OPTIONS, patience=2.0)
    (faults / "once-hang").touch()
    np.testing.assert_array_equal(backend.run(batch_of(1))["classes"][0], nearest_colour(batch_of(1)[0]))
    assert backend.restarts == 1
    backend.close()


def test_the_answer_to_an_interrupted_run_is_not_taken_for_the_next(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = IsolatedBackend(model, OPTIONS)
    pictures = batch_of(2)
    connection: Any = backend._connection

    def interrupted(timeout: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.run(pictures[:1])
    found = backend.run(pictures[1:])["classes"][0]
    np.testing.assert_array_equal(found, nearest_colour(pictures[1]))
    backend.close()


def test_simulated_errors_that_do_not_last_replace_nothing(model: Path, faults: Path) -> None:
    backend = IsolatedBackend(model, OPTIONS)
    (faults / "once-refuse").touch()
    with pytest.raises(EmraError) as caught:
        backend.run(batch_of(1))
    assert caught.value.code == "model-run"
    (faults / "once-bug").touch()
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        backend.run(batch_of(1))
    backend.run(batch_of(1))
    assert backend.restarts == 0
    backend.close()


def test_simulated_faults_without_end_are_given_up(model: Path, faults: Path) -> None:
    backend = IsolatedBackend(model, OPTIONS)
    (faults / "always-lost").touch()
    for reported in ("twice with the same batch", f"{MOST_LOSSES} times in a row", f"{MOST_LOSSES} times in a row"):
        with pytest.raises(EmraError, match=reported) as caught:
            backend.run(batch_of(1))
        assert caught.value.code == "worker-lost"
    assert backend.process is None
    backend.close()


def test_a_stream_survives_a_simulated_lost_gpu(model: Path, faults: Path) -> None:
    pictures = list(batch_of(5))
    with Segmenter.open(model, backend="onnxruntime", isolate=True) as segmenter, Stream(segmenter, pictures) as stream:
        first = next(stream)
        (faults / "once-lost").touch()
        rest = list(stream)
    for picture, result in zip(pictures, [first, *rest], strict=True):
        np.testing.assert_array_equal(result.labels, nearest_colour(picture))
    assert stream.status().state is StreamState.ENDED
    assert segmenter.backend.restarts == 1  # type: ignore[attr-defined]
    assert stream.status().to_dict()["restarts"] == 1


def test_a_stream_counts_only_its_own_restarts_even_of_the_last_frame(model: Path, faults: Path) -> None:
    with Segmenter.open(model, backend="onnxruntime", isolate=True) as segmenter:
        (faults / "once-crash").touch()
        segmenter.segment(batch_of(1)[0])
        with Stream(segmenter, list(batch_of(2))) as stream:
            assert stream.status().counters.restarts == 0
            (faults / "always-crash").touch()
            with pytest.raises(EmraError) as caught:
                next(stream)
        assert caught.value.code == "worker-lost"
        assert stream.status().counters.restarts == segmenter.backend.restarts - 1 > 0  # type: ignore[attr-defined]


def test_a_map_is_the_same_after_a_simulated_crash(model: Path, faults: Path, tmp_path: Path) -> None:
    picture = save_png(tmp_path / "a.png", scene(70, 90))
    arguments = ("segment", picture, "--model", model, "--backend", "onnxruntime", "--output")
    assert emra(*arguments, tmp_path / "plain.tif").returncode == 0
    # After the golden tile, which is run first.
    (faults / "once-crash").touch()
    isolated = emra(*arguments, tmp_path / "isolated.tif", "--isolate")
    assert isolated.returncode == 0, isolated.stderr
    assert "is replaced: it was ended by SIGSEGV" in isolated.stderr
    assert (tmp_path / "isolated.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()


def test_areas_do_not_overlap() -> None:
    sizes = [0, 1, 63, 64, 65, 1000]
    offsets = place(sizes)
    assert len(offsets) == len(sizes) + 1
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    for start, end, size in zip(offsets, offsets[1:], sizes, strict=False):
        assert start + size <= end
