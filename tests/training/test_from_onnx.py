"""A model file gives back the weights that it was written from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from emra_deploy.errors import EmraError
from export.graphs.deployed import round_weights
from export.graphs.model_file import write_model
from export.to_onnx import trace_checkpoint
from tests.checkpoints import MEAN, STD, random_model, small_backbone
from training.backend import checkpoint_manifest
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.scenes import DUBAI_CLASSES
from training.from_onnx import main, read_onnx

pytestmark = pytest.mark.usefixtures("small_backbone")
__all__ = ["small_backbone"]


@pytest.fixture
def exported(tmp_path: Path):
    def write(weights: str = "float32", **config: object) -> tuple[Path, Path]:
        model = random_model(**{"image_size": (48, 64), "zoom": 2, **config})
        save_checkpoint(tmp_path / "checkpoint", model, DUBAI_CLASSES, MEAN, STD, {"gsd": 0.5})
        loaded = load_checkpoint(tmp_path / "checkpoint")
        manifest = checkpoint_manifest(loaded, "small")
        if weights == "float16":
            round_weights(loaded.model)
        # What `to_onnx` writes, without its checks, which take longer than the rest.
        write_model(trace_checkpoint(loaded, manifest, weights), manifest, tmp_path / "model.onnx")
        return tmp_path / "checkpoint", tmp_path / "model.onnx"

    return write


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        ("float32", {"fusion": "gated"}),
        ("float16", {"fusion": "log", "hra_block": 0}),
        ("float16", {"mca_blocks": 0, "fusion": "log"}),
        ("float32", {"aggregation": "plugin"}),
    ],
)
def test_the_model_comes_back(exported, weights: str, config: dict) -> None:
    folder, path = exported(weights, **config)
    before, after = load_checkpoint(folder), read_onnx(path)
    if weights == "float16":
        round_weights(before.model)
    assert after.model.config == before.model.config
    assert (after.classes, after.mean, after.std) == (before.classes, before.mean, before.std)
    assert (after.meta["gsd"], after.meta["bands"]) == (0.5, ["red", "green", "blue"])
    expected, found = before.model.state_dict(), after.model.state_dict()
    tables = {"backbone.class_tokens", "backbone.class_positions"}
    for name in expected.keys() - tables:
        exact = {} if name.startswith("fusion") else {"rtol": 0, "atol": 0}  # a fusion's is stored as a function of it
        torch.testing.assert_close(found[name], expected[name], **exact, msg=name)
    whole = sum(expected[name] for name in tables)
    torch.testing.assert_close(sum(found[name] for name in tables), whole, rtol=0, atol=0)


def test_the_command_writes_a_checkpoint(exported, tmp_path: Path, capsys) -> None:
    folder, path = exported()
    assert main([str(path), "--output", str(tmp_path / "again")]) == 0
    image = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        expected, found = (load_checkpoint(each).model(image) for each in (folder, tmp_path / "again"))
    torch.testing.assert_close(found, expected)
    assert "again" in capsys.readouterr().out


def test_files_that_hold_other_weights_are_refused(exported, tmp_path: Path, capsys) -> None:
    folder, path = exported()
    loaded = load_checkpoint(folder)
    manifest = replace(checkpoint_manifest(loaded, "half"), precision="fp16")
    write_model(trace_checkpoint(loaded, manifest, "float32"), manifest, tmp_path / "half.onnx")
    foreign = tmp_path / "foreign.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), foreign)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:2000])
    for wrong, code in {"half": "onnx-not-a-checkpoint", "foreign": "onnx-not-a-checkpoint", "damaged": None}.items():
        with pytest.raises(EmraError) as caught:
            read_onnx(tmp_path / f"{wrong}.onnx")
        assert code in (None, caught.value.code)
    assert main([str(foreign), "--output", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_weight_that_is_gone_is_named(exported) -> None:
    _, path = exported()
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "model.hra.classifier.bias":
            tensor.name = "bias"
    for node in model.graph.node:
        node.input[:] = ["bias" if name == "model.hra.classifier.bias" else name for name in node.input]
    kept = [entry for entry in model.metadata_props if "seal" not in entry.key and "sha256" not in entry.key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    with pytest.raises(EmraError, match="classifier"):
        read_onnx(path)
