"""latency.py, memory.py and roofline.py as people run them, on small real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import latency, memory, roofline
from benchmarks.candidates.graph_cost import GraphCost
from benchmarks.latency import main
from benchmarks.machine_state.ceilings import measure_host
from benchmarks.reporting.results import read_result
from benchmarks.roofline import least_time
from tests.conftest import REPOSITORY
from tests.onnx_models import build_model

pytest.importorskip("psutil")
pytest.importorskip("onnxruntime")
QUICK = ["--iterations", "6", "--warmup", "1", "--rounds", "3", "--threads", "1"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path, size=(64, 64))
    return path


def test_latency_of_two_models_and_a_broken_one(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second, broken = tmp_path / "float.onnx", tmp_path / "broken.onnx"
    build_model(second, size=(64, 64), input_kind="float")
    broken.write_bytes(b"no model")
    output = tmp_path / "out.json"
    argv = [str(model), str(broken), str(second), "--batch", "1,2", "--profile", "--json", str(output), *QUICK]
    # A failing one is reported, and the others are kept.
    assert main(argv) == 1
    result = read_result(output)
    content = result["content"]
    keys = [entry["key"] for entry in content["candidates"]]
    assert keys == [
        f"{name} | onnxruntime | b{batch} | 64x64" for name in ("model.onnx", "float.onnx") for batch in (1, 2)
    ]
    assert {entry["candidate"].split(" | ")[0] for entry in result["failures"]} == {"broken.onnx"}
    assert result["failures"][0]["code"] == "model-unreadable"
    for entry in content["candidates"]:
        stages = entry["stages"]
        assert stages["compute"]["count"] == 6
        assert stages["upload"] is None
        assert stages["end_to_end"]["p50"] >= stages["compute"]["low"]
        assert len(entry["rounds"]["compute"]) == 3
        assert entry["throughput"] == pytest.approx(entry["batch"] / stages["compute"]["mean"])
        assert entry["profile"]["layers"] > 2
    assert [ratio["against"] for ratio in content["ratios"]] == [keys[0]] * 6
    assert len(content["probe"]["rounds"]) == 3
    assert {entry["name"] for entry in result["models"]} == {"model.onnx", "float.onnx"}
    assert result["models"][0]["manifest"]["evidence"] == {"miou": 0.5}
    assert str(tmp_path) not in output.read_text()
    shown = capsys.readouterr().out
    assert "failed: broken.onnx" in shown
    # What this machine cannot measure is said, with the command that does.
    reported = {entry["what"].split(":")[0]: entry["command"] for entry in result["not_measured"]}
    assert "python -m benchmarks.latency" in reported["Jetson"]


def test_a_model_that_fails_while_running_is_left_out(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.candidates.files import TimedFile

    run, calls = TimedFile.run, []

    def fail_late(self: TimedFile, batch: Any) -> Any:
        calls.append(len(batch))
        if len(batch) == 2 and calls.count(2) > 3:
            raise MemoryError("no room")
        return run(self, batch)

    monkeypatch.setattr(TimedFile, "run", fail_late)
    output = tmp_path / "out.json"
    assert main([str(model), "--batch", "2,1", "--json", str(output), *QUICK]) == 1
    result = read_result(output)
    assert [entry["batch"] for entry in result["content"]["candidates"]] == [1]
    assert result["failures"] == [
        {"candidate": "model.onnx | onnxruntime | b2 | 64x64", "code": "MemoryError", "message": "no room"}
    ]
    # The baseline is gone, so there is nothing to be a ratio to.
    assert result["content"]["ratios"] == []


def test_the_baseline_can_be_chosen_and_a_chart_written(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("matplotlib")
    output, chart = tmp_path / "out.json", tmp_path / "chart.svg"
    argv = [str(model), "--batch", "1,2", "--baseline", "b2", "--json", str(output), "--plot", str(chart), *QUICK]
    assert main(argv) == 0
    assert {ratio["against"] for ratio in read_result(output)["content"]["ratios"]} == {
        "model.onnx | onnxruntime | b2 | 64x64"
    }
    assert "<svg" in chart.read_text()


def test_the_command_as_a_subprocess_without_torch(tmp_path: Path, model: Path) -> None:
    """On a device: no torch, only the runtime and the extra `bench`."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys\nfor name in ('torch', 'timm'): sys.modules[name] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{blocked}{os.pathsep}{REPOSITORY}", "COLUMNS": "200"}
    argv = [sys.executable, "benchmarks/latency.py", str(model), "--json", str(tmp_path / "out.json"), *QUICK]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "model.onnx | onnxruntime | b1 | 64x64" in done.stdout
    assert "Traceback" not in done.stderr
    refused = subprocess.run(
        [*argv[:3], "--peer", "smp-unet-resnet34", "--sizes", "64", "--backend", "torch,onnxruntime", *QUICK],
        capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=120,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "is not installed" in refused.stdout


@pytest.mark.parametrize("command", [latency, memory, roofline])
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], "no-models"),
        (["none.onnx"], "model-missing"),
        (["{model}", "--backend", "caffe"], "backend-unknown"),
        (["{model}", "--batch", "0"], "batch-size"),
        (["{model}", "--sizes", "1"], "size"),
        (["{model}", "--threads", "0"], "threads"),
        (["{model}", "--json", "{folder}/none/out.json"], "output-folder-missing"),
        (["{model}", "--json", "{folder}"], "output-is-folder"),
        (["{model}", "--json", "{model}", "--overwrite"], "output-is-input"),
        (["{model}", "--sizes", "32"], "nothing-measured"),
        (["{folder}/a.engine"], "nothing-measured"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], command: Any, argv: list[str], code: str
) -> None:
    (tmp_path / "a.engine").write_bytes(b"ftrt" + bytes(40))
    words = [word.format(model=model, folder=tmp_path) for word in argv]
    assert command.main(words) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("error: ")
    assert f"[{code}]" in shown
    assert not list(tmp_path.glob("out*"))


def test_plans_and_charts_that_cannot_be_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, code in (
        (["--iterations", "0"], "iterations"),
        (["--rounds", "9", "--iterations", "3"], "iterations"),
        (["--plot", str(tmp_path / "a.gif")], "output-suffix"),
        (["--baseline", "nothing like it", *QUICK], "baseline"),
    ):
        assert main([str(model), *argv]) == 2
        assert f"[{code}]" in capsys.readouterr().err


def test_an_existing_result_is_kept(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "out.json"
    output.write_text("mine")
    assert main([str(model), "--json", str(output), *QUICK]) == 2
    assert output.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_memory_of_a_fresh_process(tmp_path: Path) -> None:
    # Eight million weights, which nothing but this model needs.
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    build_model(small, size=(64, 64))
    heavy(small, large, 8_000_000)
    output = tmp_path / "out.json"
    assert memory.main([str(small), str(large), "--threads", "1", "--json", str(output)]) == 0
    rows = {entry["name"]: entry for entry in read_result(output)["content"]["candidates"]}
    first, second = rows["small.onnx"], rows["large.onnx"]
    assert second["weights_bytes"] - first["weights_bytes"] == 32_000_000
    growth = second["host"]["loaded_bytes"] - first["host"]["loaded_bytes"]
    # ONNX Runtime holds the weights once, and while loading the file as well.
    assert 30_000_000 < growth < 110_000_000
    for row in rows.values():
        host = row["host"]
        assert host["peak_bytes"] >= host["start_bytes"] + host["library_bytes"]
        assert host["running_bytes"] is None or host["running_bytes"] >= 0
        assert row["device"] is None
        assert row["activations_bytes"] > 64 * 64 * 3


def heavy(source: Path, target: Path, count: int) -> None:
    """The same model, with a constant that is added to its logits after being shrunk to nothing."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    weight = np.random.default_rng(0).random(count, np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(weight, "heavy"), numpy_helper.from_array(np.int64(7), "at")]
    )
    # One entry is picked by the picture itself, or the constant would be folded away.
    nodes = [
        helper.make_node("ReduceMax", ["bytes"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["index"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["heavy", "index"], ["picked"]),
        helper.make_node("Add", ["planes", "picked"], ["shifted"]),
    ]
    place = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Conv")
    model.graph.node[place].input[0] = "shifted"
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    for node in model.graph.node:
        if node.op_type == "ArgMax":
            node.output[0] = "best"
        if node.op_type == "Cast" and node.output[0] == "classes":
            node.input[0] = "best"
    del model.metadata_props[:]
    from tests.onnx_models import make_manifest

    helper.set_model_props(model, make_manifest(size=(64, 64), golden=False).to_metadata())
    onnx.save(model, target)


def test_a_process_that_dies_is_reported(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert memory.main([str(model)]) == 2
    assert "ended with 1" in capsys.readouterr().err


def test_the_roofline_of_a_small_model(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(roofline, "measure_host", lambda threads: measure_host(threads, side=128, copy_bytes=2**22))
    output, chart = tmp_path / "out.json", tmp_path / "chart.png"
    argv = [
        str(model),
        "--iterations",
        "6",
        "--warmup",
        "1",
        "--threads",
        "1",
        "--json",
        str(output),
        "--plot",
        str(chart),
    ]
    assert roofline.main(argv) == 0
    content = read_result(output)["content"]
    row = content["models"][0]
    # A 1x1 convolution from 3 to 5 channels.
    assert row["matrix_flops"] == {"fp32": 2 * 64 * 64 * 3 * 5}
    assert row["attained"] == pytest.approx(row["bound_seconds"] / row["seconds"]["p50"])
    assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"]["p50"])
    assert content["ceilings"]["bandwidth"]["per_second"] > 1e8
    assert content["ceilings"]["compute"]["fp32"]["per_second"] > 1e8
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_the_least_time_is_that_of_the_tighter_ceiling() -> None:
    ceilings = {
        "bandwidth": {"per_second": 10.0},
        "compute": {"fp32": {"per_second": 100.0}, "int8": {"per_second": 400.0}, "bf16": {"per_second": 200.0}},
    }

    def cost(flops: dict[str, int], size: int) -> GraphCost:
        return GraphCost(1, flops, 0, size, 0, 0, size, 0, {})

    assert least_time(cost({"fp32": 1000}, 10), ceilings, None) == (10.0, "compute")
    assert least_time(cost({"fp32": 1000}, 1000), ceilings, None) == (100.0, "memory")
    assert least_time(cost({"fp32": 100, "int8": 400}, 0), ceilings, None) == (2.0, "compute")
    # OpenVINO computes an FP32 graph in BF16 when asked to; INT8 stays INT8.
    assert least_time(cost({"fp32": 100, "int8": 400}, 0), ceilings, "bf16") == (1.5, "compute")
    assert least_time(cost({"fp16": 100}, 0), ceilings, None) is None


def test_results_name_the_command_and_the_revision(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "out.json"
    assert main([str(model), "--json", str(output), *QUICK]) == 0
    run = json.loads(output.read_text())["run"]
    assert run["command"].startswith("python benchmarks/latency.py model.onnx --json out.json --iterations 6")
    assert run["versions"]["onnxruntime"]
