"""The names of external files, against the onnx package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.backends.external_data import check_external_data, external_locations
from emra_deploy.errors import EmraError
from tests.onnx_models import build_model


def tensor(name: str, location: str) -> onnx.TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location)):
        made.external_data.add(key=key, value=value)
    return made


def model_with_tensors_everywhere() -> onnx.ModelProto:
    inside = helper.make_graph([], "inside", [], [], [tensor("a", "in/subgraph")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inside, else_branch=inside),
        helper.make_node("Constant", [], ["k"], value=tensor("b", "attribute")),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [tensor("d", "initialiser"), tensor("e", "initialiser")])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("s", "sparse values"))
    sparse.indices.CopyFrom(tensor("i", "sparse indices"))
    model = helper.make_model(graph, doc_string="location " * 50)
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["k"], value=tensor("f", "función")))
    model.training_info.add().initialization.CopyFrom(helper.make_graph([], "t", [], [], [tensor("t", "training")]))
    return model


def test_finds_every_location(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with_tensors_everywhere().SerializeToString())
    expected = {"in/subgraph", "attribute", "initialiser", "sparse values", "sparse indices", "función", "training"}
    assert set(external_locations(path)) == expected
    assert len(external_locations(path)) == len(expected)


def test_those_that_onnx_writes(tmp_path: Path) -> None:
    build_model(tmp_path / "in.onnx")
    model = onnx.load(tmp_path / "in.onnx")
    assert external_locations(tmp_path / "in.onnx") == ()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(5000, np.float32), "more"))
    onnx.save_model(model, tmp_path / "out.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert external_locations(tmp_path / "out.onnx") == ("weights.bin",)
    check_external_data(tmp_path / "out.onnx")
    (tmp_path / "other.bin").hardlink_to(tmp_path / "weights.bin")
    with pytest.raises(EmraError) as caught:
        check_external_data(tmp_path / "out.onnx")
    assert caught.value.code == "model-external-data"


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "inner/../../weights.bin", "/etc/hostname", "link.bin", "*/_ORT_MEM_ADDR_/*", "no.bin"],
)
def test_files_elsewhere_are_refused_whatever_loads_them(tmp_path: Path, location: str) -> None:
    """ONNX Runtime 1.23 reads them, and the last but one crashes it."""
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    graph = helper.make_graph([], "g", [], [], [tensor("t", location)])
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(EmraError) as caught:
        check_external_data(folder / "m.onnx")
    assert caught.value.code == "model-external-data"
    assert caught.value.path == str(folder / "m.onnx")


def test_a_model_that_is_a_link_has_its_weights_beside_the_file(tmp_path: Path) -> None:
    store, shown = tmp_path / "store", tmp_path / "shown"
    store.mkdir()
    shown.mkdir()
    graph = helper.make_graph([], "g", [], [], [tensor("t", "weights.bin")])
    (store / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (store / "weights.bin").write_bytes(bytes(4))
    for name in ("m.onnx", "weights.bin"):
        (shown / name).symlink_to(store / name)
    check_external_data(shown / "m.onnx")


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 0.5, 0.9])
def test_damaged_files_are_refused_for_their_weights_or_by_others(tmp_path: Path, cut: float) -> None:
    def check(data: bytes) -> None:
        (tmp_path / "a.onnx").write_bytes(data)
        try:
            check_external_data(tmp_path / "a.onnx")
        except EmraError as error:
            assert error.code == "model-external-data"  # noqa: PT017

    data = model_with_tensors_everywhere().SerializeToString()
    check(data[: int(cut if cut >= 1 else cut * len(data))])
    random = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        for place in random.integers(0, len(data), 5):
            broken[place] = random.integers(256)
        check(bytes(broken))


def test_deep_nesting_ends(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(3000):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, graph
    (tmp_path / "a.onnx").write_bytes(field(7, graph))
    assert external_locations(tmp_path / "a.onnx") == ()
