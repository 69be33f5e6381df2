"""The plugin library of an engine: of this TensorRT, unchanged, and never for TensorRT-RTX."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from emra_deploy.backends.tensorrt.flavour import RTX, TENSORRT, Flavour
from emra_deploy.backends.tensorrt.plugins import check_creators, inspect_plugin, load_plugin
from emra_deploy.backends.tensorrt.sidecar import Plugin
from emra_deploy.errors import EmraError
from tests.emra_deploy.backends.tensorrt.test_plugin_library import ARM, HERE, X86, elf

RELEASE = Flavour(TENSORRT, SimpleNamespace(), (10, 13, 0))
OTHER = ARM if HERE == X86 else X86

pytestmark = pytest.mark.skipif(HERE is None, reason="a processor that TensorRT does not run on")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libemra_plugins.so.1"
    path.write_bytes(elf(HERE) + b"libnvinfer.so.10\0")
    return path


def test_a_library_for_this_machine(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = library.with_suffix("")
    link.symlink_to(library.name)
    monkeypatch.chdir(library.parent)
    found = inspect_plugin(link.name, RELEASE)
    assert found == Plugin(str(library.resolve()), hashlib.sha256(library.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "plugin-format"),
        (b"MZ" + bytes(100), "plugin-format"),
        (elf(OTHER), "plugin-machine"),
        (elf(HERE or X86, exported=()), "plugin-symbol"),
        (elf(HERE or X86) + b"\0libnvinfer.so.8\0", "plugin-abi"),
    ],
    ids=["empty", "foreign", "processor", "symbol", "release"],
)
def test_libraries_of_another_abi(library: Path, content: bytes, code: str) -> None:
    library.write_bytes(content)
    with pytest.raises(EmraError) as caught:
        inspect_plugin(library, RELEASE)
    assert caught.value.code == code


def test_a_library_that_was_changed_or_does_not_load(library: Path) -> None:
    plugin = inspect_plugin(library, RELEASE)
    loaded: list[str] = []
    load_plugin(plugin, SimpleNamespace(load_library=lambda path: loaded.append(path) or object()), RELEASE)
    assert loaded == [str(library)]

    def fail(path: str) -> None:
        raise RuntimeError("undefined symbol: getInferLibVersion")

    with pytest.raises(EmraError, match="undefined symbol") as caught:
        load_plugin(plugin, SimpleNamespace(load_library=fail), RELEASE)
    assert caught.value.code == "plugin-load"
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(EmraError) as caught:
        load_plugin(plugin, SimpleNamespace(load_library=loaded.append), RELEASE)
    assert caught.value.code == "plugin-hash"
    library.unlink()
    with pytest.raises(EmraError) as caught:
        load_plugin(plugin, SimpleNamespace(load_library=loaded.append), RELEASE)
    assert caught.value.code == "plugin-missing"
    assert len(loaded) == 1


def test_tensorrt_rtx_is_never_given_a_plugin(library: Path) -> None:
    with pytest.raises(EmraError, match="would end the process") as caught:
        inspect_plugin(library, Flavour(RTX, SimpleNamespace(), (1, 7, 1)))
    assert caught.value.code == "plugin-unsupported"


def test_a_library_without_the_operator() -> None:
    registry = SimpleNamespace(all_creators=[SimpleNamespace(name="Other")])
    check_creators(["Other"], registry, Plugin("/p.so", "0" * 64))
    with pytest.raises(EmraError, match="registers no AttentionAggregation"):
        check_creators(["AttentionAggregation"], registry, Plugin("/p.so", "0" * 64))
