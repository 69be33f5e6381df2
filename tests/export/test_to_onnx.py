"""Exporting, end to end: the file computes PyTorch's results, and a failure leaves no file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import export.to_onnx as command
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from export.graphs.deployed import Deployed, round_weights
from export.to_fp16 import to_fp16
from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, random_model
from training.ablation import ABLATION, without_labels
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.scenes import DUBAI_CLASSES, generate

REPOSITORY = Path(__file__).resolve().parents[2]

CASES = {
    "default": {},
    "explicit-fixed-float-all-heads": {
        "aggregation": "explicit",
        "batch": 3,
        "input_kind": "float",
        "heads": ("classes", "logits", "confidence"),
        "size": (96, 64),
    },
    "half-weights-not-square": {
        "weights": "float16",
        "size": (64, 112),
        "heads": ("classes", "confidence"),
    },
    "logits-only-fixed-one": {"heads": ("logits",), "batch": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_what_pytorch_computes(case: str, small_checkpoint: Path, tmp_path: Path) -> None:
    options = CASES[case]
    exported = to_onnx(small_checkpoint, tmp_path / "model.onnx", **options)
    manifest = exported.manifest
    height, width = options.get("size", (64, 64))
    assert manifest.input_shape == (options.get("batch"), height, width)
    assert exported.size == (tmp_path / "model.onnx").stat().st_size
    assert len(exported.checks) == 5

    model = load_checkpoint(small_checkpoint).model
    model.set_image_size(height, width)
    if options.get("weights") == "float16":
        round_weights(model)
    batch = options.get("batch") or 3
    image = np.stack([generate(seed, height, width).image for seed in range(batch)])
    pixels = ((torch.from_numpy(image).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model(pixels).numpy()
    session = onnxruntime.InferenceSession(exported.path)
    names = [output.name for output in session.get_outputs()]
    assert names == list(manifest.heads) == [h for h in ("classes", "logits", "confidence") if h in names]
    feed = image if manifest.input_kind == "uint8" else pixels.contiguous().numpy()
    found = dict(zip(names, session.run(None, {"image": feed}), strict=True))
    assert len(np.unique(expected.argmax(1))) > 1
    if "classes" in found:
        assert found["classes"].dtype == np.uint8
        assert (found["classes"] == expected.argmax(1)).mean() >= 0.9999
    if "logits" in found:
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4 * np.abs(expected).max())
    if "confidence" in found:
        shares = torch.from_numpy(expected).softmax(1).amax(1).numpy()
        np.testing.assert_allclose(found["confidence"], shares, atol=1e-4)

    with Segmenter.open(exported.path, threads=1) as segmenter:
        assert segmenter.manifest == manifest
        labels = segmenter.segment(image[0]).labels
    assert (labels == expected[0].argmax(0)).mean() >= 0.999


@pytest.mark.parametrize("zoom", [2, 4])
def test_a_model_that_enlarges_its_input(zoom: int, small_backbone: None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, random_model(image_size=(32, 48), zoom=zoom), DUBAI_CLASSES, MEAN, STD, {})
    exported = to_onnx(folder, tmp_path / "model.onnx")  # compares with PyTorch itself
    assert exported.manifest.zoom == zoom
    image = generate(5, 40, 50).image
    with Segmenter.open(exported.path, threads=1) as segmenter:
        assert segmenter.backend.input_shape == (None, 32, 48)
        assert segmenter.segment(image).labels.shape == (40, 50)


def test_the_logarithmic_fusion_and_what_it_adds(small_backbone: None, tmp_path: Path) -> None:
    folder, model = tmp_path / "checkpoint", random_model(image_size=(64, 48), fusion="log")
    save_checkpoint(folder, model, DUBAI_CLASSES, MEAN, STD, {})
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    recorded = {"model_sha256": digest, "miou": {"whole": 0.6, "without": 0.5}}
    (folder / ABLATION).write_text(json.dumps(recorded))
    exported = to_onnx(folder, tmp_path / "model.onnx", heads=("logits",))  # compares with PyTorch itself
    assert exported.manifest.fusion == "log"
    reported = exported.manifest.evidence["class_attention"]
    assert reported.pop("labelled") == recorded
    image = exported.manifest.golden.image()
    assert reported == without_labels(load_checkpoint(folder), [image])
    assert set(reported) == {"changed", "correlation", "windows"}
    (folder / ABLATION).write_text(json.dumps({**recorded, "model_sha256": "0" * 64}))
    with pytest.raises(EmraError, match="ablation"):
        to_onnx(folder, tmp_path / "again.onnx")


@pytest.mark.parametrize("fusion", ["product", "log"])
def test_a_model_without_mca_has_the_regions_alone(fusion: str, small_backbone: None, tmp_path: Path) -> None:
    folder, model = tmp_path / "checkpoint", random_model(image_size=(64, 48), fusion=fusion)
    save_checkpoint(folder, model, DUBAI_CLASSES, MEAN, STD, {})
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "evaluation.json").write_text(json.dumps({"model_sha256": digest, "miou": 0.5}))
    with_mca = to_onnx(folder, tmp_path / "with.onnx", heads=("logits",))
    without = to_onnx(folder, tmp_path / "without.onnx", heads=("logits",), class_attention=False)
    assert (with_mca.manifest.mca_blocks, without.manifest.mca_blocks) == (4, 0)
    # The score is that of the whole model.
    assert without.manifest.evidence == {"class_attention": {}}
    softmaxes = [sum(node.op_type == "Softmax" for node in onnx.load(e.path).graph.node) for e in (with_mca, without)]
    assert softmaxes == [4 + 1 + 2 * 4, 4 + 1]
    image = generate(1, 64, 48).image
    pixels = (torch.from_numpy(image).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.inference_mode():
        hsmf = model.forward_parts(pixels.permute(2, 0, 1)[None]).hsmf
        expected = torch.nn.functional.interpolate(hsmf, scale_factor=4.0, mode="bilinear", align_corners=False).numpy()
    [found] = onnxruntime.InferenceSession(without.path).run(["logits"], {"image": image[None]})
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    to_fp16(without.path, tmp_path / "half.onnx")


def test_the_manifest_says_where_the_file_came_from(small_checkpoint: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((small_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    (small_checkpoint / "evaluation.json").write_text(json.dumps({"model_sha256": digest, "miou": 0.5}))
    manifest = to_onnx(small_checkpoint, tmp_path / "field.onnx").manifest
    assert manifest.name == "field"
    assert manifest.parent_sha256 == digest
    assert manifest.evidence["miou"] == 0.5
    assert (manifest.mean, manifest.std, manifest.gsd, manifest.classes) == (MEAN, STD, 0.5, DUBAI_CLASSES)
    assert manifest.tools["torch"] == torch.__version__.split("+")[0]
    text = (tmp_path / "field.onnx").read_bytes()
    assert str(REPOSITORY).encode() not in text, "the tracer's source paths are in the file"


def test_an_evaluation_of_other_weights_is_no_evidence(small_checkpoint: Path, tmp_path: Path) -> None:
    (small_checkpoint / "evaluation.json").write_text(json.dumps({"model_sha256": "0" * 64, "miou": 0.9}))
    with pytest.raises(EmraError, match="other weights"):
        to_onnx(small_checkpoint, tmp_path / "model.onnx")
    (small_checkpoint / "evaluation.json").write_text("[1]")
    with pytest.raises(EmraError, match="not an evaluation"):
        to_onnx(small_checkpoint, tmp_path / "model.onnx")


def test_a_wrong_mean_fails_the_checks_and_leaves_no_file(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model, mean, std, *rest):
        return Deployed(model, [value + 0.1 for value in mean], std, *rest)

    monkeypatch.setattr(command, "Deployed", wrong)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(EmraError) as caught:
        to_onnx(small_checkpoint, folder / "model.onnx")
    assert caught.value.code == "export-check-failed"
    assert not list(folder.iterdir())
    (folder / "model.onnx").write_bytes(b"older")
    with pytest.raises(EmraError):
        to_onnx(small_checkpoint, folder / "model.onnx", overwrite=True)
    assert (folder / "model.onnx").read_bytes() == b"older"
    assert len(list(folder.iterdir())) == 1


def test_an_existing_output_is_kept(small_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    output.write_bytes(b"older")
    with pytest.raises(EmraError) as caught:
        to_onnx(small_checkpoint, output)
    assert caught.value.code == "output-exists"
    assert output.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"heads": ("confidence",)}, "export-argument"),
        ({"heads": ("labels",)}, "export-argument"),
        ({"batch": 0}, "export-argument"),
        ({"input_kind": "nhwc"}, "export-argument"),
        ({"weights": "int4"}, "export-argument"),
        ({"size": (100, 64)}, "model-config"),
        ({"aggregation": "fused"}, "model-config"),
        ({"golden": "missing.png"}, "input-missing"),
    ],
)
def test_bad_arguments(options: dict, code: str, small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EmraError) as caught:
        to_onnx(small_checkpoint, tmp_path / "model.onnx", **options)
    assert caught.value.code == code
    assert not (tmp_path / "model.onnx").exists()


def test_bad_paths(small_checkpoint: Path, tmp_path: Path) -> None:
    for checkpoint, output, code in (
        (tmp_path / "none", "model.onnx", "checkpoint-missing"),
        (small_checkpoint, "model.pt", "output-suffix"),
        (small_checkpoint, "none/model.onnx", "output-folder-missing"),
    ):
        with pytest.raises(EmraError) as caught:
            to_onnx(checkpoint, tmp_path / output)
        assert caught.value.code == code
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmraError) as caught:
        to_onnx(small_checkpoint, tmp_path / "model.onnx", check_data=tmp_path / "empty")
    assert caught.value.code == "dataset-empty"


def test_class_counts_that_disagree(small_checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((small_checkpoint / "config.json").read_text())
    config["classes"], config["palette"] = config["classes"][:4], config["palette"][:4]
    # As a person editing it by hand does; with its seal it would be refused as damaged.
    del config["seal"]
    (small_checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(EmraError) as caught:
        to_onnx(small_checkpoint, tmp_path / "model.onnx")
    assert caught.value.code == "class-count"


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["sum", "gated"])
def test_real_backbone_other_fusions(fusion: str, tmp_path: Path) -> None:
    model = random_model(image_size=(128, 128), fusion=fusion, hra_block=0, mca_blocks=2)
    save_checkpoint(tmp_path / "checkpoint", model, DUBAI_CLASSES, MEAN, STD, {})
    exported = to_onnx(tmp_path / "checkpoint", tmp_path / "model.onnx", weights="float16")
    assert exported.size < 12_000_000
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert kinds.count("LayerNormalization") == 26
    assert kinds.count("Gelu") == 14
    assert len([kind for kind in kinds if kind != "Cast"]) < 420


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", random_model(image_size=(128, 128)), DUBAI_CLASSES, MEAN, STD, {})
    words = [sys.executable, "export/to_onnx.py", "--checkpoint", tmp_path / "c", "--output", tmp_path / "m.onnx"]
    words += ["--size", "128", "160", "--batch", "2", "--heads", "classes,confidence", "--name", "mine"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime" in done.stdout
    assert "input 2x128x160, 5 classes" in done.stdout
    assert Segmenter.open(tmp_path / "m.onnx").manifest.name == "mine"
    again = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "output-exists" in again.stderr
