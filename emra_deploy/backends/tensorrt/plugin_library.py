"""Shared libraries that a model needs besides its file, inspected before any of their code runs.

Loading a library runs code. A library is therefore loaded only from an absolute path given by the user, never from a
search path or a name inside a model file, and its sha256 must match if one is known. Reading the file first finds
faults that would otherwise end in a terse message of the dynamic loader or a crash: another file type, another
processor, another library. None of this protects a library that others can write to.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.digest import stream_sha256
from emra_deploy.host.files import instead_of_file

CREATORS = "getCreators"
"""Functions that TensorRT and `trtexec --staticPlugins` and `--dynamicPlugins` call to find a library's plugins."""

MACHINES = {62: "x86_64", 183: "aarch64"}
"""``e_machine`` values of the ELF header for processors that TensorRT runs on (System V ABI, generic part)."""

_ALIASES = {"AMD64": "x86_64", "arm64": "aarch64"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARED_OBJECT = 3
_DYNAMIC_SYMBOLS = 11
_MAX_SECTIONS = 4096
_MAX_TABLE = 64 * 2**20
_BUILD = "Build it on this kind of machine: cmake -B build && cmake --build build"


@dataclass(frozen=True)
class PluginLibrary:
    """A library that passed `check_plugin_library`.

    Attributes:
        path: Absolute path.
        sha256: SHA-256 of its content, 64 lower-case hexadecimal digits.
    """

    path: Path
    sha256: str


class PluginRegistry(Protocol):
    """The part of TensorRT's plugin registry used here."""

    def load_library(self, plugin_path: str) -> Any:
        """Register every plugin of a library and return a handle, or None on failure."""
        ...


def check_plugin_library(
    path: str | os.PathLike[str],
    sha256: str | None = None,
    symbols: tuple[str, ...] = (CREATORS,),
    machine: str | None = None,
) -> PluginLibrary:
    """Read a library without loading it, and refuse an unusable one.

    Args:
        path: Absolute path of a shared library.
        sha256: Expected SHA-256 in hexadecimal, or None for any.
        symbols: Functions that it must export.
        machine: Required processor, as named by `platform.machine`; None for this one.

    Raises:
        EmraError: ``plugin-path`` for a relative path; ``plugin-missing``; ``plugin-unreadable``; ``plugin-hash`` for
            other content, or an invalid hash; ``plugin-format`` for a file that is not a 64-bit ELF shared library, or
            is damaged; ``plugin-machine``; ``plugin-symbol`` for a function that it does not export.
    """
    library = Path(path)
    if not library.is_absolute():
        raise EmraError(
            "plugin-path",
            "The path of the plugin library is relative, so its target would change with the working folder",
            f"Give the absolute path, such as {Path.cwd() / library}",
            path,
        )
    if not library.is_file():
        raise EmraError(
            "plugin-missing", f"The plugin library {instead_of_file(library)}", "Give the path of a .so file", path
        )
    if sha256 is not None and not _SHA256.fullmatch(sha256.lower()):
        raise EmraError("plugin-hash", f"{sha256!r} is no sha256, expected 64 hexadecimal digits", "Mend it", path)
    try:
        with library.open("rb") as stream:
            found = stream_sha256(stream)
            if sha256 is not None and found != sha256.lower():
                raise EmraError(
                    "plugin-hash",
                    f"The plugin library has sha256 {found}, expected {sha256.lower()}",
                    "Use the library that the engine was built with, or build the engine again with this one",
                    path,
                )
            _check_header(stream, path, machine or platform.machine())
            exported = set(_exported(stream, path))
    except OSError as error:
        raise EmraError(
            "plugin-unreadable", f"The plugin library cannot be read ({error.strerror})", "Check its permissions", path
        ) from error
    missing = [name for name in symbols if name not in exported]
    if missing:
        raise EmraError(
            "plugin-symbol",
            f"The library does not export {', '.join(missing)}, so it is another library than the one expected",
            "Give the path of the library that was built for this use",
            path,
        )
    return PluginLibrary(library, found)


def load_plugins(
    path: str | os.PathLike[str], registry: PluginRegistry, sha256: str | None = None
) -> tuple[PluginLibrary, Any]:
    """Check a library of TensorRT plugins and register its plugins.

    Args:
        path: Absolute path.
        registry: A registry such as ``tensorrt.get_plugin_registry()``. Never TensorRT-RTX's: it does not support
            plugins, and creating one ends the process.
        sha256: As in `check_plugin_library`.

    Returns:
        The library and its handle in TensorRT.

    Raises:
        EmraError: Those of `check_plugin_library`; ``plugin-load`` if TensorRT cannot load it.
    """
    library = check_plugin_library(path, sha256)
    try:
        handle, reason = registry.load_library(str(library.path)), "it gives no reason but its log"
    except Exception as error:  # The bindings raise pybind11's RuntimeError, TypeError or the loader's OSError.
        handle, reason = None, one_line(error)
    if handle is None:
        raise EmraError(
            "plugin-load",
            f"TensorRT cannot load the plugin library ({reason})",
            f"Check its dependencies with ldd, and that it was built for this TensorRT. {_BUILD}",
            path,
        )
    return library, handle


def _check_header(stream: BinaryIO, path: str | os.PathLike[str], machine: str) -> None:
    header = _read(stream, 0, min(64, stream.seek(0, os.SEEK_END)))
    if header[:4] != b"\x7fELF":
        raise _not_a_library("not an ELF file", path)
    # Class 2 is 64-bit, data 1 is little-endian, as both processors of MACHINES are.
    if len(header) < 64 or header[4:6] != b"\x02\x01":
        raise _not_a_library("a truncated ELF file, or one of another word size or byte order", path)
    kind, found = struct.unpack_from("<HH", header, 16)
    if kind != _SHARED_OBJECT:
        raise _not_a_library(f"an ELF file of type {kind}, expected a shared library (3)", path)
    expected = _ALIASES.get(machine, machine)
    # For a processor that is not in the table, the loader decides.
    if expected in MACHINES.values() and MACHINES.get(found) != expected:
        name = MACHINES.get(found, f"machine {found}")
        raise EmraError("plugin-machine", f"The library is for {name}, and this machine is {expected}", _BUILD, path)


def _exported(stream: BinaryIO, path: str | os.PathLike[str]) -> Iterator[str]:
    """Names that the dynamic loader would find, from the section tables (System V ABI, chapter 4)."""
    try:
        (offset,) = struct.unpack("<Q", _read(stream, 40, 8))
        size, count = struct.unpack("<HH", _read(stream, 58, 4))
        if size != 64 or not 0 < count <= _MAX_SECTIONS:
            raise ValueError(f"it has {count} sections of {size} bytes")
        table = _read(stream, offset, size * count)
        sections = [struct.unpack_from("<IIQQQQIIQQ", table, size * index) for index in range(count)]
        for _, kind, _, _, start, length, link, _, _, entry in sections:
            if kind != _DYNAMIC_SYMBOLS:
                continue
            if entry != 24 or link >= count:
                raise ValueError(f"its symbols have {entry} bytes and names in section {link}")
            names = _read(stream, sections[link][4], sections[link][5])
            symbols = _read(stream, start, length - length % entry)
            for name, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", symbols):
                # Defined here (not section 0), and global (1) or weak (2).
                if section and info >> 4 in (1, 2):
                    end = names.index(b"\0", name)
                    yield names[name:end].decode("utf-8", "replace")
    except (struct.error, ValueError) as error:
        raise _not_a_library(f"a damaged ELF file ({error})", path) from error


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    if length > _MAX_TABLE or offset > 2**62:
        raise ValueError(f"a table of {length} bytes at {offset}")
    stream.seek(offset)
    data = stream.read(length)
    if len(data) != length:
        raise ValueError(f"it ends within a table of {length} bytes at {offset}")
    return data


def _not_a_library(what: str, path: str | os.PathLike[str]) -> EmraError:
    return EmraError("plugin-format", f"The plugin library is {what}", "Copy or build the library again", path)
