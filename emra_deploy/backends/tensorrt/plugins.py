"""The plugin library of an engine: checked for this TensorRT, and for being the one the engine was built with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emra_deploy.backends.tensorrt.flavour import Flavour
from emra_deploy.backends.tensorrt.plugin_library import check_plugin_library, load_plugins
from emra_deploy.backends.tensorrt.sidecar import Plugin
from emra_deploy.errors import EmraError

_BUILD = "Build it for this machine and its TensorRT: cmake -B build && cmake --build build"


def inspect_plugin(path: str | os.PathLike[str], flavour: Flavour) -> Plugin:
    """Check that this TensorRT can load a file as a plugin library, without loading it.

    Args:
        path: Path of the library as given by the user; it is made absolute and links are resolved.
        flavour: The TensorRT that will load it.

    Raises:
        EmraError: ``plugin-unsupported`` with TensorRT-RTX, ``plugin-abi`` for one linked against another
            TensorRT, and those of `check_plugin_library`.
    """
    if not flavour.takes_plugins:
        raise EmraError(
            "plugin-unsupported",
            f"{flavour.title} takes no plugins; it would end the process",
            "Leave --plugin out: the file's own form of the operator is used; or use --flavor tensorrt",
            path,
        )
    library = check_plugin_library(os.path.realpath(path))
    # Its string table contains the name of the TensorRT that it was linked against.
    linked = {int(number) for number in re.findall(rb"libnvinfer\.so\.(\d+)", library.path.read_bytes())}
    if linked and flavour.version[0] not in linked:
        releases = " and ".join(map(str, sorted(linked)))
        raise EmraError(
            "plugin-abi", f"The plugin was linked with TensorRT {releases}, and {flavour.title} is here", _BUILD, path
        )
    return Plugin(str(library.path), library.sha256)


def load_plugin(plugin: Plugin, registry: Any, flavour: Flavour) -> None:
    """Load a library into a plugin registry, if the file has not changed.

    Args:
        plugin: Absolute path and sha256.
        registry: ``get_plugin_registry()`` of a builder or runtime.
        flavour: The TensorRT that owns the registry.

    Raises:
        EmraError: Those of `inspect_plugin` and of `load_plugins`.
    """
    if Path(plugin.path).is_file():
        inspect_plugin(plugin.path, flavour)
    load_plugins(plugin.path, registry, plugin.sha256)


def check_creators(operators: Iterable[str], registry: Any, plugin: Plugin) -> None:
    """Refuse a library that lacks the operators it was loaded for.

    Raises:
        EmraError: ``plugin-abi``.
    """
    known = {str(creator.name) for creator in registry.all_creators}
    missing = sorted(set(operators) - known)
    if missing:
        lacks = " and no ".join(missing)
        raise EmraError("plugin-abi", f"The plugin registers no {lacks}, which the model needs", _BUILD, plugin.path)
