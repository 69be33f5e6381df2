"""The optimiser end to end on a small model: measurements, outputs and refusals; and its parts alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from PIL import Image

import export.optimize as command
from benchmarks.precision.int8_ablation import ablate, as_markdown
from emra_deploy.errors import EmraError
from export.compare.report import LogitError, PictureReport, Report
from export.graphs.model_file import read_model
from export.int8.acceptance import Acceptance, read_windows
from export.int8.cost import (
    DEVICES,
    Device,
    Roofline,
    Variant,
    compile_onnxruntime,
    compile_openvino,
    cut_out,
    open_cost_model,
)
from export.int8.linears import find_linears
from export.int8.qdq import insert_qdq
from export.int8.ranges import collect_magnitudes, ranges_of
from export.int8.search import NOTHING, Budget
from export.int8.sensitivity import Degradation, Quantizer, measure_sensitivity
from export.optimize import Settings, optimize
from tests.onnx_models import CLASSES
from training.data import open_dataset
from training.data.scenes import generate

REPOSITORY = Path(__file__).resolve().parents[2]
FAST = Settings(Budget(0.5, 2.0), target="orin", windows=4, count=4, curve=2, tries=2)


@pytest.fixture(scope="module")
def data(scene_data: Path) -> Path:
    return scene_data


@pytest.fixture(scope="module")
def quantizer(small_file: Path, data: Path) -> Quantizer:
    model, manifest = read_model(small_file)
    linears = find_linears(model)
    tiles = np.stack([w.pixels() for w in read_windows(open_dataset("auto", data, "train").tiles, manifest.tile, 3)])
    return Quantizer(model, manifest, linears, ranges_of(collect_magnitudes(model, linears, manifest, tiles), "minmax"))


def test_the_evidence_is_in_every_output(small_file: Path, data: Path, tmp_path: Path) -> None:
    output, table, plot = (tmp_path / name for name in ("m.onnx", "table.txt", "plot.png"))
    report, written = optimize(small_file, data, FAST, output=output, table=table, plot=plot)
    assert report.chosen.outcome.within(FAST.budget)
    content = report.to_dict()
    json.dumps(content, allow_nan=False)
    assert not content["cost"]["measured"]
    assert content["cost"]["how"].startswith("modelled")
    assert len(content["sensitivity"]["linears"]) == 19
    assert set(content["sensitivity"]["blocks"]) == {"patch_embed", *(f"blocks.{b}" for b in range(4)), "hra"}
    assert content["evaluations"] == len(content["points"]) - 1 >= 1
    assert content["all_pictures"]["pictures"] == 2
    assert content["all_pictures"]["miou_drop_points"] <= 0.5
    assert sum(point["pareto"] for point in content["points"]) >= 1
    assert written is not None
    assert written.manifest == read_model(output)[1]
    evidence = written.manifest.evidence["int8"]
    assert evidence["optimize"] == json.loads(json.dumps(content))
    assert evidence["high_precision"] == "fp16", "GPUs compute the rest in FP16"
    assert evidence["quantized"] == len(report.chosen.linears)
    quantizers = [node for node in onnx.load(output).graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == evidence["quantized"]
    text = table.read_text(encoding="utf-8")
    assert "chosen" in text
    assert "ms (modelled)" in text
    assert max(map(len, text.splitlines())) <= 110
    with Image.open(plot) as picture:
        assert picture.size[0] > 800


def test_no_linear_is_cheap_enough(small_file: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    # No accuracy may be lost, and every choice loses some.
    monkeypatch.setattr(command, "Acceptance", lambda *_: lambda names: replace(NOTHING, drop=float(len(names))))
    with pytest.raises(EmraError) as caught:
        optimize(small_file, data, replace(FAST, budget=Budget(0.5, 0.5)), output=tmp_path / "m.onnx")
    assert caught.value.code == "optimize-nothing"
    assert "lost 1.000" in caught.value.cause
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"target": "tpu"}, "optimize-target"),
        ({"windows": 0}, "optimize-windows"),
        ({"split": "test"}, "split-missing"),
        ({"count": 9999}, "calibration-too-few"),
        ({"method": "kl"}, "export-argument"),
    ],
)
def test_bad_settings(options: dict, code: str, small_file: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(EmraError) as caught:
        optimize(small_file, data, replace(FAST, **options), output=tmp_path / "m.onnx")
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_data_of_other_classes_or_none(small_file: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(EmraError) as caught:
        optimize(small_file, tmp_path, FAST)
    assert caught.value.code == "dataset-unrecognised"
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").mkdir()
        name = next((data / kind / "val").iterdir())
        (tmp_path / kind / "val" / name.name).write_bytes(name.read_bytes())
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"names": list("abcde"), "masks": "index"}))
    with pytest.raises(EmraError) as caught:
        optimize(small_file, tmp_path, FAST)
    assert caught.value.code == "class-mismatch"


def test_each_linear_alone(quantizer: Quantizer, data: Path) -> None:
    tiles = np.stack([generate(seed, 64, 64).image for seed in (40, 41)])
    steps: list[int] = []
    found = measure_sensitivity(quantizer, tiles, lambda: steps.append(1))
    assert set(found.linears) == set(quantizer.linears)
    assert all(one.divergence > 0 and one.logit_error > 0 for one in found.linears.values())
    assert found.blocks["patch_embed"] == found.linears["patch_embed.proj"], "a block of one linear is that linear"
    assert found.whole.divergence > max(one.divergence for one in found.linears.values()) / 2
    assert 0.2 < found.additivity < 5
    assert len(steps) == command.count_variants(list(quantizer.linears.values()))
    # A range that is far too narrow degrades the linear that has it.
    victim = "blocks.2.mlp.fc1"
    ranges = dict(quantizer.ranges)
    ranges[quantizer.linears[victim].source] /= 20
    broken = Quantizer(quantizer.model, quantizer.manifest, list(quantizer.linears.values()), ranges)
    worse = Degradation.of(broken.compare(broken.open(()), [victim], tiles))
    assert worse.divergence > 20 * found.linears[victim].divergence


def test_logits_that_are_not_finite_are_refused() -> None:
    broken = PictureReport("t", 1, 1, LogitError(float("inf"), 0.0, 0.0, 0.0, 0, 0.0))
    with pytest.raises(EmraError) as caught:
        Degradation.of(Report(CLASSES, (broken,), ({}, {})))
    assert caught.value.code == "quantize-not-finite"


def test_acceptance_scores_like_the_confusion_matrix_of_torchmetrics(quantizer: Quantizer, data: Path) -> None:
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex

    windows = read_windows(open_dataset("auto", data, "val").tiles, quantizer.manifest.tile, 4)
    tiles, truth = (np.stack(arrays) for arrays in zip(*((w.pixels(), w.read_labels()) for w in windows), strict=True))
    assert tiles.shape == (4, 64, 64, 3)
    accept = Acceptance(quantizer, windows)
    metric = MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    runners = quantizer.open(()), quantizer.open(quantizer.linears)
    before, after = (np.concatenate([one.run(tile[np.newaxis])["classes"] for tile in tiles]) for one in runners)
    values = [float(metric(torch.from_numpy(labels), torch.from_numpy(truth))) for labels in (before, after)]
    outcome = accept(quantizer.linears)
    assert outcome.drop == pytest.approx(100 * (values[0] - values[1]), abs=1e-3)
    assert outcome.agreement == pytest.approx(float((before == after).mean()))
    assert accept(()).drop == 0


def test_windows_of_pictures_smaller_than_the_input(data: Path) -> None:
    """They are no larger than the picture, so what fills up the model's input counts for nothing."""
    windows = read_windows(open_dataset("auto", data, "val").tiles, (96, 96), 2)
    assert [(one.pixels().shape, one.read_labels().shape) for one in windows] == [((70, 96, 3), (70, 96))] * 2
    assert all((one.read_labels() != 255).all() for one in windows)


@pytest.mark.parametrize("name", ["blocks.1.attn.qkv", "blocks.1.mlp.fc2", "patch_embed.proj", "hra.affinity"])
def test_a_linear_cut_out_of_the_graph(name: str, quantizer: Quantizer) -> None:
    """It computes what the node computes in the graph, in FP32 and in INT8."""
    linear = quantizer.linears[name]
    for ranges in (None, quantizer.ranges):
        alone, example = cut_out(quantizer.model, linear, ranges)
        whole = insert_qdq(quantizer.model, [linear] if ranges else [], quantizer.ranges)
        for tensor in (linear.source, linear.node):
            whole.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(whole.SerializeToString())
        image = generate(3, 64, 64).image[np.newaxis]
        source, expected = session.run([linear.source, linear.node], {"image": image})
        assert source.shape == example.shape
        for compiled in (compile_onnxruntime(alone), compile_openvino(alone)):
            result = compiled(source)
            found = result[0] if isinstance(result, list) else next(iter(result.values()))
            # OpenVINO computes in BF16 where the processor can: 8 bits of a number's digits.
            np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_measured_costs(quantizer: Quantizer) -> None:
    """Check that the costs are times of the requested graphs; their values depend on the machine."""
    tile = generate(1, 64, 64).image
    linears = list(quantizer.linears.values())
    costs = open_cost_model("cpu", quantizer.manifest, tile, "fp32")
    assert costs.measured
    steps: list[int] = []
    savings = costs.savings(quantizer.model, linears[1:6], quantizer.ranges, lambda: steps.append(1))
    assert set(savings) == {linear.name for linear in linears[1:6]}
    assert len(steps) == 5
    assert savings["blocks.0.attn.qkv"] == savings["blocks.1.attn.qkv"], "linears of one shape are timed once"
    variants = {
        "fp32": Variant(quantizer.model, tuple(linears), frozenset()),
        "int8": Variant(quantizer.graph(quantizer.linears), tuple(linears), frozenset(quantizer.linears)),
    }
    timings = costs.graphs(variants, lambda: None)
    assert list(timings) == ["fp32", "int8"]
    assert all(timing.seconds > 0 for timing in timings.values())
    assert timings["fp32"].ratio is not None
    assert timings["fp32"].ratio.value == 1


def test_the_ablation_of_the_choices(small_file: Path, data: Path) -> None:
    rows = ablate(small_file, data, windows=2, count=9)
    names = [row.name for row in rows]
    assert names[0] == "default: percentile 99.99, 9 tiles"
    assert {"entropy", "minmax", "percentile 99.9", "the first 8 tiles", "without mlp.fc2"} <= set(names)
    by_name = dict(zip(names, rows, strict=True))
    assert by_name["without mlp.fc2"].linears == 15
    assert by_name["without patch_embed"].degradation.divergence < rows[0].degradation.divergence
    assert all(row.degradation.agreement >= 0.95 and row.degradation.divergence > 0 for row in rows)
    assert as_markdown(rows).count("\n") == len(rows) + 1


def test_the_roofline(quantizer: Quantizer) -> None:
    linear = quantizer.linears["blocks.0.mlp.fc1"]  # 69 rows, 64 inputs, 256 outputs
    device = Device("toy", {"fp32": 1e6, "fp16": 2e6, "int8": 4e6}, 1e9, "made up")
    assert Roofline(device, "fp16").seconds(linear, False) == pytest.approx(69 * 64 * 256 / 2e6)
    assert Roofline(device, "fp32").seconds(linear, True) == pytest.approx(69 * 64 * 256 / 4e6)
    slow = replace(device, bandwidth=1e3)
    assert Roofline(slow, "fp16").seconds(linear, False) == pytest.approx(2 * (69 * 64 + 64 * 256 + 69 * 256) / 1e3)
    assert Roofline(slow, "fp16").seconds(linear, True) == pytest.approx((69 * 64 + 64 * 256 + 2 * 69 * 256) / 1e3)
    for known in DEVICES.values():
        assert known.macs["int8"] > known.macs["fp16"] > known.macs["fp32"]


def test_the_command(small_file: Path, data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "export/optimize.py", str(small_file), "--data", str(data), "--target", "rtx", "--json"]
    words += ["--count", "4", "--windows", "2", "--output", str(tmp_path / "m.onnx")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "rtx"
    assert (tmp_path / "m.onnx").is_file()
    again = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "output-exists" in again.stderr


def test_stopping_the_command_leaves_nothing(small_file: Path, data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "export/optimize.py", str(small_file), "--data", str(data), "--target", "cpu"]
    words += ["--count", "4", "--windows", "8", "--output", str(tmp_path / "m.onnx")]
    with subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "looking at candidate tiles\n"
        running.send_signal(signal.SIGINT)
        running.stderr.read()
        assert running.wait(60) == 130
    assert not list(tmp_path.iterdir())
