"""``MODEL.engine.json``: source, tools, target and tests of an engine.

An engine is code for one GPU and one release of one library, and neither can be read from it without running it. The
sidecar records them, and contains the engine's SHA-256.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emra_deploy.backends.tensorrt.flavour import FLAVOURS, TITLES, parse_version
from emra_deploy.backends.tensorrt.records import decode, encode
from emra_deploy.errors import EmraError, about
from emra_deploy.model_file.classes import holds_controls
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.model_file.precisions import PRECISIONS
from emra_deploy.model_file.seal import take_json_seal

SCHEMA = 1
"""Version of the JSON schema, raised for any new, renamed or reinterpreted field."""

NOT_RUN, PASSED, NO_GOLDEN = "not run", "passed", "no golden tile"

_MAX_BYTES = 256 * 2**20
_REMEDY = "Build the engine again with python -m export.build_engine"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _require(holds: bool, cause: str) -> None:
    if not holds:
        raise ValueError(cause)


def _check_text(where: str, text: str) -> None:
    _require(bool(text.strip()) and len(text) <= 4096 and not holds_controls(text), f"{where} is no plain text")


@dataclass(frozen=True)
class Gpu:
    """The GPU that an engine was built on.

    Attributes:
        name: Name given by the driver.
        sm: Compute capability, such as ``"8.7"``.
    """

    name: str
    sm: str

    def __post_init__(self) -> None:
        _check_text("gpu.name", self.name)
        _require(re.fullmatch(r"\d{1,2}\.\d", self.sm) is not None, f"gpu.sm is {self.sm!r}, expected such as '8.7'")


@dataclass(frozen=True)
class Machine:
    """The machine on which an engine was built; None for absent or unknown parts.

    Attributes:
        gpu: The GPU, None when it was built without one.
        driver: Version of the GPU's driver.
        jetpack: Version of JetPack.
        jetson_linux: Version of Jetson Linux.
        architecture: Processor architecture, such as ``"aarch64"``.
    """

    gpu: Gpu | None
    driver: str | None
    jetpack: str | None
    jetson_linux: str | None
    architecture: str

    def __post_init__(self) -> None:
        for name in ("driver", "jetpack", "jetson_linux", "architecture"):
            value = getattr(self, name)
            if value is not None:
                _check_text(name, value)


@dataclass(frozen=True)
class Plugin:
    """A plugin library that an engine needs.

    Attributes:
        path: Absolute path of the library when the engine was built.
        sha256: SHA-256 of the library.
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        _check_text("plugin.path", self.path)
        _require(Path(self.path).is_absolute(), f"plugin.path is {self.path!r}, expected an absolute path")
        _require(_SHA256.fullmatch(self.sha256) is not None, "plugin.sha256 is no sha256")


@dataclass(frozen=True)
class Profile:
    """The input shapes that an engine accepts and is tuned for; the first number is the batch size.

    Attributes:
        minimum: Smallest shape.
        optimum: Shape it is tuned for.
        maximum: Largest shape.
    """

    minimum: tuple[int, int, int, int]
    optimum: tuple[int, int, int, int]
    maximum: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            _require(1 <= low <= middle <= high <= 2**20, f"the profile goes {low}, {middle}, {high}")
        _require(self.minimum[1:] == self.maximum[1:], "the profile varies in more than the batch")


@dataclass(frozen=True)
class Flags:
    """The builder's options.

    Attributes:
        hardware_compatible: Runs on other GPUs of the Ampere generation and later.
        version_compatible: Runs with later TensorRT of the same major version.
        dla: Supported layers run on the deep learning accelerator.
        tf32: FP32 products may be computed in TF32.
        workspace: Largest scratch memory of a layer in bytes, None for no limit.
        timing_cache: Timings of an earlier build were used.
    """

    hardware_compatible: bool = False
    version_compatible: bool = False
    dla: bool = False
    tf32: bool = True
    workspace: int | None = None
    timing_cache: bool = False

    def __post_init__(self) -> None:
        _require(self.workspace is None or self.workspace > 0, f"flags.workspace is {self.workspace}")


@dataclass(frozen=True)
class Precision:
    """The precisions of the engine's matrix products.

    Attributes:
        asked: The Manifest's precision, ``"fp32"``, ``"fp16"`` or ``"int8"``.
        counts: Number of matrix products and convolutions by the precision that the engine runs them in.
        source: Source of the counts: ``"engine inspector"``, ``"builder's layer list"`` or ``"not readable"``.
    """

    asked: str
    counts: dict[str, int]
    source: str

    def __post_init__(self) -> None:
        _require(self.asked in PRECISIONS, f"precision.asked is {self.asked!r}")
        _check_text("precision.source", self.source)
        for name, count in self.counts.items():
            _check_text("precision.counts", name)
            _require(count >= 0, f"precision.counts.{name} is {count}")


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of running the engine at its largest shape, in bytes; None for parts that the builder did not report.

    Attributes:
        weights: Bytes of the weights.
        activations: Bytes of activations and scratch memory.
        io: Bytes of inputs and outputs.
    """

    weights: int | None
    activations: int | None
    io: int

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "io"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 2**60, f"memory.{name} is {value}")

    @property
    def total(self) -> int:
        """The sum of the known parts."""
        return (self.weights or 0) + (self.activations or 0) + self.io


@dataclass(frozen=True)
class SelfTest:
    """Result of running the golden tile on the engine when it was built.

    Attributes:
        status: `PASSED`, `NOT_RUN` or `NO_GOLDEN`.
        different: Fraction of pixels that differ, None when it was not run.
        reason: Why it was not run, or None.
    """

    status: str
    different: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        _require(self.status in (NOT_RUN, PASSED, NO_GOLDEN), f"self_test.status is {self.status!r}")
        _require(self.different is None or 0.0 <= self.different <= 1.0, f"self_test.different is {self.different}")
        if self.reason is not None:
            _check_text("self_test.reason", self.reason)


@dataclass(frozen=True)
class Sidecar:
    """Description of one engine file, validated on construction.

    Attributes:
        sha256: SHA-256 of the engine file.
        bytes: Size of the engine file.
        flavour: ``"tensorrt"`` or ``"rtx"``.
        version: Version of the library that built it.
        machine: Machine on which it was built.
        plugins: Plugin libraries that it needs.
        profile: Shapes that it accepts.
        flags: Options of the build.
        precision: Precisions that it computes in.
        memory: Memory that it needs.
        self_test: Result of the golden tile.
        onnx_sha256: SHA-256 of the ONNX file it was built from.
        command: Command that builds the same engine: ``trtexec``, or for TensorRT-RTX `export.build_engine`.
        tools: Versions of the tools used, by name.
        schema: Version of the JSON schema.

    Raises:
        ValueError: For an invalid value.
    """

    sha256: str
    bytes: int
    flavour: str
    version: str
    machine: Machine
    plugins: tuple[Plugin, ...]
    profile: Profile
    flags: Flags
    precision: Precision
    memory: MemoryNeed
    self_test: SelfTest
    onnx_sha256: str
    command: str
    tools: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        for name in ("sha256", "onnx_sha256"):
            _require(_SHA256.fullmatch(getattr(self, name)) is not None, f"{name} is no sha256")
        _require(self.bytes > 0, f"bytes is {self.bytes}")
        _require(self.flavour in FLAVOURS, f"flavour is {self.flavour!r}, expected one of {', '.join(FLAVOURS)}")
        _check_text("version", self.version)
        parse_version(self.version)
        _check_text("command", self.command)
        for name, version in self.tools.items():
            _check_text("tools", name)
            _check_text("tools", version)

    @property
    def title(self) -> str:
        """The library's name for messages, such as ``"TensorRT 10.3.0"``."""
        return f"{TITLES[self.flavour]} {self.version}"


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """Path of an engine's sidecar: the engine's name plus ``.json``."""
    place = Path(engine)
    return place.with_name(place.name + ".json")


def to_json(sidecar: Sidecar, manifest: Manifest) -> str:
    """The text of the sidecar: its fields, and the Manifest under ``manifest``."""
    content = {**encode(sidecar), "manifest": json.loads(manifest.to_json())}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[Sidecar, Manifest]:
    """Read the output of `to_json`, with or without a seal, checking everything.

    Raises:
        EmraError: ``engine-sidecar`` for anything else, ``manifest-…`` for an invalid Manifest.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(f"it is not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise _broken("it is not an object")
    try:
        take_json_seal(content)
    except ValueError as error:
        raise _broken(str(error)) from error
    schema = content.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise EmraError(
            "engine-sidecar",
            f"The sidecar has schema {schema}, and this version of emra-deploy reads up to {SCHEMA}",
            "Upgrade emra-deploy, or build the engine with this version",
        )
    if not isinstance(content.get("manifest"), dict):
        raise _broken("it has no Manifest")
    # The seal, which only programs write, and the Manifest, which validates itself.
    manifest = Manifest.from_json(json.dumps(content.pop("manifest")))
    try:
        return decode(Sidecar, content, "sidecar"), manifest
    except ValueError as error:
        raise _broken(str(error)) from error


def read_sidecar(engine: str | os.PathLike[str]) -> tuple[Sidecar, Manifest] | None:
    """The sidecar of an engine, or None. Its SHA-256 is not compared here; see `check_digest`.

    Raises:
        EmraError: ``engine-sidecar`` if it is unreadable or invalid.
    """
    path = sidecar_path(engine)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EmraError("engine-sidecar", f"The sidecar has more than {_MAX_BYTES} bytes", _REMEDY, path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EmraError("engine-sidecar", f"The sidecar cannot be read ({error})", _REMEDY, path) from error
    with about(path):
        return from_json(text)


def check_digest(engine: str | os.PathLike[str], sidecar: Sidecar, size: int, sha256: str) -> None:
    """Refuse an engine that is not the file its sidecar describes.

    Args:
        engine: The engine file.
        sidecar: Its sidecar.
        size: Bytes of the engine.
        sha256: SHA-256 of the engine.

    Raises:
        EmraError: ``engine-mismatch``.
    """
    if size != sidecar.bytes:
        found = f"has {size} bytes, and its sidecar describes one of {sidecar.bytes}"
    elif sha256 != sidecar.sha256:
        found = f"has sha256 {sha256[:16]}…, and its sidecar says {sidecar.sha256[:16]}…"
    else:
        return
    raise EmraError(
        "engine-mismatch",
        f"The engine {found}: the two do not belong together, or the copy is damaged",
        "Copy both files again, or build the engine again with python -m export.build_engine",
        engine,
    )


def _broken(cause: str) -> EmraError:
    return EmraError("engine-sidecar", f"The sidecar of the engine is unusable: {cause}", _REMEDY)
