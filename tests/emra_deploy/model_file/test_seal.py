"""Seals: a file with any changed byte is refused, and files without a seal are accepted."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.model_file.seal import MODEL_KEYS, check_model_seal, seal_json, seal_model, take_json_seal
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import build_model, scene

BACKENDS = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seal") / "model.onnx"
    build_model(path)
    assert not check_model_seal(path)
    seal_model(path)
    return path


def test_a_sealed_file_is_still_an_onnx_file(sealed: Path) -> None:
    model = onnx.load(sealed)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props][-2:] == list(MODEL_KEYS)
    assert check_model_seal(sealed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flipped_bit_that_no_self_test_would_notice(sealed: Path, tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    data = bytearray(sealed.read_bytes())
    place = data.find(b"vegetation", data.find(b'"names"'))
    assert place > 0
    data[place] ^= 1
    copy = tmp_path / "model.onnx"
    copy.write_bytes(data)
    with pytest.raises(EmraError) as caught:
        open_backend(copy, backend=backend)
    assert (caught.value.code, caught.value.path) == ("model-damaged", str(copy))


@given(st.data())
def test_any_other_byte_is_noticed(sealed: Path, data: st.DataObject) -> None:
    whole = sealed.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    copy = sealed.with_name("copy.onnx")
    copy.write_bytes(whole[:place] + bytes([whole[place] ^ other]) + whole[place + 1 :])
    with pytest.raises(EmraError) as caught:
        check_model_seal(copy)
    assert caught.value.code == "model-damaged"


def test_rubbish_behind_the_seal_does_not_hide_it(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(sealed.read_bytes() + b"\x78\x01")
    with pytest.raises(EmraError):
        check_model_seal(copy)


def test_the_seal_does_not_change_what_the_model_says(sealed: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.onnx"
    build_model(bare)
    picture = scene(50, 70)
    with Segmenter.open(sealed) as with_seal, Segmenter.open(bare) as without:
        assert with_seal.manifest == without.manifest
        assert (with_seal.segment(picture).labels == without.segment(picture).labels).all()


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_json_comes_back(content: dict[str, object]) -> None:
    content.pop("seal", None)
    found = json.loads(seal_json(json.dumps(content)))
    assert len(found) == len(content) + 1
    take_json_seal(found)
    assert found == content


def test_json_that_was_edited() -> None:
    found = json.loads(seal_json('{"a": 1, "b": [1, 2]}'))
    found["b"][0] = 3
    with pytest.raises(ValueError, match="sealed"):
        take_json_seal(found)
    bare = {"a": 1}
    take_json_seal(bare)
    assert bare == {"a": 1}


def test_openvino_does_not_hang_over_a_version_of_operators_that_does_not_exist(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "model.onnx"
    build_model(path)
    model = onnx.load(path)
    model.opset_import[0].version = -(2**31)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EmraError) as caught:
        open_backend(path, backend="openvino")
    assert caught.value.code == "model-unreadable"
