"""The installed TensorRT, its features, and the errors without it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emra_deploy.backends.tensorrt.flavour import RTX, TENSORRT, Flavour, load_flavour, parse_version, version_text
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command
from tests.emra_deploy.backends.tensorrt.fake_tensorrt import Fake

ALL = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """Make these modules the only flavours that are here."""

    def set_modules(**modules: object) -> None:
        for name in ALL:
            monkeypatch.setitem(sys.modules, name, modules.get(name))

    return set_modules


def test_the_first_that_is_here_is_taken(only) -> None:
    both = {"tensorrt": Fake((10, 16, 0, 1)).module(), "tensorrt_rtx": Fake((1, 7, 1, 116)).module("tensorrt_rtx")}
    only(**both)
    assert load_flavour().title == "TensorRT 10.16.0.1"
    assert load_flavour(RTX).title == "TensorRT-RTX 1.7.1.116"
    only(tensorrt_rtx_bindings=Fake((1, 7, 1, 116)).module("tensorrt_rtx_bindings"))
    assert load_flavour().name == RTX


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (None, "Neither TensorRT nor TensorRT-RTX is installed"),
        (TENSORRT, "TensorRT is not installed"),
        (RTX, "TensorRT-RTX is not installed"),
    ],
)
def test_absent_libraries_say_how_to_get_them_on_a_jetson_and_on_a_desktop(only, name: str | None, cause: str) -> None:
    only()
    with pytest.raises(EmraError) as caught:
        load_flavour(name)
    assert caught.value.code == "backend-missing"
    assert caught.value.cause == cause
    for word in ("apt install tensorrt", "--system-site-packages", install_command("tensorrt"), install_command("rtx")):
        assert word in caught.value.remedy


def test_a_library_that_does_not_load(only, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ALL:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EmraError, match=r"libnvinfer\.so\.10") as caught:
        load_flavour()
    assert caught.value.code == "backend-broken"


@pytest.mark.parametrize("version", [(8, 6, 2, 3), (10, 2, 0, 0)])
def test_releases_below_the_floor(only, version: tuple[int, int, int, int]) -> None:
    only(tensorrt=Fake(version).module())
    with pytest.raises(EmraError, match=r"JetPack 6\.1") as caught:
        load_flavour()
    assert caught.value.code == "tensorrt-version"


def test_releases_beyond_the_known_ones_are_warned_of(only, caplog: pytest.LogCaptureFixture) -> None:
    only(tensorrt=Fake((12, 0, 0, 0)).module())
    assert load_flavour().version == (12, 0, 0, 0)
    assert "newer" in caplog.text


def flavour(name: str, *version: int) -> Flavour:
    return Flavour(name, SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1)), version)


@pytest.mark.parametrize(
    ("name", "version", "flags", "dla", "opset"),
    [
        (TENSORRT, (10, 3, 0), 2, True, 20),
        (TENSORRT, (10, 7, 0), 2, True, 25),
        (TENSORRT, (10, 13, 0), 2, False, 25),
        (TENSORRT, (11, 1, 0), 0, False, 25),
        (TENSORRT, (11, 4, 1), 0, True, 25),
        (RTX, (1, 7, 1, 116), 2, False, 25),
    ],
)
def test_differences_of_the_releases(name: str, version: tuple[int, ...], flags: int, dla: bool, opset: int) -> None:
    found = flavour(name, *version)
    assert found.network_flags == flags
    assert found.knows_dla == dla
    assert found.opsets == (9, opset)
    assert found.takes_plugins == found.keeps_timing_cache == found.has_compatibility == (name == TENSORRT)


def test_the_real_library_makes_strongly_typed_networks() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    real = load_flavour(RTX)
    trt = real.module
    network = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_network(real.network_flags)
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for name in ("FP16", "INT8"):
        assert not hasattr(trt.BuilderFlag, name)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_versions_come_back(numbers: list[int]) -> None:
    assert parse_version(version_text(tuple(numbers))) == tuple(numbers)


@pytest.mark.parametrize(
    ("text", "numbers"), [("10.14rc1", (10, 14)), ("10.3.0.post1", (10, 3, 0)), ("8.6.2.3", (8, 6, 2, 3))]
)
def test_odd_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_version(text) == numbers


def test_what_is_no_version() -> None:
    with pytest.raises(ValueError, match="no version"):
        parse_version("unknown")
