"""The ONNX Runtime backend: right answers, and a clear refusal of every file that is not a model of ours."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from emra_deploy import models
from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.ort import OnnxRuntimeBackend
from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from tests.onnx_models import CLASSES, build_graph, build_model, make_manifest, nearest_colour, scene


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path)
    return path


def batch_of(count: int, size: int = 32) -> np.ndarray:
    return np.stack([scene(size, size, seed) for seed in range(count)])


def expect_refusal(path: Path, code: str) -> EmraError:
    with pytest.raises(EmraError) as caught:
        open_backend(path, backend="onnxruntime")
    assert caught.value.code == code, str(caught.value)
    assert caught.value.path == os.fspath(path)
    assert len(str(caught.value)) < 1200
    return caught.value


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("fixed", [None, 1, 3])
@pytest.mark.parametrize(
    "heads", [("classes",), ("logits",), ("classes", "confidence"), ("classes", "logits", "confidence")]
)
def test_every_form_of_model_gives_the_same_labels(
    tmp_path: Path, kind: str, fixed: int | None, heads: tuple[str, ...]
) -> None:
    path = tmp_path / "model.onnx"
    manifest = build_model(path, size=(16, 24), batch=fixed, input_kind=kind, heads=heads)
    backend = open_backend(path, backend="onnxruntime", threads=1)
    read = backend.manifest
    assert read == manifest
    assert backend.input_shape == (fixed, 16, 24)
    pictures = np.stack([scene(16, 24, seed) for seed in range(4)])
    outputs = backend.run(pictures)
    assert set(outputs) == {"classes", *heads}
    np.testing.assert_array_equal(outputs["classes"], np.stack([nearest_colour(p) for p in pictures]))
    assert outputs["classes"].dtype == np.uint8
    if "logits" in heads:
        assert outputs["logits"].shape == (4, len(CLASSES), 16, 24)
        assert outputs["logits"].dtype == np.float32
    if "confidence" in heads:
        assert outputs["confidence"].shape == (4, 16, 24)


def test_a_view_of_a_larger_picture_can_be_run(model: Path) -> None:
    backend = open_backend(model, backend="onnxruntime")
    picture = scene(64, 64)
    view = picture[None, 10:42, 5:37]
    np.testing.assert_array_equal(backend.run(view)["classes"][0], nearest_colour(picture[10:42, 5:37]))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((1, 32, 31, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
    ],
)
def test_what_is_no_batch_is_refused(model: Path, batch: np.ndarray) -> None:
    with pytest.raises(EmraError) as caught:
        open_backend(model, backend="onnxruntime").run(batch)
    assert caught.value.code == "batch-shape"


def test_the_backend_describes_itself(model: Path) -> None:
    facts = OnnxRuntimeBackend(model, LoadOptions(threads=2)).describe()
    assert facts["backend"] == "onnxruntime"
    assert facts["threads"] == "2"
    assert facts["version"]


def test_bad_arguments_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EmraError) as caught:
        open_backend(model, backend="caffe")
    assert caught.value.code == "backend-unknown"
    with pytest.raises(EmraError) as caught:
        open_backend(model, backend="onnxruntime", threads=0)
    assert caught.value.code == "threads"
    expect_refusal(tmp_path / "none.onnx", "model-missing")
    (tmp_path / "folder.onnx").mkdir()
    expect_refusal(tmp_path / "folder.onnx", "model-missing")
    (tmp_path / "model.pt").write_bytes(b"")
    expect_refusal(tmp_path / "model.pt", "model-format")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(model: Path, share: float) -> None:
    content = model.read_bytes()
    model.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(EmraError) as caught:
        open_backend(model, backend="onnxruntime")
    assert caught.value.code in {"model-unreadable", "manifest-missing", "manifest-json"}


def test_other_kinds_of_file_are_refused(model: Path) -> None:
    for content in (b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(100), bytes(1000)):
        model.write_bytes(content)
        expect_refusal(model, "model-unreadable")


def test_a_damaged_model_loads_or_is_an_emra_error(model: Path) -> None:
    content = model.read_bytes()
    dice = random.Random(0)
    for _ in range(40):
        damaged = bytearray(content)
        # The first part is the graph; damage to the golden picture is another test's business.
        for _ in range(3):
            damaged[dice.randrange(min(len(content), 1200))] = dice.randrange(256)
        model.write_bytes(bytes(damaged))
        try:
            backend = open_backend(model, backend="onnxruntime")
        except EmraError:
            continue
        assert backend.input_shape == (None, 32, 32)


def test_a_damaged_name_is_an_error_and_prints_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = model.read_bytes()
    # The unknown operator is quoted in the error that ONNX Runtime then fails to decode.
    model.write_bytes(content.replace(b"Transpose", b"Tra\xffspose"))
    assert model.read_bytes() != content
    with pytest.raises(EmraError) as caught:
        open_backend(model, backend="onnxruntime")
    assert caught.value.code == "model-unreadable"
    assert capfd.readouterr().out == ""


def test_a_model_without_manifest_is_refused(model: Path) -> None:
    build_model(model, metadata=False)
    error = expect_refusal(model, "manifest-missing")
    assert "python -m export.to_onnx" in error.remedy


def test_a_model_with_a_broken_manifest_is_refused(model: Path) -> None:
    graph = build_graph((32, 32))
    onnx.helper.set_model_props(graph, {"emra_manifest": '{"schema": 1}'})
    model.write_bytes(graph.SerializeToString())
    expect_refusal(model, "manifest-json")


def test_class_counts_that_disagree_are_refused(model: Path) -> None:
    fewer = ClassSet(CLASSES.names[:3], CLASSES.palette[:3])
    manifest = make_manifest(heads=("classes", "logits"), classes=fewer)
    graph = build_graph((32, 32), heads=("classes", "logits"))
    onnx.helper.set_model_props(graph, manifest.to_metadata())
    model.write_bytes(graph.SerializeToString())
    error = expect_refusal(model, "class-count")
    assert "5" in error.cause
    assert "3" in error.cause


@pytest.mark.parametrize(
    "claim",
    [
        {"size": (48, 48)},
        {"batch": 2},
        {"input_kind": "float"},
        {"heads": ("classes", "confidence")},
        {"heads": ("logits",)},
    ],
)
def test_a_graph_unlike_its_manifest_is_refused(model: Path, claim: dict[str, Any]) -> None:
    build_model(model, manifest=make_manifest(**claim))
    expect_refusal(model, "model-mismatch")


def external(folder: Path, location: str) -> Path:
    """A model whose convolution weights lie in another file."""
    model = build_graph((32, 32))
    onnx.helper.set_model_props(model, make_manifest().to_metadata())
    weight = model.graph.initializer[0]
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(content)))):
        weight.external_data.add(key=key, value=value)
    (folder.parent / "weights.bin").write_bytes(content)
    (folder / "weights.bin").write_bytes(content)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "model"
    inner.mkdir()
    return inner


def test_external_weights_in_the_folder_are_read(folder: Path) -> None:
    backend = open_backend(external(folder, "weights.bin"), backend="onnxruntime")
    picture = scene(32, 32)
    np.testing.assert_array_equal(backend.run(picture[None])["classes"][0], nearest_colour(picture))


def test_external_weights_outside_the_folder_are_refused(folder: Path) -> None:
    expect_refusal(external(folder, "../weights.bin"), "model-external-data")
    expect_refusal(external(folder, str(folder.parent / "weights.bin")), "model-external-data")
    expect_refusal(external(folder, "missing.bin"), "model-external-data")
    (folder / "link.bin").symlink_to(folder.parent / "weights.bin")
    expect_refusal(external(folder, "link.bin"), "model-external-data")


def test_external_weights_at_a_memory_address_are_refused(folder: Path) -> None:
    with pytest.raises(EmraError):
        open_backend(external(folder, "*/_ORT_MEM_ADDR_/*"))


def test_the_shipped_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(EmraError) as caught:
        models.shipped_model()
    assert caught.value.code == "model-missing"
    build_model(tmp_path / models.SHIPPED)
    assert models.shipped_model() == (tmp_path / models.SHIPPED).resolve()
