"""Model files that are valid in form and meant, or made by mistake, to do harm."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.options import MAX_BATCH, MAX_THREADS
from emra_deploy.cli.main import main
from emra_deploy.errors import EmraError
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import METADATA_KEY
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import build_graph, build_model, make_manifest, scene


def write(path: Path, **changes: Any) -> Path:
    """A good model whose Manifest's JSON has been edited."""
    content = json.loads(make_manifest().to_json())
    for key, value in changes.items():
        content[key] = value(content[key]) if callable(value) else value
    model = build_graph((32, 32))
    helper.set_model_props(model, {METADATA_KEY: json.dumps(content)})
    onnx.save_model(model, path)
    return path


def named(name: str) -> Any:
    return lambda classes: {**classes, "names": [name, *classes["names"][1:]]}


@pytest.mark.parametrize("text", ["\x1b[2Jred", "\x9b31mred", "a\nb", "a\0b", "\ud800", "\x7f"])
@pytest.mark.parametrize("verb", ["info", "segment"])
def test_text_that_steers_a_terminal_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, verb: str
) -> None:
    for changes, code in (
        ({"name": text}, "manifest-field"),
        ({"classes": named(text)}, "class-names"),
        ({"tools": {"torch": text}}, "manifest-field"),
        ({"evidence": {"note": [text]}}, "manifest-field"),
        ({"evidence": {text: 1}}, "manifest-field"),
    ):
        path = write(tmp_path / "model.onnx", **changes)
        image = tmp_path / "a.png"
        image.write_bytes(make_manifest().golden.image_png)  # type: ignore[union-attr]
        arguments = ["info", path] if verb == "info" else ["segment", image, "-o", tmp_path / "a.tif", "-m", path]
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        assert not shown.out
        assert f"[{code}]" in shown.err
        assert shown.err.count("\n") == 1
        assert text not in shown.err


def test_letters_of_all_languages_are_names(tmp_path: Path) -> None:
    for name in ("Gewässer", "建物", "дорога", "مبنى", "🌳"):
        manifest = open_backend(write(tmp_path / "model.onnx", classes=named(name))).manifest
        assert manifest.classes.names[0] == name


def test_golden_tile_with_two_sizes(tmp_path: Path) -> None:
    good = make_manifest().golden
    assert good is not None
    small = GoldenTile.encode(scene(8, 8), np.zeros((8, 8), np.uint8), 0.0)
    two = base64.b64encode(good.labels_png[:33] + small.labels_png[8:]).decode()
    path = write(tmp_path / "model.onnx", golden=lambda golden: {**golden, "labels_png": two})
    with pytest.raises(EmraError) as caught:
        Segmenter.open(path)
    assert (caught.value.code, caught.value.path) == ("golden-tile", str(path))


def test_huge_numbers_make_no_huge_messages(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", golden=lambda golden: {**golden, "tolerance": 10**400})
    with pytest.raises(EmraError) as caught:
        open_backend(path)
    assert caught.value.code == "golden-tile"
    assert len(str(caught.value)) < 500


def graph_of(nodes: list[Any], weights: list[Any], path: Path) -> Path:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])
    classes = helper.make_tensor_value_info("classes", TensorProto.UINT8, ["b", "h", "w"])
    graph = helper.make_graph(nodes, "g", [image], [classes], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, make_manifest(golden=False).to_metadata())
    onnx.save_model(model, path)
    return path


def integers(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def test_graph_that_asks_for_terabytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Cast", ["zero"], ["byte"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["image", "axis"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "byte"], ["classes"]),
    ]
    path = graph_of(nodes, [integers("huge", 10**6, 10**6, 10), integers("axis", 3)], tmp_path / "model.onnx")
    with pytest.raises(EmraError) as caught:
        open_backend(path, backend="onnxruntime").run(np.zeros((1, 32, 32, 3), np.uint8))
    # ONNX Runtime 1.23 computes constants when it loads.
    assert (caught.value.code, caught.value.path) == ("model-run", str(path))


def test_graph_that_answers_another_size_than_it_was_asked(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["image", "axis"], ["brightest"], keepdims=0),
        # How many pixels are bright is known only when it runs.
        helper.make_node("NonZero", ["brightest"], ["places"]),
        helper.make_node("Shape", ["places"], ["count"], start=1),
        helper.make_node("Concat", ["ones", "count"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], ["classes"], to=TensorProto.UINT8),
    ]
    path = graph_of(nodes, [integers("axis", 3), integers("ones", 1, 1)], tmp_path / "model.onnx")
    backend = open_backend(path, backend="onnxruntime")
    with pytest.raises(EmraError) as caught:
        backend.run(np.ones((1, 32, 32, 3), np.uint8))
    assert (caught.value.code, caught.value.path) == ("model-mismatch", str(path))


def test_slips_of_the_keyboard_do_not_hang_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_model(path)
    for options, code in (({"threads": MAX_THREADS + 1}, "threads"), ({"batch": MAX_BATCH + 1}, "batch-size")):
        with pytest.raises(EmraError) as caught:
            Segmenter.open(path, **options)
        assert caught.value.code == code
