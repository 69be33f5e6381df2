"""Plugin libraries are inspected before they are loaded; each kind of invalid file is refused with its fault."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import _imaging

from emra_deploy.backends.tensorrt.plugin_library import CREATORS, check_plugin_library, load_plugins
from emra_deploy.errors import EmraError

X86, ARM = 62, 183
HERE = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}.get(platform.machine())


def elf(
    machine: int = X86, kind: int = 3, exported: tuple[str, ...] = (CREATORS,), wanted: tuple[str, ...] = ()
) -> bytes:
    """A 64-bit ELF file with a header, two sections and one symbol per name; nothing in it can run."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*exported, *wanted))
    symbols = bytes(24)
    place = 1
    for name, section in [*((n, 1) for n in exported), *((n, 0) for n in wanted)]:
        symbols += struct.pack("<IBBHQQ", place, 0x12, 0, section, 0, 0)
        place += len(name) + 1
    start = 64
    sections = struct.pack("<IIQQQQIIQQ", *[0] * 10)
    sections += struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, start, len(symbols), 2, 1, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, start + len(symbols), len(names), 0, 0, 1, 0)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 0, start + len(symbols) + len(names), 0, 64, 0, 0, 64, 3, 0
    )
    return header + symbols + names + sections


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libemra_plugins.so"
    path.write_bytes(elf())
    return path


def refused(path: object, machine: str | None = "x86_64", **options: object) -> EmraError:
    with pytest.raises(EmraError) as caught:
        check_plugin_library(path, machine=machine, **options)
    assert caught.value.path == os.fspath(path)
    return caught.value


def test_a_library_is_taken_with_its_hash(library: Path) -> None:
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    found = check_plugin_library(library, machine="x86_64")
    assert (found.path, found.sha256) == (library, digest)
    assert check_plugin_library(str(library), digest.upper(), machine="AMD64") == found


def test_only_absolute_paths(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library.parent)
    for path in ("libemra_plugins.so", "./libemra_plugins.so", Path("libemra_plugins.so"), ""):
        error = refused(path)
        assert error.code == "plugin-path"
        assert str(library.parent) in error.remedy


def test_what_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.so").code == "plugin-missing"
    error = refused(tmp_path)
    assert error.code == "plugin-missing"
    assert "folder" in error.cause


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read(library: Path) -> None:
    library.chmod(0)
    assert refused(library).code == "plugin-unreadable"


def test_other_content_than_promised(library: Path) -> None:
    error = refused(library, sha256="0" * 64)
    assert error.code == "plugin-hash"
    assert hashlib.sha256(library.read_bytes()).hexdigest() in error.cause
    for wrong in ("", "abc", "g" * 64, "0" * 63):
        assert refused(library, sha256=wrong).code == "plugin-hash"


def test_the_hash_comes_before_the_content_is_read(library: Path) -> None:
    library.write_bytes(b"no library at all")
    assert refused(library, sha256="0" * 64).code == "plugin-hash"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an ELF"),
        (b"MZ" + bytes(100), "not an ELF"),
        (b"!<arch>\n" + bytes(100), "not an ELF"),
        (b"\x7fELF\x02\x01", "truncated"),
        (b"\x7fELF\x01\x01" + bytes(100), "word size"),
        (b"\x7fELF\x02\x02" + bytes(100), "byte order"),
        (elf(kind=2), "type 2"),
        (elf(kind=1), "type 1"),
        (elf()[:-1], "damaged"),
        (elf()[:64], "damaged"),
        (elf()[:58] + struct.pack("<HHH", 64, 0, 0) + elf()[64:], "0 sections"),
        (elf()[:40] + struct.pack("<Q", 2**63) + elf()[48:], "damaged"),
    ],
)
def test_what_is_no_shared_library(content: bytes, said: str, library: Path) -> None:
    library.write_bytes(content)
    error = refused(library)
    assert error.code == "plugin-format"
    assert said in error.cause


def test_another_processor(library: Path) -> None:
    error = refused(library, machine="aarch64")
    assert error.code == "plugin-machine"
    assert "x86_64" in error.cause
    assert "aarch64" in error.cause
    library.write_bytes(elf(ARM))
    assert refused(library).code == "plugin-machine"
    assert check_plugin_library(library, machine="arm64").path == library
    library.write_bytes(elf(8))
    assert "machine 8" in refused(library).cause
    check_plugin_library(library, machine="mips")  # the loader's business


def test_this_machine_is_the_one_it_has_to_be_for(library: Path) -> None:
    if HERE is None:
        pytest.skip(f"TensorRT does not run on {platform.machine()}")
    library.write_bytes(elf(HERE))
    check_plugin_library(library)
    library.write_bytes(elf(X86 if HERE == ARM else ARM))
    assert refused(library, machine=None).code == "plugin-machine"


@pytest.mark.parametrize(
    ("exported", "wanted"),
    [((), ()), (("getCreator", "getCreators2"), ()), (("other",), (CREATORS,))],
    ids=["none", "similar", "needed-not-defined"],
)
def test_another_library(exported: tuple[str, ...], wanted: tuple[str, ...], library: Path) -> None:
    library.write_bytes(elf(exported=exported, wanted=wanted))
    error = refused(library)
    assert error.code == "plugin-symbol"
    assert CREATORS in error.cause


def test_every_symbol_asked_for_is_needed(library: Path) -> None:
    library.write_bytes(elf(exported=("one", "two")))
    check_plugin_library(library, symbols=("two", "one"), machine="x86_64")
    assert "three" in refused(library, symbols=("one", "three")).cause


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(elf(exported=(CREATORS, "other")))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    path.write_bytes(content)
    caught = None
    try:
        check_plugin_library(path, machine="x86_64")
    except EmraError as error:
        caught = error
    assert caught is None or (caught.code.startswith("plugin-") and "\n" not in str(caught))


def test_a_real_library_exports_what_nm_says() -> None:
    path = Path(_imaging.__file__)
    if path.read_bytes()[:4] != b"\x7fELF":
        pytest.skip("extension modules are not ELF files here")
    check_plugin_library(path, symbols=("PyInit__imaging",))
    assert refused(path, machine=None).code == "plugin-symbol"
    # Needed by the module, and defined elsewhere.
    assert refused(path, machine=None, symbols=("PyLong_FromLong",)).code == "plugin-symbol"
    if shutil.which("nm") is None:
        return
    listed = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True)
    names = {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}
    assert names
    check_plugin_library(path, symbols=tuple(sorted(names)))


class Registry:
    """TensorRT's part, recorded."""

    def __init__(self, answer: object) -> None:
        self.answer, self.asked = answer, []

    def load_library(self, plugin_path: str) -> object:
        self.asked.append(plugin_path)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.skipif(HERE is None, reason="TensorRT does not run on this processor")
def test_tensorrt_gets_the_absolute_path_of_a_good_library_only(library: Path) -> None:
    library.write_bytes(elf(HERE))
    registry = Registry("handle")
    loaded, handle = load_plugins(library, registry)
    assert (handle, registry.asked) == ("handle", [str(library)])
    assert load_plugins(library, registry, loaded.sha256)[0] == loaded
    with pytest.raises(EmraError, match="plugin-hash"):
        load_plugins(library, registry, "0" * 64)
    library.write_bytes(b"")
    with pytest.raises(EmraError, match="plugin-format"):
        load_plugins(library, registry)
    assert len(registry.asked) == 2


@pytest.mark.skipif(HERE is None, reason="TensorRT does not run on this processor")
@pytest.mark.parametrize("answer", [None, RuntimeError("libnvinfer.so.10:\n cannot open"), OSError("cannot open")])
def test_what_tensorrt_cannot_load(answer: object, library: Path) -> None:
    library.write_bytes(elf(HERE))
    with pytest.raises(EmraError) as caught:
        load_plugins(library, Registry(answer))
    assert caught.value.code == "plugin-load"
    assert "\n" not in str(caught.value)
    assert (answer is None) != ("cannot open" in caught.value.cause)
