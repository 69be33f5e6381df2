"""The class attention of finished files, rewritten to one node and back: the same model, or no file."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from export.compare.runners import OnnxRunner, half_quantizers_fail, open_session
from export.graphs.aggregation_forms import to_plugin_form, to_streamed_form
from export.graphs.deployed import Deployed
from export.graphs.function_body import aggregation_nodes
from export.graphs.model_file import read_model
from export.graphs.onnx_file import trace
from export.rewrite_aggregation import EVIDENCE, main, rewrite_aggregation
from export.to_fp16 import to_fp16
from export.to_int8 import to_int8
from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, narrow_backbone, random_model
from tests.conftest import FP32_MODEL, REPOSITORY
from training.data.scenes import generate

KINDS = ("fp32", "fp16", "int8", "int8-fp16")
PICTURES = np.stack([generate(seed, 64, 64).image for seed in range(40, 44)])


@pytest.fixture(scope="module")
def files(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in the streamed form, in every precision. Only to be read."""
    folder = tmp_path_factory.mktemp("forms")
    for seed in range(3):
        Image.fromarray(generate(seed, 100, 140).image).save(folder / f"{seed}.png")
    made = {kind: folder / f"{kind}.onnx" for kind in KINDS} | {"fp32": small_file}
    to_fp16(small_file, made["fp16"])
    to_int8(small_file, folder, made["int8"], count=6)
    to_fp16(made["int8"], made["int8-fp16"])
    return made


def kinds_of(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(path: Path) -> dict[str, np.ndarray]:
    return OnnxRunner(*read_model(path)).run(PICTURES)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    source, there, back = files[kind], tmp_path / "p.onnx", tmp_path / "s.onnx"
    rewritten = rewrite_aggregation(source, there, to="plugin")
    for library in ("openvino", "tensorrt_rtx_bindings"):
        assert importlib.util.find_spec(library) is None or not any("not checked" in line for line in rewritten.checks)
    before, (model, manifest) = read_model(source)[1], read_model(there)  # which looks at the seal
    assert manifest == rewritten.manifest
    assert (manifest.aggregation, manifest.precision) == ("plugin", before.precision)
    assert manifest.parent_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest.golden == before.golden
    evidence = dict(manifest.evidence)
    assert evidence.pop(EVIDENCE)["label_agreement"] >= 0.999
    assert evidence == before.evidence
    same = replace(manifest, aggregation=before.aggregation, parent_sha256=before.parent_sha256, tools=before.tools,
                   evidence=before.evidence)  # fmt: skip
    assert same == before
    assert len(aggregation_nodes(model)) == 1
    with Segmenter.open(there, threads=1) as segmenter:  # its self-test runs here
        segmenter.segment(PICTURES[0])

    assert rewrite_aggregation(there, back, to="streamed").manifest.aggregation == "streamed"
    first, second = read_model(source)[0], read_model(back)[0]
    assert kinds_of(second) == kinds_of(first)
    assert not second.functions
    assert second.opset_import == first.opset_import
    read = {name for node in second.graph.node for name in node.input}
    assert {tensor.name for tensor in second.graph.initializer} <= read
    expected, found = run(source), run(back)
    assert np.array_equal(found["classes"], expected["classes"])
    assert np.abs(found["logits"] - expected["logits"]).max() <= 1e-5 * np.abs(expected["logits"]).max()


def plugin_export(checkpoint: Path, output: Path, **options: object) -> Path:
    with narrow_backbone():
        return to_onnx(checkpoint, output, aggregation="plugin", **options).path


def test_it_is_what_an_export_in_the_plugin_form_gives(
    files: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    exported = plugin_export(tiny_checkpoint, tmp_path / "e.onnx", weights="float16")
    rewrite_aggregation(files["fp32"], tmp_path / "r.onnx", to="plugin")
    # In FP16, too, whichever of the two conversions comes first.
    to_fp16(exported, tmp_path / "e.fp16.onnx")
    rewrite_aggregation(files["fp16"], tmp_path / "r.fp16.onnx", to="plugin")
    for name in ("onnx", "fp16.onnx"):
        first, second = read_model(tmp_path / f"e.{name}")[0], read_model(tmp_path / f"r.{name}")[0]
        assert kinds_of(second) == kinds_of(first)
        assert second.functions == first.functions
        assert second.opset_import == first.opset_import
        [ours], [theirs] = aggregation_nodes(second), aggregation_nodes(first)
        assert (ours.name, ours.attribute) == (theirs.name, theirs.attribute)
        expected, found = run(tmp_path / f"e.{name}"), run(tmp_path / f"r.{name}")
        assert np.array_equal(found["classes"], expected["classes"])
        assert np.abs(found["logits"] - expected["logits"]).max() <= 1e-5 * np.abs(expected["logits"]).max()


@pytest.mark.parametrize(
    ("config", "heads", "kind", "batch"),
    [
        ({"mca_blocks": 1, "fusion": "gated"}, ("logits", "confidence"), "uint8", 3),
        ({"mca_blocks": 4, "fusion": "sum", "hra_block": 0}, ("logits",), "float", None),
        ({"mca_blocks": 2, "fusion": "log"}, ("logits",), "uint8", None),
        # As many classes as a head is wide: nothing to pad.
        ({"mca_blocks": 2, "num_classes": 32, "image_size": (32, 48)}, ("logits",), "uint8", None),
    ],
)
def test_other_models(config: dict, heads: tuple[str, ...], kind: str, batch: int | None, small_backbone: None) -> None:
    traced = {}
    for form in ("streamed", "plugin"):
        model = random_model(**{"image_size": (64, 64), **config, "aggregation": form})
        traced[form] = trace(Deployed(model, MEAN, STD, kind, heads).eval(), batch)
    plugin = to_plugin_form(traced["streamed"])
    assert kinds_of(plugin) == kinds_of(traced["plugin"])
    assert plugin.functions == traced["plugin"].functions
    assert aggregation_nodes(plugin)[0].attribute == aggregation_nodes(traced["plugin"])[0].attribute
    size = model.config.image_size
    image = np.stack([generate(seed, *size).image for seed in range(3)])
    if kind == "float":
        image = image.transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected, *others = (
        open_session(each).run(["logits"], {"image": image})[0]
        for each in (traced["streamed"], plugin, to_streamed_form(plugin), to_streamed_form(traced["plugin"]))
    )
    for found in others:
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_without_the_function_body(files: dict[str, Path], tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare.onnx", tmp_path / "whole.onnx"
    rewrite_aggregation(files["fp16"], whole, to="plugin")
    made = rewrite_aggregation(files["fp16"], bare, to="plugin", function_body=False)
    assert "without the function body" in made.checks[-1]
    assert not read_model(bare)[0].functions
    with pytest.raises(EmraError, match="AttentionAggregation"):
        Segmenter.open(bare)
    # From either file to either, and to the streamed form.
    for source, body in ((bare, True), (whole, False)):
        rewrite_aggregation(source, tmp_path / "again.onnx", to="plugin", function_body=body, overwrite=True)
        other = read_model(whole if body else bare)[0]
        again = read_model(tmp_path / "again.onnx")[0]
        assert (again.graph, again.functions) == (other.graph, other.functions)
    rewrite_aggregation(bare, tmp_path / "back.onnx", to="streamed")
    assert np.array_equal(run(tmp_path / "back.onnx")["classes"], run(files["fp16"])["classes"])


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("explicit", {"to": "plugin"}, "aggregation-unrecognised"),
        ("explicit", {"to": "streamed"}, "aggregation-form"),
        ("fp32", {"to": "streamed"}, "aggregation-form"),
        ("fp32", {"to": "explicit"}, "export-argument"),
        ("fp32", {"to": "streamed", "function_body": False}, "export-argument"),
        ("missing", {"to": "plugin"}, "input-missing"),
    ],
)
def test_what_is_refused(
    kind: str, options: dict, code: str, files: dict[str, Path], explicit_file: Path, tmp_path: Path
) -> None:
    source = {"explicit": explicit_file, "missing": tmp_path / "none.onnx"}.get(kind) or files[kind]
    with pytest.raises(EmraError) as caught:
        rewrite_aggregation(source, tmp_path / "out.onnx", **options)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_is_there_already(files: dict[str, Path], tmp_path: Path) -> None:
    rewrite_aggregation(files["int8"], tmp_path / "p.onnx", to="plugin")
    with pytest.raises(EmraError, match="already"):
        rewrite_aggregation(tmp_path / "p.onnx", tmp_path / "out.onnx", to="plugin")
    with pytest.raises(EmraError, match="exists"):
        rewrite_aggregation(files["int8"], tmp_path / "p.onnx", to="plugin")


def test_a_graph_that_is_nearly_of_the_form_is_refused(files: dict[str, Path]) -> None:
    """Every constant and attribute of the class attention is changed, one after the other."""
    model = read_model(files["fp32"])[0]
    plugin = to_plugin_form(model)
    kept = {node.output[0] for node in plugin.graph.node}
    region = [node for node in model.graph.node if node.output[0] not in kept]
    assert {"Slice", "Div", "Pad", "Unsqueeze", "ReduceMean", "Softmax"} <= {node.op_type for node in region}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    tried = 0
    for node in region:
        for place, name in enumerate(node.input):
            # The factor of a mean and the position of a slice are checked; other steps and paddings do not occur.
            if name not in constants or (node.op_type, place) == ("Unsqueeze", 1):
                continue
            changed = ModelProto()
            changed.CopyFrom(model)
            other = numpy_helper.to_array(constants[name]) + 1
            changed.graph.initializer.append(numpy_helper.from_array(other, "changed"))
            twin = next(each for each in changed.graph.node if each.output[0] == node.output[0])
            twin.input[place] = "changed"
            tried += 1
            with pytest.raises(EmraError) as caught:
                to_plugin_form(changed)
            assert caught.value.code in ("aggregation-unrecognised", "graph-types"), (node.op_type, place)
    assert tried > 30


@pytest.mark.parametrize("model", ["fp32", "int8"])
def test_the_shipped_files(model: str) -> None:
    int8 = REPOSITORY / "emra_deploy" / "models" / "emra-ti-dubai.int8.onnx"
    file, manifest = read_model(FP32_MODEL if model == "fp32" else int8)
    plugin = to_plugin_form(file)
    back = to_streamed_form(plugin)
    assert kinds_of(back) == kinds_of(file)
    image = manifest.golden.image()[np.newaxis]
    labels = [OnnxRunner(each, manifest).run(image)["classes"] for each in (file, plugin, back)]
    assert np.array_equal(labels[1], labels[0])
    assert np.array_equal(labels[2], labels[0])


def test_an_onnxruntime_that_quantises_half_wrongly_is_worked_around(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    model, manifest = read_model(files["int8-fp16"])
    expected = OnnxRunner(model, manifest).run(PICTURES)["logits"]
    if half_quantizers_fail(model):
        pytest.skip("this ONNX Runtime is such a one; both sides would be the workaround")
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    assert half_quantizers_fail(model)
    for kind in ("fp32", "fp16", "int8"):
        assert not half_quantizers_fail(read_model(files[kind])[0]), kind
    found = OnnxRunner(model, manifest).run(PICTURES)["logits"]
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.99


def test_the_command_needs_no_torch(files: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'timm', 'training.model'): sys.modules[name] = None\n"
        "from export.rewrite_aggregation import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [str(files["fp32"]), "--to", "plugin", "--output", str(tmp_path / "p.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "100.0000% of" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("plugin form")


def test_errors_are_one_line(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files["fp32"]), "--to", "streamed", "--output", str(tmp_path / "s.onnx")]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "[aggregation-form]" in shown
    assert "fp32" in shown or "small.onnx" in shown


def test_a_file_without_class_attention_needs_no_plugin(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with narrow_backbone():
        to_onnx(tiny_checkpoint, tmp_path / "model.onnx", class_attention=False)
    with pytest.raises(EmraError, match="exported without MCA") as caught:
        rewrite_aggregation(tmp_path / "model.onnx", tmp_path / "plugin.onnx", to="plugin")
    assert caught.value.code == "aggregation-form"
    assert not (tmp_path / "plugin.onnx").exists()
