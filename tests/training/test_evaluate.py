"""A checkpoint and its export get the same scores, by the two commands a user types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import accuracy
from emra_deploy.model_file.classes import ClassSet
from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, small_backbone, small_checkpoint
from training import evaluate
from training.checkpoint import save_checkpoint
from training.data.scenes import DUBAI_CLASSES, generate
from training.model import EMRAConfig, EMRAProxy

__all__ = ["small_backbone", "small_checkpoint"]


def write_data(root: Path, classes: ClassSet = DUBAI_CLASSES) -> Path:
    for folder in ("images/val", "masks/val"):
        (root / folder).mkdir(parents=True)
    for seed, (height, width) in enumerate(((100, 130), (64, 64), (40, 90))):
        made = generate(seed, height, width)
        labels = made.labels.copy()
        labels[:7, :9] = 255
        Image.fromarray(made.image).save(root / f"images/val/tile{seed}.png")
        Image.fromarray(labels).save(root / f"masks/val/tile{seed}.png")
    names = ", ".join(f'"{name}"' for name in classes.names)
    (root / "classes.yaml").write_text(f"names: [{names}]\n")
    return root


def test_checkpoint_and_export_score_the_same(
    small_checkpoint: Path,
    tmp_path: Path,
    capsys,
) -> None:
    data = write_data(tmp_path / "data")
    common = ["--data", str(data), "--split", "val"]
    torch_json, onnx_json = tmp_path / "torch.json", tmp_path / "onnx.json"
    words = ["--checkpoint", str(small_checkpoint), *common, "--json", str(torch_json), "--record"]
    assert evaluate.main(words) == 0
    assert "mIoU" in capsys.readouterr().out
    manifest = to_onnx(small_checkpoint, tmp_path / "model.onnx").manifest
    page = tmp_path / "page.html"
    words = [str(tmp_path / "model.onnx"), *common, "--json", str(onnx_json), "--page", str(page), "--threads", "1"]
    assert accuracy.main(words) == 0
    assert page.read_text().count("<section>") == 3

    by_torch, by_onnx = json.loads(torch_json.read_text()), json.loads(onnx_json.read_text())
    assert by_torch["windows"] == by_onnx["windows"] == {"height": 64, "width": 64, "halo": 8, "blend": False}
    assert np.sum(by_torch["confusion"]) == 100 * 130 + 64 * 64 + 40 * 90 - 3 * 7 * 9
    moved = np.abs(np.subtract(by_torch["confusion"], by_onnx["confusion"])).sum()
    assert moved <= 1e-3 * np.sum(by_torch["confusion"])
    assert by_onnx["miou"] == pytest.approx(by_torch["miou"], abs=1e-3)
    assert [i["name"] for i in by_torch["images"]] == ["tile0", "tile1", "tile2"]
    assert by_onnx["model"]["parent_sha256"] == by_torch["model_sha256"] == manifest.parent_sha256
    assert manifest.evidence["miou"] == by_torch["miou"]
    assert str(tmp_path) not in json.dumps(manifest.evidence)
    assert by_torch["runner"]["backend"] == "torch"
    assert by_onnx["runner"]["backend"] in ("onnxruntime", "openvino")


def test_other_classes_are_refused(
    small_checkpoint: Path,
    tmp_path: Path,
    capsys,
) -> None:
    other = ClassSet(("a", "b", "c", "d", "e"), DUBAI_CLASSES.palette)
    data = write_data(tmp_path / "data", other)
    assert evaluate.main(["--checkpoint", str(small_checkpoint), "--data", str(data)]) == 2
    error = capsys.readouterr().err
    assert "class-mismatch" in error
    assert error.count("\n") == 1


def test_outputs_are_refused_before_the_work(tmp_path: Path, capsys) -> None:
    (tmp_path / "scores.json").write_text("kept")
    words = ["--checkpoint", "none", "--data", "none", "--json", str(tmp_path / "scores.json")]
    assert evaluate.main(words) == 2
    assert "output-exists" in capsys.readouterr().err
    assert (tmp_path / "scores.json").read_text() == "kept"


def test_the_size_of_windows_can_be_changed(
    small_checkpoint: Path,
    tmp_path: Path,
) -> None:
    data = write_data(tmp_path / "data")
    words = ["--checkpoint", str(small_checkpoint), "--data", str(data), "--json", str(tmp_path / "s.json")]
    assert evaluate.main([*words, "--size", "32", "48", "--batch", "3", "--halo", "4"]) == 0
    windows = json.loads((tmp_path / "s.json").read_text())["windows"]
    assert windows == {"height": 32, "width": 48, "halo": 4, "blend": False}


def test_blended_checkpoint_and_export_score_the_same(
    small_checkpoint: Path,
    tmp_path: Path,
) -> None:
    common = ["--data", str(write_data(tmp_path / "data")), "--blend"]
    torch_json, onnx_json = tmp_path / "torch.json", tmp_path / "onnx.json"
    assert evaluate.main(["--checkpoint", str(small_checkpoint), *common, "--json", str(torch_json)]) == 0
    to_onnx(small_checkpoint, tmp_path / "model.onnx", heads=("classes", "logits"))
    words = [str(tmp_path / "model.onnx"), *common, "--json", str(onnx_json), "--threads", "1"]
    assert accuracy.main(words) == 0
    by_torch, by_onnx = json.loads(torch_json.read_text()), json.loads(onnx_json.read_text())
    assert by_torch["windows"] == by_onnx["windows"] == {"height": 64, "width": 64, "halo": 16, "blend": True}
    moved = np.abs(np.subtract(by_torch["confusion"], by_onnx["confusion"])).sum()
    assert moved <= 1e-3 * np.sum(by_torch["confusion"])


def test_model_with_bands_of_its_own_refuses_rgb(
    tmp_path: Path,
    small_backbone: None,
    capsys,
) -> None:
    data = write_data(tmp_path / "data")
    model = EMRAProxy(EMRAConfig(image_size=(64, 64)))
    bands = {"bands": ["near-infrared", "red", "green"]}
    save_checkpoint(tmp_path / "checkpoint", model, DUBAI_CLASSES, MEAN, STD, bands)
    assert evaluate.main(["--checkpoint", str(tmp_path / "checkpoint"), "--data", str(data)]) == 2
    assert "band-mismatch" in capsys.readouterr().err
