"""The precision table agrees with the behaviour of the files, and one failure does not lose the other rows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.precision.measure as measures
import benchmarks.precision.table as command
import export.compare.verify
from benchmarks.precision.measure import Missing, Times, measure_accuracy, measure_times
from benchmarks.precision.report import Row, Table, as_markdown
from benchmarks.reporting.provenance import describe_machine, describe_run
from benchmarks.reporting.results import make_result, read_result, write_result
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import evaluate
from emra_deploy.evaluation.metrics import ConfusionMatrix
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.segmenting.segmenter import Segmenter
from export.compare.report import PictureReport, Report
from export.compare.verify import Engine
from export.graphs.model_file import read_model, write_model
from export.int8.cost import Timing
from export.measure import Plan as Timings
from export.measure import Ratio
from export.measure.noise import Noise
from tests.conftest import REPOSITORY
from training.data import open_dataset
from training.data.scenes import generate

SCRIPT = REPOSITORY / "benchmarks" / "precision" / "table.py"
FAST = Timings(iterations=3, warmup=1, rounds=3, settle=0)


QUIET = Times({}, "1.2", Noise(0.01, 0.01, 0.01))
LOUD = Times({}, "3.4, the FP32 file in f32", Noise(0.9, 0.01, 0.01))


def scored(miou: float) -> Report:
    """A comparison in which the second model has this IoU of the first of two classes, and no pixel of the other."""
    matrices = []
    for hits in (100, round(100 * miou)):
        matrix = ConfusionMatrix(3)
        matrix.counts[0, 0], matrix.counts[0, 2] = hits, 100 - hits
        matrices.append(matrix)
    classes = ClassSet(("sea", "land", "sand"), ((0, 0, 9), (9, 0, 0), (9, 9, 0)))
    return Report(classes, (PictureReport("p", 8000, 7990),), ({}, {}), *matrices)


def row(precision: str, **changes: object) -> Row:
    ratio = Ratio(0.5, 0.4, 0.625, 0.95, 10)
    content = {
        "file": {"name": f"m.{precision}.onnx", "sha256": "ab" * 32, "bytes": 1_500_000},
        "accuracy": scored(0.5),
        "times": {"onnxruntime": Timing(0.1), "openvino": Timing(0.05, ratio)},
        "engine": Engine("TensorRT-RTX 1", 9, 2_500_000, {"int8": 3, "fp32": 1}),
    }
    return Row(precision, **{**content, **changes})  # type: ignore[arg-type]


def page(*rows: Row) -> tuple[Table, dict[str, list[str]]]:
    """A table of these rows, and the cells of its Markdown by their line's title."""
    table = Table("m", (32, 48), ("sea", "land", "sand"), "8 pictures", rows, {"onnxruntime": QUIET, "openvino": LOUD})
    text = as_markdown(table, describe_run(command.SCRIPT, ["m.onnx"]), describe_machine())
    assert "    python benchmarks/precision/table.py m.onnx\n" in text
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines[:10]}) == 1, "a Markdown table has as many cells in every line"
    return table, {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines} | {"": [text]}


def test_cells_are_what_was_measured() -> None:
    _, cells = page(row("fp32"), row("int8"))
    assert cells["mIoU"] == ["25.00", "25.00"], "of the classes that occur"
    assert cells["IoU of sea"] == ["50.00", "50.00"]
    assert cells["IoU of sand"] == ["0.00", "0.00"]
    assert cells["IoU of land"] == ["-", "-"], "a class that does not occur has no score"
    assert cells["labels that are FP32's"][1] == "99.875%"
    assert cells["file"][0] == "1.50 MB"
    assert cells["ONNX Runtime, ms a tile"][0] == "100.0"
    assert cells["OpenVINO, ms a tile"][0] == "50.0 (0.50 x, 0.40 to 0.62)"
    assert cells["TensorRT-RTX engine"][0] == "2.5 MB (1 in fp32, 3 in int8)"
    assert "  - ONNX Runtime 1.2.\n" in cells[""][0]
    assert "  - OpenVINO 3.4, the FP32 file in f32. **Too noisy to conclude**: other processes took 90%" in cells[""][0]
    assert cells["INT8"] == ["m.int8.onnx", "1500000", f"`{'ab' * 32}`"]


def test_what_is_missing_says_why_and_is_no_failure_where_the_machine_lacks_it(tmp_path: Path) -> None:
    absent, broken = Missing("no such library", failed=False), Missing("it overflows")
    table, cells = page(
        row("fp32", engine=absent),
        row("fp16", file=broken, accuracy=broken, times=dict.fromkeys(measures.LIBRARIES, broken), engine=broken),
        row("int8", engine=absent),
    )
    assert cells["mIoU"] == ["25.00", "failed (1)", "25.00"]
    assert cells["TensorRT-RTX engine"] == ["not measured (2)", "failed (1)", "not measured (2)"]
    assert "1. failed: it overflows\n2. not measured: no such library\n" in cells[""][0]
    assert [failure["candidate"] for failure in table.failures()] == ["fp16: file"]
    why = {entry["what"]: entry["why"] for entry in table.not_measured("again")}
    assert why["engine"] == "no such library"
    result = make_result("precision", command.SCRIPT, [], table.to_dict(), models=[], failures=table.failures())
    write_result(tmp_path / "r.json", result)
    rows = read_result(tmp_path / "r.json")["content"]["rows"]
    assert [entry["engine"] for entry in rows] == [None, None, None]
    assert rows[1]["file"] is rows[1]["accuracy"] is None
    assert rows[0]["accuracy"]["iou"] == {"sea": 0.5, "land": None, "sand": 0.0}


def test_accuracy_is_that_of_the_runtime_and_a_broken_file_loses_only_itself(
    small_file: Path, scene_data: Path, tmp_path: Path
) -> None:
    data = open_dataset("auto", scene_data, "val")
    (tmp_path / "cut.onnx").write_bytes(small_file.read_bytes()[:5000])
    files = {"fp32": small_file, "fp16": tmp_path / "cut.onnx", "int8": Path(str(small_file))}
    found = measure_accuracy(files, data.tiles, lambda text, done, total: None)
    with Segmenter.open(small_file, backend="onnxruntime") as segmenter:
        expected = evaluate(segmenter, data.tiles, data.classes).scores
    assert isinstance(found["fp16"], Missing)
    for name in ("fp32", "int8"):
        one = found[name]
        assert isinstance(one, Report)
        assert one.scores is not None
        assert (one.agreement, one.scores[1].miou) == (1.0, pytest.approx(expected.miou))
        np.testing.assert_allclose(one.scores[1].iou, expected.iou)


def test_a_file_that_a_library_cannot_run_loses_only_its_own_time(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.onnx").write_bytes(small_file.read_bytes()[:5000])
    failing = tmp_path / "failing.onnx"
    failing.write_bytes(small_file.read_bytes())
    right = measures.open_backend

    def opened(path: Path, **options: str) -> object:
        found = right(path, **options)
        if path == failing:
            monkeypatch.setattr(found, "run", lambda batch: 1 / 0)
        return found

    monkeypatch.setattr(measures, "open_backend", opened)
    files = {"fp32": small_file, "fp16": tmp_path / "cut.onnx", "int8": failing, "again": small_file}
    tile = generate(1, 64, 64).image
    found = measure_times("openvino", files, tile, lambda text, done, total: None, FAST)
    fp32, again = found.times["fp32"], found.times["again"]
    assert isinstance(fp32, Timing)
    assert isinstance(again, Timing)
    assert fp32.ratio is None
    assert again.ratio is not None
    assert found.times["int8"] == Missing("ZeroDivisionError: division by zero")
    cut = found.times["fp16"]
    assert isinstance(cut, Missing)
    assert cut.failed
    assert "the FP32 file in " in found.how
    assert found.noise is not None


def test_a_library_that_is_not_here_is_no_failure(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    tile = generate(1, 64, 64).image
    missing = measure_times("openvino", {"fp32": small_file}, tile, lambda text, done, total: None).times["fp32"]
    assert isinstance(missing, Missing)
    assert not missing.failed
    assert "not installed" in missing.why
    monkeypatch.setattr(export.compare.verify.importlib.util, "find_spec", lambda name: None)
    engine = measures.measure_engine(small_file, read_model(small_file)[1])
    assert isinstance(engine, Missing)
    assert not engine.failed
    assert "TensorRT-RTX is not installed" in engine.why


def test_a_precision_that_cannot_be_made_leaves_the_others(
    small_file: Path,
    scene_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def overflow(*_: object) -> None:
        raise EmraError("export-check-failed", "node 'x' leaves FP16's range", "Keep it")

    monkeypatch.setattr(command, "to_fp16", overflow)
    monkeypatch.setattr(measures.measure_times, "__defaults__", (FAST,))
    words = [str(small_file), "--data", str(scene_data), "--count", "4"]
    words += ["--output", str(tmp_path / "t.md"), "--json", str(tmp_path / "t.json")]
    assert command.main(words) == 1
    assert "1. failed: node 'x' leaves FP16's range" in capsys.readouterr().out
    fp32, fp16, int8 = read_result(tmp_path / "t.json")["content"]["rows"]
    assert fp16["file"] is None
    assert int8["file"]["bytes"] < 0.65 * fp32["file"]["bytes"]
    assert int8["accuracy"]["agreement"] >= 0.99
    assert int8["engine"]["products"]["int8"] == 19


def test_the_command(small_file: Path, scene_data: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), str(small_file), "--data", str(scene_data), "--count", "4"]
    words += ["--output", str(tmp_path / "t.md"), "--json", str(tmp_path / "t.json")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "t.md").read_text(encoding="utf-8")
    result = read_result(tmp_path / "t.json")
    assert result["failures"] == []
    assert result["run"]["command"].startswith("python benchmarks/precision/table.py small.onnx --data ")
    assert str(tmp_path) not in json.dumps(result) + done.stdout
    rows = result["content"]["rows"]
    assert [entry["precision"] for entry in rows] == ["fp32", "fp16", "int8"]
    assert rows[0]["file"]["sha256"] == hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert {entry["file"]["sha256"] for entry in rows} == {model["sha256"] for model in result["models"]}
    assert rows[0]["accuracy"]["agreement"] == 1
    assert rows[1]["accuracy"]["agreement"] >= 0.999
    for entry in rows:
        assert set(entry["times"]) == {"onnxruntime", "openvino"}
        assert all(time["seconds"] > 0 for time in entry["times"].values())
    products = [entry["engine"]["products"] for entry in rows]
    assert set(products[0]) == {"fp32"}
    assert products[1]["fp16"] > products[1].get("fp32", 0)
    assert products[2]["int8"] == 19
    for entry in rows:
        assert entry["engine"]["bytes"] > entry["file"]["bytes"], "weights as the graph computes with them, and kernels"
    again = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert again.returncode == 2
    assert "output-exists" in again.stderr


def test_a_file_of_another_model_or_precision_is_refused(
    small_file: Path, explicit_file: Path, scene_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, manifest = read_model(small_file)
    write_model(model, replace(manifest, precision="int8", parent_sha256="0" * 64), tmp_path / "other.onnx")
    words = [str(small_file), "--data", str(scene_data), "--output", str(tmp_path / "t.md")]
    assert command.main([*words, "--int8", str(tmp_path / "other.onnx")]) == 2
    assert "made of another model" in capsys.readouterr().err
    assert command.main([*words, "--fp16", str(explicit_file)]) == 2
    assert "expected fp16" in capsys.readouterr().err
    assert not (tmp_path / "t.md").exists()
