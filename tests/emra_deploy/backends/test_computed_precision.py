"""Backends that compute in another precision than the file states: refused, or tolerated within limits."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.openvino import _choose_precision
from emra_deploy.errors import EmraError
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.models import shipped_model
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.segmenting.selftest import self_test
from tests.emra_deploy.cli.cli_helpers import emra, save_png
from tests.onnx_models import CLASSES, build_model, make_manifest, nearest_colour, scene


def processor(*able: str) -> Any:
    """OpenVINO's core on a processor that computes in these."""
    return SimpleNamespace(get_property=lambda device, name: list(able))


@pytest.mark.parametrize(
    ("machine", "able", "made", "asked", "expected"),
    [
        ("x86_64", ("FP32", "INT8", "BF16"), "fp32", None, "f32"),
        ("x86_64", ("FP32", "INT8", "BF16", "FP16"), "int8", None, "bf16"),
        ("x86_64", ("FP32", "INT8", "FP16"), "int8", None, "f32"),
        ("x86_64", ("FP32", "INT8", "FP16"), "fp16", None, "f32"),
        ("x86_64", ("FP32", "INT8"), "int8", None, "f32"),
        ("x86_64", ("FP32", "BF16"), "fp32", "bf16", "bf16"),
        ("x86_64", ("FP32", "FP16"), "fp16", "fp16", "f16"),
        ("x86_64", ("FP32", "BF16"), "int8", "fp32", "f32"),
        ("aarch64", ("FP32", "FP16"), "fp16", None, "f16"),
        ("aarch64", ("FP32", "FP16"), "int8", None, "f32"),
        ("aarch64", ("FP32", "FP16"), "int8", "fp16", "f16"),
        ("aarch64", ("FP32", "BF16", "FP16"), "int8", None, "bf16"),
    ],
)
def test_on_simulated_processors(
    monkeypatch: pytest.MonkeyPatch, machine: str, able: tuple[str, ...], made: str, asked: str | None, expected: str
) -> None:
    monkeypatch.setattr("emra_deploy.backends.openvino.platform.machine", lambda: machine)
    manifest = replace(make_manifest(), precision=made)
    assert _choose_precision(processor(*able), manifest, asked, made == "int8") == expected


@pytest.mark.parametrize(("able", "instead"), [(("FP16", "FP32"), "fp32"), (("BF16", "FP16"), "bf16")])
def test_what_takes_minutes_is_refused(monkeypatch: pytest.MonkeyPatch, able: tuple[str, ...], instead: str) -> None:
    monkeypatch.setattr("emra_deploy.backends.openvino.platform.machine", lambda: "x86_64")
    with pytest.raises(EmraError, match="INT8 beside FP16") as caught:
        _choose_precision(processor(*able), make_manifest(), "fp16", True)
    assert caught.value.code == "backend-precision"
    assert f"--precision {instead}" in caught.value.remedy


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_a_simulated_processor_without_it_says_what_it_has(asked: str) -> None:
    with pytest.raises(EmraError, match="FP32, INT8") as caught:
        _choose_precision(processor("FP32", "INT8"), make_manifest(), asked, False)
    assert caught.value.code == "backend-precision"


class Blurred:
    """A backend that computes in some precision, and labels the first pixels otherwise."""

    name = "blurred"
    input_shape = (None, 32, 32)

    def __init__(self, manifest: Manifest, precision: str, wrong: int) -> None:
        self.manifest, self._precision, self._wrong = manifest, precision, wrong

    def describe(self) -> dict[str, str]:
        return {"version": "1", "precision": self._precision}

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        labels = np.stack([nearest_colour(picture) for picture in batch])
        first = labels.reshape(len(batch), -1)[:, : self._wrong]
        first[:] = (first + 1) % len(CLASSES)
        return {"classes": labels}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("precision", "most"), [("f32", 0), ("f16", 1), ("bf16", 10)])
def test_the_self_test_allows_for_what_is_computed_in(precision: str, most: int) -> None:
    picture = scene(32, 32, seed=7)
    manifest = replace(make_manifest(), golden=GoldenTile.encode(picture, nearest_colour(picture), 0.0))
    assert self_test(Blurred(manifest, precision, most)) == pytest.approx(most / 1024)
    with pytest.raises(EmraError) as caught:
        self_test(Blurred(manifest, precision, most + 1))
    assert caught.value.code == "self-test-failed"


def test_the_precision_reaches_the_backend(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = tmp_path / "model.onnx"
    build_model(model)
    with Segmenter.open(model, precision="fp32") as segmenter:
        assert segmenter.backend.describe()["precision"] == "f32"
    with pytest.raises(EmraError) as caught:
        open_backend(model, backend="openvino", precision="fp8")
    assert caught.value.code == "backend-precision"
    if platform.machine() == "x86_64":
        # Where the processor has FP16 it would take minutes; where it has none it is refused as well.
        with pytest.raises(EmraError) as caught:
            open_backend(shipped_model(), backend="openvino", precision="fp16")
        assert caught.value.code == "backend-precision"
    picture = save_png(tmp_path / "a.png", scene(40, 40))
    arguments = ("segment", picture, "--output", tmp_path / "a.tif", "--model", model)
    refused = emra(*arguments, "--precision", "bf16", "--backend", "onnxruntime")
    assert refused.returncode == 2
    assert "[backend-precision]" in refused.stderr
