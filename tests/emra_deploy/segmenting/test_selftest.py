"""The self-test detects a model or machine whose labels differ from those of PyTorch."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy.backends.base import Backend, Wrapper
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.segmenting.selftest import self_test
from tests.onnx_models import CLASSES, build_model, make_manifest, nearest_colour, scene


def golden(changed: int, tolerance: float) -> GoldenTile:
    """A golden tile of 1024 pixels, some of whose labels differ from the model's."""
    picture = scene(32, 32, seed=7)
    labels = nearest_colour(picture)
    labels.ravel()[:changed] = (labels.ravel()[:changed] + 1) % len(CLASSES)
    return GoldenTile.encode(picture, labels, tolerance)


class Claiming(Wrapper):
    """A backend whose model says other things about itself."""

    def __init__(self, backend: Backend, **changes: Any) -> None:
        super().__init__(backend)
        self._changes = changes

    @property
    def manifest(self) -> Manifest:
        return replace(self.backend.manifest, **self._changes)


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_a_faithful_model_passes(tmp_path: Path, kind: str) -> None:
    build_model(tmp_path / "model.onnx", input_kind=kind)
    assert self_test(open_backend(tmp_path / "model.onnx")) == 0.0


def test_the_tolerance_is_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_model(path)
    backend = open_backend(path, backend="onnxruntime")
    assert self_test(Claiming(backend, golden=golden(10, 10 / 1024))) == pytest.approx(10 / 1024)
    with pytest.raises(EmraError, match="onnxruntime") as caught:
        self_test(Claiming(backend, golden=golden(11, 10 / 1024)))
    assert caught.value.code == "self-test-failed"


def test_opening_a_segmenter_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_model(path, manifest=replace(make_manifest(), golden=golden(100, 0.01)))
    with pytest.raises(EmraError) as caught:
        Segmenter.open(path)
    assert caught.value.code == "self-test-failed"
    assert caught.value.path == str(path)
    assert Segmenter.open(path, self_test=False).segment(scene(32, 32)).labels.shape == (32, 32)


def test_a_model_without_golden_tile_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.onnx"
    build_model(path, golden=False)
    with caplog.at_level(logging.WARNING):
        Segmenter.open(path)
    assert "no golden tile" in caplog.text


def test_labels_beyond_the_classes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_model(path)
    backend = open_backend(path)
    manifest = backend.manifest
    assert manifest.golden is not None
    assert np.max(manifest.golden.labels()) > 1
    with pytest.raises(EmraError) as caught:
        self_test(Claiming(backend, classes=ClassSet(CLASSES.names[:2], CLASSES.palette[:2])))
    assert caught.value.code == "class-count"
