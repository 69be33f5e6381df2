"""The model that comes with the package keeps what its card and the demo promise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.evaluation import evaluate
from emra_deploy.evaluation.metrics import ConfusionMatrix
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.models import SHIPPED
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.segmenting.selftest import self_test
from export.compare.report import LIMITS
from tests.conftest import FP32_MODEL, REPOSITORY
from tests.emra_deploy.cli.cli_helpers import emra, save_png
from training.data import open_dataset
from training.data.scenes import DUBAI_CLASSES, generate

MODEL = REPOSITORY / "emra_deploy" / "models" / SHIPPED
LARGEST = 12_000_000
FIRST_UNSEEN_SEED = 1_000_000
"""Scenes of training and of its validation have seeds below this."""

pytestmark = pytest.mark.skipif(not MODEL.is_file(), reason=f"this copy has no emra_deploy/models/{SHIPPED}")


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def manifest(segmenter: Segmenter) -> Manifest:
    return segmenter.manifest


def test_it_is_one_file_of_at_most_12_megabytes() -> None:
    onnx = pytest.importorskip("onnx")
    assert MODEL.stat().st_size <= LARGEST
    model = onnx.load(MODEL, load_external_data=False)
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    assert {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}["ai.onnx"] <= 20
    onnx.checker.check_model(model, full_check=True)


def test_the_manifest_is_complete(manifest: Manifest) -> None:
    assert manifest.classes == DUBAI_CLASSES
    assert manifest.backbone == "tiny"
    assert "classes" in manifest.heads
    assert (manifest.input_kind, manifest.bands) == ("uint8", ("red", "green", "blue"))
    assert manifest.parent_sha256 is not None
    assert {"emra-deploy", "torch", "onnx", "onnxruntime"} <= set(manifest.tools)
    assert manifest.golden is not None
    golden = manifest.golden.labels()
    assert golden.shape == manifest.input_shape[1:]
    assert len(np.unique(golden)) >= 3, "a golden tile of hardly any class would prove little"
    # A wrong engine must not pass: the tolerance is far below agreement by chance.
    assert manifest.golden.tolerance <= 0.02


def test_it_is_the_int8_form_of_the_model_beside_it(manifest: Manifest) -> None:
    """Replacing one of the two files alone would leave exports, tables and the card with another model."""
    assert manifest.precision == "int8"
    assert manifest.parent_sha256 == hashlib.sha256(FP32_MODEL.read_bytes()).hexdigest()
    reported = manifest.evidence["int8"]
    assert reported["calibration"]["tiles"] >= 32
    compared, allowed = reported["comparison"], LIMITS["int8"]
    assert compared["pictures"] == len(manifest.evidence["images"]), "compared on all validation pictures"
    assert compared["agreement"] >= allowed.agreement
    assert compared["miou_drop_points"] <= allowed.miou_drop
    assert MODEL.stat().st_size < 0.6 * FP32_MODEL.stat().st_size
    assert [path.name for path in MODEL.parent.glob("*.onnx")] == [SHIPPED], "one model is in the package"


def test_the_evidence_is_that_of_the_held_out_pictures(manifest: Manifest) -> None:
    evidence = manifest.evidence
    assert (evidence["data"]["name"], evidence["data"]["split"]) == ("dubai", "val")
    assert set(evidence["classes"]) == set(DUBAI_CLASSES.names)
    ious = [evidence["classes"][name]["iou"] for name in DUBAI_CLASSES.names]
    assert evidence["miou"] == pytest.approx(np.mean(ious))
    # A plain run of 40 minutes reached 0.570.
    assert evidence["miou"] > 0.57
    assert len(evidence["images"]) == 8
    assert "/" not in evidence["model"]["name"]


def test_the_self_test_passes(segmenter: Segmenter, manifest: Manifest) -> None:
    different = self_test(segmenter.backend)
    assert different is not None
    assert manifest.golden is not None
    assert different <= manifest.golden.tolerance


def test_scenes_never_trained_on_are_segmented(segmenter: Segmenter) -> None:
    matrix = ConfusionMatrix(len(DUBAI_CLASSES))
    for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 4):
        made = generate(seed, 512, 512)
        matrix.update(made.labels, segmenter.segment(made.image).labels)
    scores = matrix.scores(DUBAI_CLASSES)
    assert all(share > 0 for share in scores.support), "these scenes have every class"
    assert scores.miou > 0.5, dict(zip(scores.names, scores.iou, strict=True))


def test_the_command_line_uses_it_by_default(manifest: Manifest, tmp_path: Path) -> None:
    picture = save_png(tmp_path / "in.png", generate(FIRST_UNSEEN_SEED, 200, 300).image)
    done = emra("segment", picture, "--output", tmp_path / "out.png", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["model"]["name"] == manifest.name
    assert [area["name"] for area in report["areas"]] == list(DUBAI_CLASSES.names)
    assert sum(area["pixels"] for area in report["areas"]) == 200 * 300
    reported = emra("info", "--json")
    assert reported.returncode == 0
    assert json.loads(reported.stdout)["sha256"] == json.loads(emra("info", MODEL, "--json").stdout)["sha256"]


@pytest.mark.slow
def test_the_stated_scores_are_reproduced(segmenter: Segmenter, manifest: Manifest, dubai_root: Path) -> None:
    data = open_dataset("dubai", dubai_root, "val")
    found = evaluate(segmenter, data.tiles, data.classes)
    # The evidence is the checkpoint's; the file's weights were rounded to FP16, and then to INT8 at a stated price.
    lost = manifest.evidence["int8"]["comparison"]["miou_drop_points"] / 100
    assert found.scores.miou == pytest.approx(manifest.evidence["miou"] - lost, abs=0.003)
    assert found.scores.accuracy == pytest.approx(manifest.evidence["accuracy"], abs=0.005)
