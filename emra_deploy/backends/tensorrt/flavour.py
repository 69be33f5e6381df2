"""The installed TensorRT, and the differences between its releases; no other module depends on them.

TensorRT 10.3 to 11.x and TensorRT-RTX have nearly the same Python interface. The differences were read from the
bindings' sources of 10.3, 10.14, 10.16 and 11.1 (NVIDIA/TensorRT, ``python/src``) and tested with TensorRT-RTX 1.7:

- A network is strongly typed by a flag until 10.x and in TensorRT-RTX, and always from 11.0 on; FP16 and INT8 builder
  flags and calibrators were removed in 11.0, so nothing here uses them.
- TensorRT-RTX has no timing cache, no hardware or version compatibility levels, no DLA, and no plugins: creating a
  plugin there aborts the process.
- DLA is supported in TensorRT 10.3 to 10.7 and again from 11.4.1 (NVIDIA, "Working with DLA").
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.extras import install_command

TENSORRT = "tensorrt"
RTX = "rtx"
FLAVOURS = (TENSORRT, RTX)
TITLES = {TENSORRT: "TensorRT", RTX: "TensorRT-RTX"}

OLDEST = {TENSORRT: (10, 3), RTX: (1, 1)}
"""Oldest supported release of each flavour."""

_NEXT_MAJOR = {TENSORRT: 12, RTX: 2}
_MODULES = {TENSORRT: ("tensorrt",), RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}

GET = (
    "On a Jetson: sudo apt install tensorrt python3-libnvinfer, and make the environment with --system-site-packages;"
    f" on a desktop or server: {install_command('tensorrt')}; for GeForce and RTX cards, or to build without a"
    f" GPU: {install_command('rtx')}"
)
"""Installation commands, for errors."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flavour:
    """A loaded TensorRT.

    Attributes:
        name: ``"tensorrt"`` or ``"rtx"``.
        module: Its Python module.
        version: Its version as numbers, such as (10, 3, 0).
    """

    name: str
    module: Any
    version: tuple[int, ...]

    @property
    def title(self) -> str:
        """Name and version for messages, such as ``"TensorRT 10.3.0"``."""
        return f"{TITLES[self.name]} {version_text(self.version)}"

    @property
    def network_flags(self) -> int:
        """Flags of ``Builder.create_network`` that make a strongly typed network."""
        if self.name == TENSORRT and self.version >= (11,):
            return 0
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    @property
    def opsets(self) -> tuple[int, int]:
        """Oldest and newest ONNX opset that its parser reads.

        The parser of TensorRT 10.0 to 10.3 documents 20 (onnx-tensorrt, ``docs/operators.md``), that of 11.x documents
        25 ("ONNX Opset Guide"). For the releases between and TensorRT-RTX the parser itself decides.
        """
        return 9, 20 if self.name == TENSORRT and self.version < (10, 4) else 25

    @property
    def keeps_timing_cache(self) -> bool:
        """Whether a timing cache can speed up builds."""
        return self.name == TENSORRT

    @property
    def has_compatibility(self) -> bool:
        """Whether engines can be built to run on other GPUs or with later versions."""
        return self.name == TENSORRT

    @property
    def takes_plugins(self) -> bool:
        """Whether plugin libraries may be loaded. TensorRT-RTX would end the process."""
        return self.name == TENSORRT

    @property
    def knows_dla(self) -> bool:
        """Whether this release can build for the DLA of a device that has one."""
        return self.name == TENSORRT and (self.version < (10, 8) or self.version >= (11, 4, 1))


def version_text(version: tuple[int, ...]) -> str:
    """``"10.3.0"`` for (10, 3, 0)."""
    return ".".join(map(str, version))


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (10, 3, 0, 26) for ``"10.3.0.26"`` and (10, 14) for ``"10.14rc1"``.

    Raises:
        ValueError: When it does not begin with a number.
    """
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    if not numbers:
        raise ValueError(f"{text!r} is no version")
    return tuple(numbers)


def load_flavour(name: str | None = None) -> Flavour:
    """Load TensorRT or TensorRT-RTX.

    Args:
        name: ``"tensorrt"``, ``"rtx"``, or None for the first one installed, in this order.

    Raises:
        EmraError: ``backend-missing`` when it is not installed, ``backend-broken`` when it does not load,
            ``tensorrt-version`` when it is older than `OLDEST`.
    """
    if name is not None and name not in FLAVOURS:
        raise EmraError("flavour", f"{name!r} is no flavour of TensorRT", f"Use {' or '.join(FLAVOURS)}")
    for flavour in (name,) if name else FLAVOURS:
        for module in _MODULES[flavour]:
            if importlib.util.find_spec(module) is not None:
                return _load(flavour, module)
    if name:
        raise EmraError("backend-missing", f"{TITLES[name]} is not installed", GET)
    raise EmraError("backend-missing", f"Neither {' nor '.join(TITLES.values())} is installed", GET)


def _load(flavour: str, name: str) -> Flavour:
    try:
        module = importlib.import_module(name)
        version = parse_version(module.__version__)
    except Exception as error:  # Its loader raises OSError, ImportError, RuntimeError, FileNotFoundError, and others.
        raise EmraError(
            "backend-broken",
            f"{TITLES[flavour]} is installed but does not load ({one_line(error)})",
            "Its Python package and its libraries must be of one version and fit this machine. " + GET,
        ) from error
    if version < OLDEST[flavour]:
        hint = "; JetPack 6.0 and older have none that is new enough: install JetPack 6.1 or newer"
        raise EmraError(
            "tensorrt-version",
            f"{TITLES[flavour]} {module.__version__} is older than {version_text(OLDEST[flavour])}, the oldest"
            " that reads these models" + (hint if flavour == TENSORRT else ""),
            GET,
        )
    if version[0] >= _NEXT_MAJOR[flavour]:
        _log.warning("%s %s is newer than the newest tested release", TITLES[flavour], module.__version__)
    return Flavour(flavour, module, version)
