"""The sidecar of an engine comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emra_deploy.backends.tensorrt.plan import PlanHeader, parse_header, read_header
from emra_deploy.backends.tensorrt.sidecar import (
    PASSED,
    Flags,
    Gpu,
    Machine,
    MemoryNeed,
    Plugin,
    Precision,
    Profile,
    SelfTest,
    from_json,
    read_sidecar,
    sidecar_path,
    to_json,
)
from emra_deploy.errors import EmraError
from tests.onnx_models import make_manifest
from tests.sidecars import FULL

MANIFEST = make_manifest()


def content() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(to_json(FULL, MANIFEST))
    return loaded


def test_it_comes_back() -> None:
    assert from_json(to_json(FULL, MANIFEST)) == (FULL, MANIFEST)
    bare = replace(FULL, machine=Machine(None, None, None, None, "x86_64"), plugins=(), self_test=SelfTest("not run"))
    assert from_json(to_json(bare, MANIFEST)) == (bare, MANIFEST)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value of a sidecar except its Manifest, which has its own tests."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if at or key != "manifest":
            found += places(item, (*at, key))
    return found


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.just([]), st.just({})
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(places(content())), value=ODD)
def test_any_other_value_is_taken_whole_or_refused(place: tuple[Any, ...], value: Any) -> None:
    changed = content()
    target: Any = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    try:
        sidecar, manifest = from_json(json.dumps(changed))
    except EmraError:
        return
    # An accepted sidecar is valid, and equals the text.
    again = json.loads(to_json(sidecar, manifest))
    assert again == changed


@pytest.mark.parametrize("name", [name for name in content() if name != "manifest"])
def test_every_field_is_needed(name: str) -> None:
    changed = content()
    del changed[name]
    with pytest.raises(EmraError, match=name):
        from_json(json.dumps(changed))


def test_unknown_fields_and_newer_forms() -> None:
    with pytest.raises(EmraError, match="colour"):
        from_json(json.dumps({**content(), "colour": 1}))
    with pytest.raises(EmraError, match="schema 2") as caught:
        from_json(json.dumps({**content(), "schema": 2, "colour": 1}))
    assert "Upgrade" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "\x00", "[" * 100_000, '{"manifest": 1}', '{"manifest": {}}', "null"])
def test_what_is_no_sidecar(text: str) -> None:
    with pytest.raises(EmraError):
        from_json(text)


@pytest.mark.parametrize(
    ("record", "arguments", "reported"),
    [
        (Profile, ((2, 8, 8, 3), (1, 8, 8, 3), (4, 8, 8, 3)), "goes 2, 1, 4"),
        (Profile, ((1, 8, 8, 3), (1, 8, 8, 3), (1, 16, 8, 3)), "varies"),
        (Gpu, ("Orin", "87"), "8.7"),
        (Gpu, ("\x1b[2J", "8.7"), "plain text"),
        (Plugin, ("lib.so", "b" * 64), "absolute"),
        (SelfTest, ("maybe",), "maybe"),
        (SelfTest, (PASSED, 1.5), "1.5"),
        (Precision, ("fp7", {}, "x"), "fp7"),
        (MemoryNeed, (None, -1, 0), "-1"),
        (Flags, (False, False, False, True, 0), "workspace"),
    ],
)
def test_values_are_checked(record: type, arguments: tuple[Any, ...], reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        record(*arguments)


def test_files(tmp_path: Path) -> None:
    engine = tmp_path / "model.fp16.engine"
    assert sidecar_path(engine).name == "model.fp16.engine.json"
    assert read_sidecar(engine) is None
    sidecar_path(engine).write_bytes(b"\xff\xfe")
    with pytest.raises(EmraError) as caught:
        read_sidecar(engine)
    assert caught.value.path == str(sidecar_path(engine))
    sidecar_path(engine).write_text(to_json(FULL, MANIFEST), encoding="utf-8")
    assert read_sidecar(engine) == (FULL, MANIFEST)


def test_headers_of_engines(tmp_path: Path) -> None:
    # The first 32 bytes of an engine that TensorRT-RTX 1.7.1.116 built, as they were.
    recorded = bytes.fromhex("7674727400000000020000000000000 0d430f101000000000107017476747274".replace(" ", ""))
    assert parse_header(recorded) == PlanHeader("rtx", (1, 7, 1, 116))
    assert parse_header(b"ftrt" + bytes(20) + bytes([10, 3, 0, 30])) == PlanHeader("tensorrt", (10, 3, 0, 30))
    assert parse_header(recorded[:27]) is None
    assert parse_header(b"ONNX" + recorded[4:]) is None
    (tmp_path / "folder.engine").mkdir()
    for name, code in {"folder.engine": "model-missing", "none.engine": "model-missing"}.items():
        with pytest.raises(EmraError) as caught:
            read_header(tmp_path / name)
        assert caught.value.code == code
