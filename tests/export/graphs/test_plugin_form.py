"""The operator in ONNX: its body defines it, whole files agree with PyTorch in every library."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, inliner
from onnx.reference import ReferenceEvaluator

from emra_deploy.backends.openvino import open_core
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from export.compare.verify import DYNAMIC_OPERATORS
from export.graphs.function_body import DOMAIN, OPERATOR, add_body, aggregation_nodes, drop_body, function_body
from export.graphs.model_file import WrittenModel
from export.half.convert import convert_to_half
from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, narrow_backbone, random_model
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.scenes import DUBAI_CLASSES, generate
from training.model.aggregation import aggregate_explicit

REPOSITORY = Path(__file__).resolve().parents[3]

CASES = [
    # batch, heads, head width, classes, patches, blocks
    (1, 1, 32, 2, 1, 1),
    (2, 3, 64, 5, 16, 4),
    (2, 2, 80, 32, 50, 2),
    (1, 2, 16, 20, 12, 12),
]


def one_node(case: tuple[int, ...], kind: int, value_width: int | None = None) -> ModelProto:
    """A model that is the operator alone, with an open batch."""
    _, heads, width, classes, patches, blocks = case
    names = [f"x{block}" for block in range(blocks)]
    node = helper.make_node(
        OPERATOR,
        names,
        ["gca"],
        domain=DOMAIN,
        num_heads=heads,
        num_class_tokens=classes,
        scale=width**-0.5,
        plugin_namespace="emra",
        plugin_version="1",
    )
    packed = ["batch", classes + patches, 3 * heads * width]
    graph = helper.make_graph(
        [node],
        "operator",
        [helper.make_tensor_value_info(name, kind, packed) for name in names],
        [helper.make_tensor_value_info("gca", TensorProto.FLOAT, ["batch", classes, patches])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.append(function_body(blocks, max(width, classes) if value_width is None else value_width))
    onnx.checker.check_model(model, full_check=True)
    return model


def inputs_of(case: tuple[int, ...], dtype: type) -> tuple[dict[str, np.ndarray], np.ndarray]:
    batch, heads, width, classes, patches, blocks = case
    generator = np.random.default_rng(sum(case))
    shape = (batch, classes + patches, 3 * heads * width)
    packed = [(generator.standard_normal(shape) * 1.5).astype(dtype) for _ in range(blocks)]
    wide = [torch.from_numpy(block).double() for block in packed]
    expected = aggregate_explicit(wide, heads, classes, width**-0.5).numpy()
    return {f"x{place}": block for place, block in enumerate(packed)}, expected


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT, np.float32), (TensorProto.FLOAT16, np.float16)])
@pytest.mark.parametrize("case", CASES)
def test_the_body_is_the_formula(case: tuple[int, ...], kind: int, dtype: type) -> None:
    model = one_node(case, kind)
    feed, expected = inputs_of(case, dtype)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    # ONNX's own evaluator computes FP16 as FP16, which ONNX Runtime's processor kernels do not.
    (plain,) = ReferenceEvaluator(model).run(None, feed)
    assert (plain.dtype, plain.shape) == (np.float32, expected.shape)
    for values, tolerance in (
        (found, 2e-6 if dtype == np.float32 else 5e-3),
        (plain, 2e-6 if dtype == np.float32 else 2e-2),
    ):
        assert np.abs(values - expected).max() <= tolerance * expected.max()


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT, np.float32), (TensorProto.FLOAT16, np.float16)])
def test_the_body_in_openvino(kind: int, dtype: type) -> None:
    pytest.importorskip("openvino")
    feed, expected = inputs_of(CASES[1], dtype)
    model = inliner.inline_local_functions(one_node(CASES[1], kind))
    core = open_core()
    read = core.read_model(model.SerializeToString())
    found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feed)[0]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= (2e-6 if dtype == np.float32 else 5e-3) * expected.max()


@pytest.mark.parametrize("value_width", [1, 7, 256])
def test_the_padded_width_is_of_no_consequence(value_width: int) -> None:
    feed, expected = inputs_of(CASES[2], np.float32)
    model = one_node(CASES[2], TensorProto.FLOAT, value_width)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert np.abs(found - expected).max() <= 2e-6 * expected.max()


def test_one_body_serves_any_attributes() -> None:
    feed, _ = inputs_of((1, 4, 32, 6, 20, 2), np.float32)
    blocks = [torch.from_numpy(block).double() for block in feed.values()]
    body = function_body(2, 32)
    for heads, classes, scale in ((4, 6, 32**-0.5), (1, 2, 0.05), (2, 25, 0.3)):
        model = one_node((1, heads, 128 // heads, classes, 26 - classes, 2), TensorProto.FLOAT)
        next(attribute for attribute in model.graph.node[0].attribute if attribute.name == "scale").f = scale
        del model.functions[:]
        model.functions.append(body)
        (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
        expected = aggregate_explicit(blocks, heads, classes, scale).numpy()
        assert np.abs(found - expected).max() <= 2e-6 * expected.max()


def test_small_shares_survive_half_precision() -> None:
    """Class tokens that look at each other leave 8e-6 for each patch, which FP16 itself holds to two digits."""
    packed = np.zeros((1, 18, 96), np.float16)
    packed[0, :2, 0], packed[0, :2, 32] = 11, np.sqrt(32)
    (found,) = ReferenceEvaluator(one_node((1, 1, 32, 2, 16, 1), TensorProto.FLOAT16)).run(None, {"x0": packed})
    expected = aggregate_explicit([torch.from_numpy(packed).double()], 1, 2, 32**-0.5).numpy()
    assert 7e-6 < expected.max() < 8e-6
    assert np.abs(found / expected - 1).max() <= 2e-3


def network_of(model: ModelProto, profile: dict[str, tuple[int, ...]]):
    """The network that TensorRT-RTX makes of a model, and whether its builder takes it for batches of 1 to 4."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    for name, size in profile.items():
        shapes.set_shape(name, (1, *size), (1, *size), (4, *size))
    config.add_optimization_profile(shapes)
    return trt, network, builder.build_serialized_network(network, config)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_tensorrt_sees_no_open_size_but_the_batch(kind: int) -> None:
    case = CASES[1]
    _, heads, width, classes, patches, blocks = case
    size = (classes + patches, 3 * heads * width)
    trt, network, plan = network_of(one_node(case, kind), {f"x{block}": size for block in range(blocks)})
    assert plan is not None
    assert network.get_output(0).dtype == trt.float32
    assert tuple(network.get_output(0).shape) == (-1, classes, patches)
    attention = [layer for layer in layers(network) if layer.type == trt.LayerType.SOFTMAX]
    assert len(attention) == 2 * blocks
    for layer in layers(network):
        for place in range(layer.num_outputs):
            assert min(tuple(layer.get_output(place).shape)[1:], default=1) >= 0, layer.name
    # Class rows in FP32; the large attention in the type of the inputs, for which TensorRT has fused kernels.
    large = [layer for layer in attention if tuple(layer.get_output(0).shape)[2] == patches]
    assert len(large) == blocks
    assert {layer.get_output(0).dtype for layer in large} == {
        trt.float16 if kind == TensorProto.FLOAT16 else trt.float32
    }
    assert {layer.get_output(0).dtype for layer in attention if layer not in large} <= {trt.float32}


def layers(network):
    return [network.get_layer(index) for index in range(network.num_layers)]


@pytest.fixture(scope="module")
def plugin_file(tiny_checkpoint: Path) -> Path:
    """A plugin-form export, zoom 2, any batch, labels and logits out. Only to be read."""
    path = tiny_checkpoint.parent / "plugin.onnx"
    with narrow_backbone():
        exported = to_onnx(tiny_checkpoint, path, aggregation="plugin", heads=("classes", "logits"), name="small")
    check_exported(exported)
    return path


def check_exported(exported: WrittenModel) -> None:
    """ONNX Runtime and OpenVINO were compared with PyTorch, and TensorRT-RTX built it, where they are installed."""
    for library in ("openvino", "tensorrt_rtx_bindings"):
        assert importlib.util.find_spec(library) is None or not any("not checked" in line for line in exported.checks)
    assert exported.manifest.aggregation == "plugin"
    assert onnx.load(exported.path).functions


def logits_of(model: ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(["logits"], {"image": image})[0]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_is_what_pytorch_gives(batch: int, plugin_file: Path, tiny_checkpoint: Path) -> None:
    image = np.stack([generate(seed, 64, 64).image for seed in range(batch)])
    pixels = ((torch.from_numpy(image).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    with narrow_backbone(), torch.inference_mode():
        expected = load_checkpoint(tiny_checkpoint).model(pixels).numpy()
    found = logits_of(onnx.load(plugin_file), image)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9999


def test_the_plugin_finds_its_node(plugin_file: Path) -> None:
    file = onnx.load(plugin_file)
    (node,) = aggregation_nodes(file)
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {
        "num_heads": 2,
        "num_class_tokens": 5,
        "scale": pytest.approx(32**-0.5),
        "plugin_namespace": b"emra",
        "plugin_version": b"1",
    }
    # Straight from the qkv linears, oldest block first: a bias is the last thing that was added.
    made = {output: place for place, each in enumerate(file.graph.node) for output in each.output}
    sources = [made[name] for name in node.input]
    assert sources == sorted(sources)
    assert len(sources) == 4
    assert {file.graph.node[place].op_type for place in sources} == {"Add"}
    for place in sources:
        readers = [each.op_type for each in file.graph.node if file.graph.node[place].output[0] in each.input]
        assert sorted(readers) == [OPERATOR, "Split"]
    assert [(body.domain, body.name) for body in file.functions] == [(DOMAIN, OPERATOR)]
    assert {entry.domain: entry.version for entry in file.opset_import} == {"": 20, DOMAIN: 1}
    inlined = inliner.inline_local_functions(file)
    assert not {each.op_type for each in inlined.graph.node} & DYNAMIC_OPERATORS
    assert not aggregation_nodes(inlined)


def test_another_model_and_another_file(small_backbone: None, tmp_path: Path) -> None:
    model = random_model(image_size=(64, 64), hra_block=0, mca_blocks=1, fusion="gated")
    save_checkpoint(tmp_path / "c", model, DUBAI_CLASSES, MEAN, STD, {})
    options = {"batch": 3, "heads": ("logits", "confidence"), "weights": "float16", "size": (32, 48)}
    exported = to_onnx(tmp_path / "c", tmp_path / "m.onnx", aggregation="plugin", **options)
    check_exported(exported)
    assert len(aggregation_nodes(onnx.load(exported.path))[0].input) == 1


@pytest.mark.slow
def test_a_real_backbone(tmp_path: Path) -> None:
    model = random_model(backbone="small", image_size=(96, 64), hra_block=0, mca_blocks=12)
    save_checkpoint(tmp_path / "c", model, DUBAI_CLASSES, MEAN, STD, {})
    check_exported(to_onnx(tmp_path / "c", tmp_path / "m.onnx", aggregation="plugin", input_kind="float"))


def test_the_file_for_old_tensorrt_is_the_same_without_the_body(
    tiny_checkpoint: Path, plugin_file: Path, tmp_path: Path
) -> None:
    options = {"aggregation": "plugin", "heads": ("classes", "logits"), "name": "small"}
    with narrow_backbone():
        bare = to_onnx(tiny_checkpoint, tmp_path / "bare.onnx", function_body=False, **options)
    assert "without the function body" in bare.checks[-1]
    expected, found = _unsealed(plugin_file), _unsealed(bare.path)
    assert not found.functions
    drop_body(expected)
    assert found == expected, "or the same model gives another file"
    # What reads it says which operator is missing; with the body back it is the file that everything reads.
    with pytest.raises(EmraError, match=OPERATOR):
        Segmenter.open(bare.path)
    for _ in range(2):
        add_body(found, head_width=32)
        assert found == _unsealed(plugin_file)


def _unsealed(path: Path) -> onnx.ModelProto:
    """A file without the sums of its own bytes."""
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key not in ("emra_sealed", "emra_sha256")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def test_only_the_plugin_form_has_a_body_to_leave_out(small_checkpoint: Path, tmp_path: Path) -> None:
    for aggregation in (None, "streamed", "explicit"):
        with pytest.raises(EmraError) as caught:
            to_onnx(small_checkpoint, tmp_path / "m.onnx", aggregation=aggregation, function_body=False)
        assert caught.value.code == "export-argument"
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_without_the_operator_gets_no_body() -> None:
    model = one_node(CASES[1], TensorProto.FLOAT)
    del model.graph.node[:]
    with pytest.raises(ValueError, match="expected one number"):
        add_body(model, 64)


def test_half_gives_the_operator_its_inputs_and_keeps_its_output(plugin_file: Path) -> None:
    whole = onnx.load(plugin_file)
    half, _ = convert_to_half(whole)
    (node,) = aggregation_nodes(half)
    assert node.attribute == aggregation_nodes(whole)[0].attribute
    assert half.functions == whole.functions
    assert half.opset_import == whole.opset_import
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    types = {entry.name: entry.type.tensor_type.elem_type for entry in inferred.graph.value_info}
    assert types[node.output[0]] == TensorProto.FLOAT
    assert {types[name] for name in node.input} == {TensorProto.FLOAT16}
    makers = {output: each.op_type for each in half.graph.node for output in each.output}
    assert {makers[name] for name in node.input} == {"Add"}, "casts before it, which the kernels do not need"
    image = np.stack([generate(seed, 64, 64).image for seed in range(3)])
    one, two = logits_of(whole, image), logits_of(half, image)
    assert (one.argmax(1) == two.argmax(1)).mean() >= 0.999
    assert np.abs(one - two).max() <= 1e-2 * np.abs(one).max()
    *_, plan = network_of(half, {"image": (64, 64, 3)})
    assert plan is not None


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", random_model(image_size=(64, 64)), DUBAI_CLASSES, MEAN, STD, {})
    words = [sys.executable, "export/to_onnx.py", "--checkpoint", tmp_path / "c", "--output", tmp_path / "m.onnx"]
    done = subprocess.run([*words, "--no-function-body"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    words += ["--aggregation", "plugin", "--no-function-body"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"without the function body of {DOMAIN}::{OPERATOR}" in done.stdout
    assert not onnx.load(tmp_path / "m.onnx").functions
