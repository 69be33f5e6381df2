"""The real plugin library in NVIDIA's own plugin registry and ONNX parser, those of TensorRT-RTX; no GPU.

TensorRT-RTX has no third-generation layers: its network ends the process when such a plugin is added. So this goes as
far as making the plugin from the node's attributes, in a process of its own. All before that is TensorRT's code, and
its log says what was chosen and why.
"""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.plugin.conftest import Installed

pytest.importorskip("tensorrt_rtx_bindings")

PARSE = """
import sys
import tensorrt_rtx_bindings as trt
class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, message):
        print(severity.name, message, flush=True)
logger = Logger()
builder = trt.Builder(logger)
library, model = sys.argv[1:]
if library:
    print("LOADED", builder.get_plugin_registry().load_library(library) is not None)
    found = builder.get_plugin_registry().get_creator("AttentionAggregation", "1", "emra")
    print("CREATOR", found.name, found.plugin_version, found.plugin_namespace)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
print("PARSED", parser.parse(open(model, "rb").read()))
for i in range(parser.num_errors):
    print("PROBLEM", parser.get_error(i).desc())
"""

ATTRIBUTES = {"num_heads": 3, "num_class_tokens": 6, "scale": 0.125}
CHOSEN = {"plugin_namespace": "emra", "plugin_version": "1"}
CREATED = "Successfully created plugin: AttentionAggregation"
AS_FUNCTION = "Importing as a local function"


def model_file(folder: Path, attributes: dict[str, object], body: bool) -> Path:
    """One node emra::AttentionAggregation, and if wanted a function of that name; of other meaning, as nothing runs."""
    node = helper.make_node("AttentionAggregation", ["a", "b"], ["gca"], domain="emra", name="/mca/agg", **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 70, 576]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("gca", TensorProto.FLOAT, ["B", 70, 576])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("emra", 1)]
    addition = [helper.make_node("Add", ["a", "b"], ["gca"])]
    names = list(attributes)
    function = helper.make_function("emra", node.op_type, ["a", "b"], ["gca"], addition, opsets[:1], names)
    graph = helper.make_graph([node], "graph", inputs, outputs)
    model = helper.make_model(graph, functions=[function] if body else [], opset_imports=opsets, ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def parse(library: Path | None, model: Path) -> str:
    command = [sys.executable, "-c", PARSE, str(library or ""), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


@pytest.fixture
def plugins(installed: Installed) -> Path:
    return installed.libraries / "libemra_plugins.so"


def test_the_registry_loads_the_library_and_finds_the_creator(plugins: Path, tmp_path: Path) -> None:
    said = parse(plugins, model_file(tmp_path, ATTRIBUTES | CHOSEN, body=False))
    assert "LOADED True" in said
    assert "CREATOR AttentionAggregation 1 emra" in said


@pytest.mark.parametrize("attributes", [ATTRIBUTES | CHOSEN, ATTRIBUTES])
def test_a_node_without_body_becomes_the_plugin(plugins: Path, tmp_path: Path, attributes: dict[str, object]) -> None:
    """By its attributes, or, in TensorRT 10.10 and newer, by its domain."""
    assert CREATED in parse(plugins, model_file(tmp_path, attributes, body=False))


def test_a_node_with_body_becomes_the_plugin_where_its_attributes_choose_it(plugins: Path, tmp_path: Path) -> None:
    said = parse(plugins, model_file(tmp_path, ATTRIBUTES | CHOSEN, body=True))
    assert CREATED in said
    assert AS_FUNCTION not in said


def test_a_node_with_body_becomes_its_body_where_nothing_chooses_the_plugin(plugins: Path, tmp_path: Path) -> None:
    """Why the exporter writes plugin_namespace and plugin_version: the domain alone is not enough."""
    said = parse(plugins, model_file(tmp_path, ATTRIBUTES, body=True))
    assert CREATED not in said
    assert AS_FUNCTION in said
    assert "PARSED True" in said


def test_a_node_with_body_becomes_its_body_where_no_plugin_is_loaded(tmp_path: Path) -> None:
    said = parse(None, model_file(tmp_path, ATTRIBUTES | CHOSEN, body=True))
    assert AS_FUNCTION in said
    assert "PARSED True" in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_heads": 0}, "attribute 'num_heads' is 0, expected 1 or more"),
        ({"num_class_tokens": 33}, "attribute 'num_class_tokens' is 33, expected 1 to 32"),
        ({"scale": -1.0}, "attribute 'scale' is -1, expected a finite number above 0"),
        ({"scale": 1}, "attribute 'scale' is INT32, expected FLOAT32 or FLOAT64"),
        ({"num_heads": [3, 3]}, "attribute 'num_heads' has 2 values, expected 1"),
        ({"num_heads": None}, "attribute 'num_heads' is missing"),
    ],
)
def test_wrong_attributes_are_reported(plugins: Path, tmp_path: Path, changed: dict[str, object], message: str) -> None:
    """On stderr: while a network is parsed, TensorRT's logger finder knows no logger."""
    attributes = {name: value for name, value in (ATTRIBUTES | CHOSEN | changed).items() if value is not None}
    said = parse(plugins, model_file(tmp_path, attributes, body=False))
    assert f"error: emra::AttentionAggregation '/mca/agg': {message}\n" in said
    assert "PARSED False" in said
    assert "PROBLEM" in said
