"""The header of an engine file, read without deserialising the engine, which would run its code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from emra_deploy.backends.tensorrt.flavour import RTX, TENSORRT, TITLES, version_text
from emra_deploy.errors import EmraError
from emra_deploy.host.files import instead_of_file

# The tag and the offset of the version are those that trtexec --getPlanVersionOnly reads (NVIDIA/TensorRT,
# samples/common/sampleEngines.cpp); TensorRT-RTX 1.7 writes another tag, and its version at the same offset (tested).
_TAGS = {b"ftrt": TENSORRT, b"vtrt": RTX}
_HEADER = 28
_VERSION_AT = 24


@dataclass(frozen=True)
class PlanHeader:
    """The first bytes of an engine file.

    Attributes:
        flavour: ``"tensorrt"`` or ``"rtx"``.
        version: Version of the library that built it, four numbers.
    """

    flavour: str
    version: tuple[int, ...]

    @property
    def title(self) -> str:
        """Name and version for messages, such as ``"TensorRT 10.3.0.26"``."""
        return f"{TITLES[self.flavour]} {version_text(self.version)}"


def parse_header(data: bytes) -> PlanHeader | None:
    """The header at the beginning of ``data``, or None if it is not an engine."""
    flavour = _TAGS.get(data[:4])
    if flavour is None or len(data) < _HEADER:
        return None
    return PlanHeader(flavour, tuple(data[_VERSION_AT:_HEADER]))


def read_header(path: str | os.PathLike[str]) -> PlanHeader:
    """The header of an engine file.

    Raises:
        EmraError: ``model-missing``, ``model-unreadable``.
    """
    place = Path(path)
    if not place.is_file():
        raise EmraError(
            "model-missing", f"The engine {instead_of_file(place)}", "Build it with python -m export.build_engine", path
        )
    try:
        with place.open("rb") as stream:
            header = parse_header(stream.read(_HEADER))
    except OSError as error:
        raise EmraError(
            "model-unreadable", f"The engine cannot be read ({error.strerror})", "Check its permissions", path
        ) from error
    if header is None:
        raise EmraError(
            "model-unreadable",
            "The file does not begin as engines of TensorRT or TensorRT-RTX do: it may be cut short, damaged or of"
            " another kind",
            "Copy the file again, or build it again with python -m export.build_engine",
            path,
        )
    return header
