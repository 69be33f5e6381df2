"""The GPU suite without a GPU: its command, deadline, table, file and errors."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_suite
from benchmarks.gpu import ceilings, library, speed
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.library import PROJECT, compile_cuda, find_tool
from benchmarks.gpu.rows import Goal, Row
from emra_deploy.errors import EmraError


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
        # Parts that a bare machine lacks are reported as not measured, not as failures.
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
    assert (found["content"]["device"], found["content"]["seed"]) == (facts, 5)
    assert (
        found["run"]["command"]
        == "python benchmarks/gpu_suite.py --only engine --model model.onnx --json out.json --seed 5"
    )
    assert found["run"]["date"]
    assert found["run"]["versions"]["torch"]
    assert found["models"][0]["sha256"].startswith("ba7816bf")
    assert found["content"]["rows"][0]["verdict"] == "MISSED"
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


def test_old_gpus_and_missing_compilers_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
