"""Exports of one's own models: they blend as they are, and hardly trained ones become FP16.

`to_onnx` left the logits out, so that ``--blend`` failed on one's own model. `to_fp16` refused a barely trained model
at 98.66 % of the labels, though its logits were within 9.4e-4: near ties decided.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from emra_deploy import Segmenter
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest
from export.compare.comparison import compare
from export.compare.report import Limits, Report
from export.compare.runners import OnnxRunner
from export.compare.verify import ROUNDED
from export.graphs.model_file import read_model
from export.to_fp16 import EVIDENCE, to_fp16
from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, narrow_backbone, random_model
from tests.onnx_models import CLASSES, make_manifest, scene
from training.checkpoint import save_checkpoint
from training.data.scenes import DUBAI_CLASSES

SHAPE = (len(CLASSES), 64, 64)


class Given:
    """A model that answers one tile with given logits."""

    name = "given"

    def __init__(self, logits: np.ndarray) -> None:
        self.manifest = make_manifest((64, 64), heads=("classes", "logits"))
        self.input_shape = self.manifest.input_shape
        self._logits = logits.astype(np.float32)

    def describe(self) -> dict[str, str]:
        return {}

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        logits = np.repeat(self._logits[None], len(batch), axis=0)
        return {"classes": logits.argmax(axis=1).astype(np.uint8), "logits": logits}

    def close(self) -> None:
        pass


def compared(first: np.ndarray, second: np.ndarray) -> Report:
    return compare(Given(first), Given(second), np.zeros((1, 64, 64, 3), np.uint8))


def test_labels_that_tip_within_the_tolerance_of_logits_are_ties() -> None:
    random = np.random.default_rng(0)
    hardly_trained = 1 + 4e-3 * random.standard_normal(SHAPE)
    report = compared(hardly_trained, hardly_trained + 5e-4 * random.standard_normal(SHAPE))
    assert 0.8 < report.agreement < 0.99
    assert report.agreement_beyond(ROUNDED.tie) > 0.999
    assert not report.failures(ROUNDED)
    assert report.failures(Limits(ROUNDED.agreement, logit_error=ROUNDED.logit_error))


@pytest.mark.parametrize("tie", [1e-4, 1e-3, 1e-2])
def test_margins_are_those_of_the_reference(tie: float) -> None:
    random = np.random.default_rng(1)
    first = 8 * random.standard_normal(SHAPE).astype(np.float32)
    second = first + 0.05 * random.standard_normal(SHAPE).astype(np.float32)
    ours, theirs = first.argmax(axis=0), second.argmax(axis=0)
    margin = np.take_along_axis(first, ours[None], 0)[0] - np.take_along_axis(first, theirs[None], 0)[0]
    report = compared(first, second)
    # Margins are counted in steps of an eighth of an octave, rounded up.
    low, high = (((ours == theirs) | (margin <= tie * step * np.abs(first).max())).mean() for step in (0.917, 1))
    assert low <= report.agreement_beyond(tie) <= high
    assert report.agreement_beyond(0) == report.agreement


def test_labels_that_are_plainly_wrong_are_no_ties() -> None:
    first = np.zeros(SHAPE)
    first[0], first[1] = 10, 9
    second = first.copy()
    second[1, :3] = 11
    report = compared(first, second)
    assert report.agreement_beyond(ROUNDED.tie) == report.agreement == 61 / 64
    assert "95.3125% of the labels agree and 0.0000% are ties, expected at least 99.90%" in report.failures(ROUNDED)[0]


def checkpoint(folder: Path, change: Callable[[torch.nn.Module], None] = lambda model: None) -> Path:
    with narrow_backbone():
        model = random_model(image_size=(64, 64))
        with torch.no_grad():
            change(model)
        save_checkpoint(folder, model, DUBAI_CLASSES, MEAN, STD, {})
    return folder


def hardly_train(model: torch.nn.Module) -> None:
    """All classes nearly alike, as after a few steps."""
    classifier = model.hra.classifier
    classifier.weight.copy_(classifier.weight[:1] + 5e-4 * torch.randn_like(classifier.weight))
    classifier.bias.zero_()


@pytest.fixture(scope="module")
def barely_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("barely")
    with narrow_backbone():
        to_onnx(checkpoint(folder / "checkpoint", hardly_train), folder / "model.onnx")
    return folder / "model.onnx"


def test_an_export_blends_as_it_is(barely_trained: Path) -> None:
    with Segmenter.open(barely_trained, backend="onnxruntime", blend=True) as segmenter:
        assert segmenter.manifest.heads == ("classes", "logits")
        assert segmenter.segment(scene(90, 100)).labels.shape == (90, 100)


def evidence_of(path: Path) -> dict[str, object]:
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    found: dict[str, object] = Manifest.from_metadata(metadata).evidence[EVIDENCE]
    return found


def test_a_barely_trained_model_becomes_fp16(barely_trained: Path, tmp_path: Path) -> None:
    to_fp16(barely_trained, tmp_path / "half.onnx")
    evidence = evidence_of(tmp_path / "half.onnx")
    assert evidence["label_agreement"] < 0.999 <= evidence["label_agreement_beyond_ties"]
    assert "overruled" not in evidence
    # It passes its own self-test.
    Segmenter.open(tmp_path / "half.onnx", backend="onnxruntime").close()


def test_what_is_overruled_stays_in_the_evidence(
    barely_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Limits(ROUNDED.agreement, logit_error=ROUNDED.logit_error, confidence_error=ROUNDED.confidence_error)
    monkeypatch.setattr("export.compare.verify.ROUNDED", strict)
    with pytest.raises(EmraError, match=r"accept it \(--min-agreement\)"):
        to_fp16(barely_trained, tmp_path / "half.onnx")
    assert not list(tmp_path.iterdir())
    to_fp16(barely_trained, tmp_path / "half.onnx", min_agreement=0.5)
    evidence = evidence_of(tmp_path / "half.onnx")
    assert evidence["min_agreement"] == 0.5
    assert "of the labels agree, expected at least 99.90%" in evidence["overruled"][0]


def test_a_closed_runner_of_exports_says_so(barely_trained: Path) -> None:
    runner = OnnxRunner(*read_model(barely_trained))
    runner.close()
    runner.close()
    with pytest.raises(EmraError, match="is closed"):
        runner.run(np.zeros((1, 64, 64, 3), np.uint8))
