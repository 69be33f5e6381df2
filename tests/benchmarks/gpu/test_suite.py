"""The GPU suite without a GPU: its sections over the emulated kernels, its clock, its table, its file, its errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_suite
from benchmarks.gpu import accuracy, blocks, ceilings, engine, library, model, speed, timing, wheels
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.library import PROJECT, Aggregation, Problem, compile_cuda, find_tool
from benchmarks.gpu.rows import Goal, Row
from emra_deploy.backends.tensorrt.cuda import UNUSABLE
from emra_deploy.errors import EmraError
from tests.benchmarks.gpu.conftest import Graph
from tests.onnx_models import build_model


def job(*wanted: str, seconds: float = 60.0, **changes: Any) -> gpu_suite.Job:
    given = {"seed": 1, "compiled": False, "model": None, "wheels": (), "deadline": time.monotonic() + seconds}
    return gpu_suite.Job(wanted, **{**given, **changes})


def test_a_section_that_fails_leaves_the_others() -> None:
    def broken() -> list[Row]:
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    def bare() -> list[Row]:
        import no_such_library  # noqa: F401

        return []

    parts = {"speed": broken, "model": bare, "blocks": lambda: [Row("b", "x", 1.0)]}
    rows = gpu_suite.run_sections(job("speed", "model", "blocks"), parts)
    assert [(row.section, row.value, row.failed) for row in rows] == [
        ("speed", None, True),
        # What a bare machine lacks is not measured, and not broken.
        ("model", None, False),
        ("b", 1.0, False),
    ]
    assert rows[0].note == "RuntimeError: CUDA error: an illegal memory access"
    assert "no_such_library" in rows[1].note


def test_the_deadline_ends_a_section_and_keeps_the_table() -> None:
    def endless() -> list[Row]:
        while True:
            # As torch.compile's failures are caught.
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    begun = time.monotonic()
    before = signal.getsignal(signal.SIGALRM)
    parts = {"speed": endless, "blocks": lambda: [Row("b", "x", 1.0)]}
    rows = gpu_suite.run_sections(job("speed", "blocks", seconds=0.3), parts)
    assert time.monotonic() - begun < 30
    assert [(row.section, row.note, row.failed) for row in rows] == [
        ("speed", "no time was left", True),
        ("blocks", "no time was left", True),
    ]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_file_says_where_its_figures_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"abc")
    output = tmp_path / "out.json"
    facts = {"name": "Pretended", "capability": [9, 0], "torch": "2.11", "cuda": "13.0"}
    monkeypatch.setattr(gpu_suite, "device", lambda: facts)
    monkeypatch.setattr(gpu_suite, "Builds", lambda *_: SimpleNamespace(close=lambda: None))
    rows = [Row("engine", "batch 1", 2.0, "ms", Goal("<=", 1))]
    monkeypatch.setattr(gpu_suite, "make_parts", lambda job, builds: {"engine": lambda: rows})
    argv = ["--only", "engine", "--model", str(onnx), "--json", str(output), "--seed", "5"]
    assert gpu_suite.main(argv) == 1
    assert "MISSED" in capsys.readouterr().out
    found = json.loads(output.read_text())
    assert (found["device"], found["seed"]) == (facts, 5)
    assert (
        found["run"]["command"]
        == "python benchmarks/gpu_suite.py --only engine --model model.onnx --json out.json --seed 5"
    )
    assert found["run"]["date"]
    assert found["run"]["versions"]["torch"]
    assert found["models"][0]["sha256"].startswith("ba7816bf")
    assert found["rows"][0]["verdict"] == "MISSED"
    # The report takes it as it is.
    pytest.importorskip("jinja2")
    from benchmarks.report import main as report

    assert report([str(output), "--markdown", str(tmp_path / "out.md")]) == 0
    assert "gpu_suite.py --only engine" in (tmp_path / "out.md").read_text()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--model", "none.onnx"], "model-missing"),
        (["--wheels", "none"], "wheels"),
        (["--only", "speed,"], "section-unknown"),
        (["--json", "none/out.json"], "output-folder-missing"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_suite.main(argv) == 2
    shown = capsys.readouterr().err
    assert f"[{code}]" in shown
    assert len(shown.splitlines()) == 1


def test_old_gpus_and_missing_compilers_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    properties = SimpleNamespace(name="Old", major=7, minor=5, multi_processor_count=4, total_memory=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    with pytest.raises(EmraError) as caught:
        gpu_suite.device()
    assert caught.value.code == "gpu-too-old"
    properties.major = 9
    assert gpu_suite.device()["capability"] == [9, 5]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    builds = gpu_suite.Builds(tmp_path, (9, 5), ["accuracy"])
    try:
        with pytest.raises(EmraError) as caught:
            gpu_suite.make_parts(job("accuracy"), builds)
        assert caught.value.code == "nvcc-missing"
    finally:
        builds.close()


def test_a_variant_that_does_not_compile_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def done(path: str) -> Future[Path]:
        made: Future[Path] = Future()
        made.set_result(Path(path))
        return made

    failed: Future[Path] = Future()
    failed.set_exception(EmraError("nvcc-failed", "nvcc failed: no such option", "Mend it"))
    builds: Any = SimpleNamespace(
        kernels=done("k"), ceilings=done("c"), sanitized=None, variants={"good": done("g"), "bad": failed}
    )
    monkeypatch.setattr(library, "Aggregation", lambda path: path)
    monkeypatch.setattr(ceilings, "measure_ceilings", lambda path: Ceilings(1.0, 1.0, 1.0))
    timed: list[list[str]] = []
    monkeypatch.setattr(
        speed, "compare", lambda kernels, rates, tokens, variants, compiled: timed.append([*variants]) or []
    )
    rows = gpu_suite.make_parts(job("speed"), builds)["speed"]()
    assert timed == [["good"], ["good"]]
    assert [(row.name, row.verdict) for row in rows][-1] == ("bad", "not measured")


@pytest.mark.slow
def test_accuracy_over_the_emulated_kernels(pretended: list[Graph], library: Aggregation) -> None:
    case = accuracy.Case(Problem(43, 2, 5, 2, 32, 1), spread=2, offset=8)
    rows = accuracy.check(library, case, seed=3)
    assert [row.verdict for row in rows] == ["ok"]
    assert "spread 2" in rows[0].name

    class Wrong:
        workspace_bytes = staticmethod(library.workspace_bytes)

        @staticmethod
        def launch(problem: Problem, qkv: Any, gca: torch.Tensor, workspace: torch.Tensor) -> None:
            library.launch(problem, qkv, gca, workspace)
            gca[0, 0, 0] *= 1.5

    assert accuracy.check(Wrong(), case, seed=3)[0].failed  # type: ignore[arg-type]


@pytest.mark.slow
def test_speed_over_the_emulated_kernels(
    pretended: list[Graph], library: Aggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "Problem", lambda tokens: Problem(tokens, 1, 3, 1, 32, 1))
    monkeypatch.setattr(speed, "ROTATED_BYTES", 2e4)
    # Whatever a processor offers.
    monkeypatch.setattr(speed, "BACKENDS", {"math": torch.nn.attention.SDPBackend.MATH})
    monkeypatch.setattr(speed, "time_graphs", lambda works: timing.time_graphs(works, rounds=2, seconds=0.001))
    rows = speed.compare(library, Ceilings(1e9, 1e9, 1e9), 23, {"other": library}, compiled=False)
    found = {row.name: row for row in rows}
    assert {"plugin", "plugin, other", "streamed, SDPA math", "explicit FP16", "bound of this chip"} <= set(found)
    assert found["fastest SDPA / plugin"].value == pytest.approx(
        found["streamed, SDPA math"].value / found["plugin"].value  # type: ignore[operator]
    )
    assert found["extra memory, explicit / plugin"].value == 1
    assert all(row.value is not None for row in rows)


@pytest.mark.slow
def test_blocks_over_the_emulated_kernels(
    pretended: list[Graph], library: Aggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "Problem", lambda tokens: Problem(tokens, 1, 3, 1, 32, 2))
    monkeypatch.setattr(blocks, "DEPTH", 3)
    monkeypatch.setattr(blocks, "time_graphs", lambda works, rounds: timing.time_graphs(works, 2, 0.001))
    rows = blocks.compare_blocks(library, 23)
    assert [row.name for row in rows] == ["bare", "with aggregation", "with aggregation / bare"]
    assert rows[2].value == pytest.approx(rows[1].value / rows[0].value)  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_whole_model_in_its_three_forms(
    pretended: list[Graph], small_backbone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a processor the operator computes the streamed form, so all errors are alike and nothing is missed."""
    monkeypatch.setattr(model, "time_graphs", lambda works: timing.time_graphs(works, rounds=2, seconds=0.001))
    # Half precision is slow and partly missing on a processor.
    monkeypatch.setattr(torch.nn.Module, "half", lambda self: self)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: randn(*shape))
    monkeypatch.setenv("EMRA_KERNELS", "")
    rows = model.compare_models(tmp_path / "lib.so", batches=(1,), backbone="tiny", size=64)
    found = {row.name: row for row in rows}
    assert found["error of the logits, plugin"].verdict == "ok"
    # FP32 here: the forms differ by the order of sums alone.
    assert 0 < found["error of the logits, plugin"].value < 1e-4  # type: ignore[operator]
    assert {"SDPA", "plugin", "explicit", "SDPA / plugin", "extra memory, plugin"} <= set(found)
    assert os.environ["EMRA_KERNELS"] == str(tmp_path / "lib.so")


def test_times_are_those_of_one_unit_of_work(pretended: list[Graph]) -> None:
    def failing() -> None:
        raise RuntimeError("not permitted\nwhen stream is capturing")

    times, failures = timing.time_graphs(
        {"one": [lambda: time.sleep(0.002)], "three": [lambda: time.sleep(0.002)] * 3, "broken": [failing]},
        rounds=2,
        seconds=0.01,
    )
    assert set(times) == {"one", "three"}
    assert failures == {"broken": "not permitted when stream is capturing"}
    # Sleeping takes at least as long as asked; three units count as one each.
    assert all(seconds >= 0.002 for seconds, _ in times.values())
    assert timing.extra_memory(lambda: None) == 2000


def test_torch_compile_takes_the_streamed_form_whole() -> None:
    """A break in the graph would time Python."""
    from benchmarks.gpu.formulas import aggregation, make_inputs, streamed

    problem = Problem(23, 1, 3, 1, 32, 2, half=False)
    qkv = make_inputs(problem, seed=1, device="cpu")
    form = torch.compile(aggregation().aggregate_streamed, dynamic=False, backend="eager", fullgraph=True)
    found = form(qkv, problem.heads, problem.classes, problem.scale)
    torch.testing.assert_close(found, streamed(problem, qkv))


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
    """With TensorRT-RTX the engine is built, and the GPU is what is missing; without, the library is."""
    path = tmp_path / "model.onnx"
    build_model(path, size=(64, 64))
    rows = engine.measure_engine(path, tmp_path, [], 120)
    assert [row.value for row in rows] == [None]
    assert rows[0].note.split(":")[0] in UNUSABLE
    assert not rows[0].failed
    # Whoever hands over wheels wants them used.
    rows = engine.measure_engine(path, tmp_path, [tmp_path / "site"], 120)
    assert rows[0].failed


def test_an_engine_that_ends_the_process_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    rows = engine.measure_engine(tmp_path / "a.onnx", tmp_path, [], 10)
    assert rows[0].note == "the process ended with 1: it said nothing"


def test_engines_are_built_asked_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the library and the GPU: what they answer becomes rows."""
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
    # All labels 0 are not what the golden tile asks for, and the other figures are kept.
    assert answers[1]["wrong"]
    assert set(runs) == {1, 4, -1}
    assert runs[-1] == -1


@pytest.mark.slow
@pytest.mark.skipif(find_tool("nvcc") is None, reason="no nvcc here")
def test_the_ceilings_compile(tmp_path: Path) -> None:
    """The kernels themselves are compiled by tests/plugin."""
    done = compile_cuda([ceilings.SOURCE], tmp_path / "libceilings.so", (9, 0), *library.SHARED_LIBRARY)
    assert done.stat().st_size > 0
    broken = tmp_path / "broken.cu"
    broken.write_text("int main( {")
    with pytest.raises(EmraError) as caught:
        compile_cuda([broken], tmp_path / "broken", (9, 0))
    assert caught.value.code == "nvcc-failed"


def test_the_project_has_the_model_that_is_built_by_default() -> None:
    assert any((PROJECT / name).is_file() for name in gpu_suite.MODELS)


@pytest.mark.parametrize(
    ("text", "code", "cause"),
    [
        (None, "no-gpu", "finds none"),
        ("Torch not compiled with CUDA enabled", "no-gpu", "not compiled with CUDA"),
        (
            "Error 803: system has unsupported display driver / cuda driver combination",
            "cuda-mismatch",
            "different drivers",
        ),
        ("The NVIDIA driver on your system is too old (found version 12060)", "no-gpu", "too old"),
    ],
)
def test_why_pytorch_sees_no_gpu(monkeypatch: pytest.MonkeyPatch, text: str | None, code: str, cause: str) -> None:
    def init() -> None:
        if text is not None:
            raise RuntimeError(text)

    cuda = SimpleNamespace(is_available=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with pytest.raises(EmraError) as caught:
        gpu_suite.device()
    assert caught.value.code == code
    assert cause in caught.value.cause
