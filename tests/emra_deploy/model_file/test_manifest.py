"""The Manifest: a lossless round trip, and refusal of invalid input."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import METADATA_KEY, Manifest
from tests.onnx_models import make_manifest


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return make_manifest()


def test_json_gives_the_same_manifest_back(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json(indent=2)) == manifest
    bare = replace(manifest, golden=None, gsd=None, input_shape=(4, 32, 32), parent_sha256="0" * 64)
    assert Manifest.from_json(bare.to_json()) == bare


def test_metadata_gives_the_same_manifest_back(manifest: Manifest) -> None:
    assert Manifest.from_metadata(manifest.to_metadata()) == manifest


def test_metadata_speaks_to_deepness(manifest: Manifest) -> None:
    metadata = manifest.to_metadata()
    assert json.loads(metadata["model_type"]) == "Segmentor"
    assert json.loads(metadata["class_names"])["1"] == "land"
    assert json.loads(metadata["resolution"]) == 30.0
    assert json.loads(metadata["tiles_size"]) == 32
    assert json.loads(metadata["tiles_overlap"]) == 25
    assert "standardization_mean" not in metadata
    assert "resolution" not in replace(manifest, gsd=None).to_metadata()
    assert "standardization_mean" in make_manifest(input_kind="float").to_metadata()


def test_a_file_without_manifest_is_named_so() -> None:
    with pytest.raises(EmraError) as caught:
        Manifest.from_metadata({"producer": "someone"})
    assert caught.value.code == "manifest-missing"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("name", 3),
        ("name", "x" * 2000),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, "0.5"]),
        ("mean", [123.7, 116.3, 103.5]),
        ("mean", "abc"),
        ("std", [0.0, 0.2, 0.2]),
        ("std", [-0.2, 0.2, 0.2]),
        ("std", [True, 0.2, 0.2]),
        ("hra_block", -1),
        ("hra_block", 3.0),
        ("hra_block", True),
        ("mca_blocks", -1),
        ("zoom", 0),
        ("zoom", 1.5),
        ("fusion", "mean"),
        ("fusion", ["product"]),
        ("aggregation", None),
        ("input_shape", [1, 0, 32]),
        ("input_shape", [1, 32]),
        ("input_shape", [0, 32, 32]),
        ("input_shape", [1, 32, 10**9]),
        ("input_shape", [1, 32, 64]),
        ("input_kind", "int8"),
        ("heads", []),
        ("heads", ["confidence"]),
        ("heads", ["classes", "classes"]),
        ("heads", [["classes"]]),
        ("precision", "bf16"),
        ("bands", ["red", "green"]),
        ("bands", ["red", "green", 3]),
        ("gsd", 0),
        ("gsd", "0.3"),
        ("parent_sha256", "abc"),
        ("parent_sha256", 7),
        ("tools", ["onnx"]),
        ("tools", {"onnx": 1}),
        ("evidence", [1]),
        ("classes", None),
        ("classes", {"names": ["a"]}),
        ("classes", {"names": ["a", 2], "palette": [[0, 0, 0], [1, 1, 1]]}),
        ("classes", {"names": ["a"], "palette": [[0, 0, 0.5]]}),
        ("classes", {"names": ["a"], "palette": ["abc"]}),
        ("schema", 0),
        ("schema", "1"),
        ("schema", None),
    ],
)
def test_a_wrong_field_is_refused(manifest: Manifest, key: str, value: Any) -> None:
    content = json.loads(manifest.to_json())
    content[key] = value
    with pytest.raises(EmraError) as caught:
        Manifest.from_json(json.dumps(content))
    assert caught.value.code == "manifest-field"
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("classes", {"names": [], "palette": []}, "class-count"),
        ("classes", {"names": ["a"], "palette": [[0, 0, 0], [1, 1, 1]]}, "class-count"),
        ("classes", {"names": ["a", "a"], "palette": [[0, 0, 0], [1, 1, 1]]}, "class-names"),
        ("classes", {"names": ["a"], "palette": [[0, 0, 256]]}, "class-colour"),
        ("classes", {"names": ["a"], "palette": [[0, 0]]}, "class-colour"),
        ("schema", 2, "manifest-schema"),
        ("golden", 3, "golden-tile"),
        ("golden", {"image_png": "", "labels_png": "", "tolerance": 0}, "golden-tile"),
        ("colour_profile", "sRGB", "manifest-json"),
    ],
)
def test_a_wrong_part_has_its_own_code(manifest: Manifest, key: str, value: Any, code: str) -> None:
    content = json.loads(manifest.to_json())
    content[key] = value
    with pytest.raises(EmraError) as caught:
        Manifest.from_json(json.dumps(content))
    assert caught.value.code == code


def test_a_newer_schema_with_unknown_fields_says_upgrade(manifest: Manifest) -> None:
    with pytest.raises(EmraError, match="Upgrade") as caught:
        Manifest.from_json('{"schema": 9, "anything": 1}')
    assert caught.value.code == "manifest-schema"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "{}",
        '{"schema": 1}',
        '{"schema": NaN}',
        "[" * 100_000,
        '{"evidence":' * 50_000,
        '{"schema": 1' + "0" * 5000 + "}",
        "\x00",
    ],
)
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(EmraError) as caught:
        Manifest.from_json(text)
    assert caught.value.code in {"manifest-json", "manifest-field", "manifest-schema"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("key", ["gsd", "evidence"])
def test_numbers_that_are_not_finite_are_refused(manifest: Manifest, key: str, number: str) -> None:
    content = json.loads(manifest.to_json())
    content[key] = "@" if key == "gsd" else {"miou": "@"}
    with pytest.raises(EmraError):
        Manifest.from_json(json.dumps(content).replace('"@"', number))


def test_evidence_may_not_nest_without_end(manifest: Manifest) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = {"deeper": deep}
    with pytest.raises(EmraError):
        replace(manifest, evidence=deep)
    with pytest.raises(EmraError):
        replace(manifest, evidence={"when": object()})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(json.loads(make_manifest(golden=False).to_json()))), _json)
def test_any_json_in_any_field_is_accepted_or_an_emra_error(key: str, value: Any) -> None:
    content = json.loads(make_manifest(golden=False).to_json())
    content[key] = value
    try:
        accepted = Manifest.from_json(json.dumps(content))
    except EmraError:
        return
    assert Manifest.from_json(accepted.to_json()) == accepted


def test_the_golden_tile_is_lossless() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    labels = random.integers(0, 5, (20, 30), dtype=np.uint8)
    tile = GoldenTile.from_dict(json.loads(json.dumps(GoldenTile.encode(image, labels, 0.01).to_dict())))
    np.testing.assert_array_equal(tile.image(), image)
    np.testing.assert_array_equal(tile.labels(), labels)
    assert (tile.size, tile.tolerance) == ((20, 30), 0.01)


def _png(mode: str, size: tuple[int, int] = (32, 32), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format=kind)
    return stream.getvalue()


def _with_header(data: bytes, width: int, height: int) -> bytes:
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (b"", _png("L")),
        (b"not a png", _png("L")),
        (_png("RGB", kind="JPEG"), _png("L")),
        (_png("RGBA"), _png("L")),
        (_png("RGB"), _png("P")),
        (_png("RGB"), _png("I;16")),
        (_png("RGB"), _png("L", (32, 31))),
        (_with_header(_png("RGB"), 100_000, 100_000), _png("L")),
        (_with_header(_png("RGB"), 0, 32), _png("L")),
    ],
)
def test_a_golden_tile_that_is_not_two_png_is_refused(image: bytes, labels: bytes) -> None:
    with pytest.raises(EmraError) as caught:
        GoldenTile(image, labels, 0.0)
    assert caught.value.code == "golden-tile"


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan"), True, "0"])
def test_a_golden_tolerance_is_a_fraction(tolerance: Any) -> None:
    with pytest.raises(EmraError):
        GoldenTile(_png("RGB"), _png("L"), tolerance)


def test_a_damaged_golden_tile_is_found_when_decoded() -> None:
    whole = _png("RGB", (200, 200))
    with pytest.raises(EmraError) as caught:
        GoldenTile(whole[: len(whole) // 2], _png("L", (200, 200)), 0.0).image()
    assert caught.value.code == "golden-tile"


def test_a_golden_tile_of_another_size_is_refused(manifest: Manifest) -> None:
    content = json.loads(manifest.to_json())
    content["golden"]["image_png"] = base64.b64encode(_png("RGB", (16, 16))).decode()
    content["golden"]["labels_png"] = base64.b64encode(_png("L", (16, 16))).decode()
    with pytest.raises(EmraError) as caught:
        Manifest.from_metadata({METADATA_KEY: json.dumps(content)})
    assert caught.value.code == "manifest-field"
