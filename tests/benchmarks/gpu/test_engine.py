"""Model files as engines in the GPU suite, and the wheels that bring their library."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import engine, wheels
from emra_deploy.backends.tensorrt.cuda import UNUSABLE
from emra_deploy.errors import EmraError
from tests.onnx_models import build_model


def make_wheel(folder: Path, name: str = "pretended_trt") -> Path:
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "VALUE = 7\n" + "# " + "x" * 3000)
        archive.writestr(f"{name}-1.0.data/purelib/{name}_more.py", "VALUE = 8\n")
    return wheel


@pytest.mark.parametrize("ending", [".{:02}", ".part{}", ".{}"])
def test_wheels_are_joined_and_unpacked(tmp_path: Path, ending: str) -> None:
    content = make_wheel(tmp_path).read_bytes()
    parts = tmp_path / "parts"
    parts.mkdir()
    step = -(-len(content) // 12)
    for number in range(12):
        piece = content[number * step : (number + 1) * step]
        (parts / ("pretended_trt-1.0-py3-none-any.whl" + ending.format(number))).write_bytes(piece)
    (parts / "README").write_text("no part")
    paths = wheels.unpack_wheels([parts], tmp_path / "site")
    code = "import pretended_trt, pretended_trt_more as more; print(pretended_trt.VALUE + more.VALUE)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "15", done.stderr
    assert not list((tmp_path / "site").glob("*.whl"))


def test_wheels_that_are_none_are_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    content = wheel.read_bytes()
    gap = tmp_path / "gap"
    gap.mkdir()
    for number in (0, 2):
        (gap / f"{wheel.name}.{number}").write_bytes(content[:100])
    late, cut, empty = tmp_path / "late", tmp_path / "cut-1.0-py3-none-any.whl", tmp_path / "empty"
    late.mkdir()
    (late / f"{wheel.name}.2").write_bytes(content)
    cut.write_bytes(content[:-40])
    empty.mkdir()
    for place in (gap, late, cut, empty, tmp_path / "none"):
        with pytest.raises(EmraError) as caught:
            wheels.unpack_wheels([place], tmp_path / "site")
        assert caught.value.code == "wheels"


def test_an_engine_without_a_gpu_is_a_row(tmp_path: Path) -> None:
    """With TensorRT-RTX the engine is built, and only the GPU is missing; without it, the library is missing."""
    path = tmp_path / "model.onnx"
    build_model(path, size=(64, 64))
    rows = engine.measure_engine(path, tmp_path, [], 120)
    assert [row.value for row in rows] == [None]
    assert rows[0].note.split(":")[0] in UNUSABLE
    assert not rows[0].failed
    # Wheels that are given must be used.
    rows = engine.measure_engine(path, tmp_path, [tmp_path / "site"], 120)
    assert rows[0].failed


def test_an_engine_that_ends_the_process_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    rows = engine.measure_engine(tmp_path / "a.onnx", tmp_path, [], 10)
    assert rows[0].note == "the process ended with 1: no message"


def test_engines_are_built_asked_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows made from the answers of a fake library and GPU."""
    import numpy as np

    from emra_deploy.backends.tensorrt import backend as trt
    from emra_deploy.backends.tensorrt import cuda
    from export import build_engine

    onnx = tmp_path / "model.onnx"
    manifest = build_model(onnx, size=(64, 64))
    runs: list[int] = []

    class Backend:
        name, input_shape = "tensorrt-rtx", (None, 64, 64)

        def __init__(self, path: Path, cuda: Any) -> None:
            self.manifest = manifest

        def describe(self) -> dict[str, str]:
            return {"backend": self.name, "version": "1.7", "device": "Pretended"}

        def run(self, batch: Any) -> Any:
            runs.append(len(batch))
            return {"classes": np.zeros(batch.shape[:3], np.uint8)}

        def memory(self) -> int:
            return 5_000_000

        def close(self) -> None:
            runs.append(-1)

    monkeypatch.setattr(trt, "TensorRTBackend", Backend)
    monkeypatch.setattr(cuda, "open_cuda", lambda: None)
    monkeypatch.setattr(
        build_engine, "build_engine", lambda model, output, **_: SimpleNamespace(path=output, lines=("a", "b"))
    )
    answers = engine.answers_of(onnx, tmp_path)
    assert [answer["name"] for answer in answers] == [
        "build", "golden tile, pixels that differ", "batch 1", "batch 4", "workspace",
    ]  # fmt: skip
    # Labels that are all 0 fail the golden tile, and the other figures are kept.
    assert answers[1]["wrong"]
    assert set(runs) == {1, 4, -1}
    assert runs[-1] == -1
