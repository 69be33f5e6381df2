"""The EMRA-proxy runtime: load a model file, segment pictures, write maps.

Importing this package loads nothing but itself: names are resolved on first use, so that a program which only
asks for the version, or that never segments, does not pay for numpy and a backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emra_deploy._version import __version__
from emra_deploy.errors import (
    AccuracyError,
    BackendMissingError,
    BugError,
    DeviceError,
    EmraError,
    InputError,
    ModelFileError,
    OptionError,
    OutputError,
    StoppedError,
)

if TYPE_CHECKING:
    from emra_deploy.backends.options import LoadOptions
    from emra_deploy.maps.job import MapJob
    from emra_deploy.maps.run import estimate_map, make_map
    from emra_deploy.model_file.classes import ClassSet
    from emra_deploy.model_file.manifest import Manifest
    from emra_deploy.pictures.images import read_image
    from emra_deploy.pictures.windows import Window
    from emra_deploy.segmenting.segmentation import Segmentation
    from emra_deploy.segmenting.segmenter import Segmenter
    from emra_deploy.stream import Stream, StreamOptions, StreamState

__all__ = [
    "AccuracyError",
    "BackendMissingError",
    "BugError",
    "ClassSet",
    "DeviceError",
    "EmraError",
    "InputError",
    "LoadOptions",
    "Manifest",
    "MapJob",
    "ModelFileError",
    "OptionError",
    "OutputError",
    "Segmentation",
    "Segmenter",
    "StoppedError",
    "Stream",
    "StreamOptions",
    "StreamState",
    "Window",
    "__version__",
    "estimate_map",
    "make_map",
    "read_image",
]

_HOMES = {
    "ClassSet": "model_file.classes",
    "LoadOptions": "backends.options",
    "Manifest": "model_file.manifest",
    "MapJob": "maps.job",
    "Segmentation": "segmenting.segmentation",
    "Segmenter": "segmenting.segmenter",
    **dict.fromkeys(("Stream", "StreamOptions", "StreamState"), "stream"),
    "Window": "pictures.windows",
    **dict.fromkeys(("estimate_map", "make_map"), "maps.run"),
    "read_image": "pictures.images",
}
"""The modules of what is imported on first use."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"emra_deploy.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
