"""compare.py: it reports regressions but not noise, and each result has its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import compare as module
from benchmarks.compare import compare, main, status_of
from benchmarks.reporting.results import write_result
from tests.benchmarks.results import candidate, latency_result

pytest.importorskip("psutil")
KEY = "emra.onnx | onnxruntime | b1 | 256x256"


def rounds(mean: float, spread: float = 0.01, seed: int = 0, count: int = 10) -> list[float]:
    return list(mean * np.random.default_rng(seed).normal(1, spread, count))


def result(mean: float, *, spread: float = 0.01, seed: int = 0, **options: Any) -> dict[str, Any]:
    return latency_result([candidate(KEY, rounds(mean, spread, seed))], **options)


@pytest.mark.parametrize(
    ("factor", "spread", "verdict", "status"),
    [
        (1.0, 0.01, module.SAME, 0),
        (1.03, 0.005, module.SAME, 0),
        (1.3, 0.01, module.WORSE, 1),
        (0.7, 0.01, module.BETTER, 0),
        (1.3, 0.9, module.UNCLEAR, 3),
    ],
)
def test_verdicts_on_times(factor: float, spread: float, verdict: str, status: int) -> None:
    noisy = np.abs(rounds(100 * factor, spread, seed=2)) + 1
    changes = compare(result(100), latency_result([candidate(KEY, noisy)]))
    assert [change.what for change in changes] == ["compute", "end to end"]
    assert {change.verdict for change in changes} == {verdict}
    assert status_of(changes) == status


def test_a_slower_machine_does_not_count_against_the_model() -> None:
    old, new = result(100, probe=0.004), result(150, seed=1, probe=0.006)
    assert status_of(compare(old, new)) == 0
    assert status_of(compare(old, new, absolute=True)) == 1


def test_a_noisy_run_concludes_nothing() -> None:
    assert status_of(compare(result(100), result(200, quiet=False))) == 3
    assert status_of(compare(result(100, quiet=False), result(100))) == 3


def test_candidates_that_come_and_go() -> None:
    two = latency_result()
    one = latency_result(two["content"]["candidates"][:1])
    lost = compare(two, one)
    assert lost[-1].verdict == module.LOST
    assert status_of(lost) == 1
    found = compare(one, two)
    assert found[-1].verdict == module.NEW
    assert status_of(found) == 0


def test_other_threads_are_not_comparable() -> None:
    old, new = result(100), result(100, seed=1)
    new["content"]["candidates"][0]["backend"]["threads"] = "4"
    changes = compare(old, new)
    assert [change.verdict for change in changes] == [module.NOT_COMPARABLE]
    assert status_of(changes) == 3


def test_energy_is_compared_where_both_have_it() -> None:
    old, new = result(100), result(100, seed=1)
    old["content"]["candidates"][0]["energy"] = {"joules_per_picture": 1.0, "watts": 10.0}
    assert len(compare(old, new)) == 2
    new["content"]["candidates"][0]["energy"] = {"joules_per_picture": 1.2, "watts": 12.0}
    changes = compare(old, new)
    assert (changes[2].what, changes[2].verdict) == ("joules per picture", module.WORSE)


def memory(peak: int) -> dict[str, Any]:
    made = latency_result()
    entry = made["content"]["candidates"][0]
    kept = {name: entry[name] for name in ("key", "name", "sha256", "backend", "batch", "height", "width", "precision")}
    host = {"peak_bytes": peak, "start_bytes": 1, "library_bytes": 1, "loaded_bytes": 1, "running_bytes": 1}
    row = {**kept, "host": host, "device": None, "shared": None, "weights_bytes": 1, "activations_bytes": None}
    return {**made, "kind": "memory", "content": {"candidates": [row]}}


@pytest.mark.parametrize(("peak", "status"), [(200, 0), (203, 0), (230, 1), (150, 0)])
def test_memory(tmp_path: Path, peak: int, status: int) -> None:
    write_result(tmp_path / "old.json", memory(200 * 2**20))
    write_result(tmp_path / "new.json", memory(peak * 2**20))
    assert main([str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == status


@given(st.floats(0.5, 2), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_worse_one_way_is_better_the_other(factor: float, seed: int) -> None:
    old, new = result(100), result(100 * factor, seed=seed)
    opposite = {module.WORSE: module.BETTER, module.BETTER: module.WORSE}
    # At the tolerance itself, 1.05 and 0.95 are not each other's inverse.
    if not 0.9 < factor < 1.12:
        there, back = compare(old, new), compare(new, old)
        assert [opposite.get(change.verdict, change.verdict) for change in there] == [change.verdict for change in back]


def write(tmp_path: Path, name: str, content: dict[str, Any]) -> str:
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return str(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = write(tmp_path, "old.json", result(100)), write(tmp_path, "new.json", result(130, seed=3))
    assert main([old, new, "--json", str(tmp_path / "c.json")]) == 1
    assert "worse" in capsys.readouterr().out
    changes = json.loads((tmp_path / "c.json").read_text())
    assert changes[0]["verdict"] == "worse"
    assert changes[0]["low"] > 1.2
    assert main([old, old]) == 0
    assert main([old, new, "--tolerance", "0.5"]) == 0


def other_device(content: dict[str, Any]) -> None:
    content["machine"]["device"] = "another"


@pytest.mark.parametrize(
    ("change", "code"),
    [(other_device, "compare-device"), (lambda content: content.update(kind="memory"), "result-file")],
)
def test_files_that_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], code: str
) -> None:
    changed = result(100)
    change(changed)
    old, new = write(tmp_path, "old.json", result(100)), write(tmp_path, "new.json", changed)
    assert main([old, new]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert f"[{code}]" in shown
    assert shown.count("\n") == 1


def test_bad_input_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path, "old.json", result(100))
    for argv in (
        [good, str(tmp_path / "none.json")],
        [good, good, "--tolerance", "-1"],
        [good, good, "--json", str(tmp_path / "none" / "c.json")],
        [good, write(tmp_path, "memory.json", memory(100))],
    ):
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith("error: ")
    changed = result(100)
    other_device(changed)
    assert main([good, write(tmp_path, "new.json", changed), "--any-device"]) == 0
