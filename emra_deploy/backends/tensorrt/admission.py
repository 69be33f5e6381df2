"""Checks of an engine before it is deserialised, which runs its code."""

from __future__ import annotations

import hashlib
import logging
import os

from emra_deploy.backends.metadata import onnx_beside, read_manifest
from emra_deploy.backends.tensorrt.cuda import DeviceFacts
from emra_deploy.backends.tensorrt.flavour import RTX, TITLES, Flavour, parse_version
from emra_deploy.backends.tensorrt.plan import PlanHeader
from emra_deploy.backends.tensorrt.sidecar import Gpu, Sidecar, check_digest, read_sidecar, sidecar_path
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

_log = logging.getLogger(__name__)

REBUILD = "Build it on this machine with python -m export.build_engine"
"""Remedy for an engine that does not suit this machine."""

_AMPERE = (8, 0)


def read_description(
    path: str | os.PathLike[str], plan: bytes, trusted: bool = False
) -> tuple[Sidecar | None, Manifest]:
    """The engine's sidecar, None without a matching one, and the Manifest from sidecar or ONNX file.

    Args:
        path: Path of the engine.
        plan: Contents of the engine.
        trusted: Whether an engine without a matching sidecar may be loaded.

    Raises:
        EmraError: ``engine-sidecar``, ``engine-mismatch``, ``manifest-missing``, and those of `read_manifest`.
    """
    found = read_sidecar(path)
    if found is None and not trusted:
        raise EmraError(
            "engine-sidecar",
            f"There is no {sidecar_path(path).name} beside the engine, so nobody knows what it is, and loading it runs"
            " its code",
            "Build it with python -m export.build_engine; --trust-engine (trust_engine=True) loads one that you made"
            " with trtexec, with the Manifest of its ONNX file",
            path,
        )
    if found is not None:
        try:
            check_digest(path, found[0], len(plan), hashlib.sha256(plan).hexdigest())
        except EmraError:
            if not trusted:
                raise
            _log.warning("%s is loaded although its sidecar belongs to another file", os.fspath(path))
        else:
            return found
    source = onnx_beside(path)
    if source is None:
        raise EmraError(
            "manifest-missing",
            "The engine has neither a sidecar of its own nor an ONNX file beside it, so its classes are unknown",
            "Put the ONNX file that it was built of beside it, under the same name",
            path,
        )
    return None, read_manifest(source)


def check_version(header: PlanHeader, flavour: Flavour, sidecar: Sidecar | None, path: str | os.PathLike[str]) -> None:
    """Refuse an engine built with another library or release, according to its header and sidecar.

    Raises:
        EmraError: ``engine-flavour``, ``engine-version``.
    """
    if sidecar is not None and sidecar.flavour != header.flavour:
        raise EmraError(
            "engine-flavour",
            f"The engine is of {TITLES[header.flavour]}, and its sidecar says {TITLES[sidecar.flavour]}",
            REBUILD,
            path,
        )
    compatible = sidecar is not None and sidecar.flags.version_compatible
    # Three numbers decide; the fourth counts builds of the same release.
    built, here = header.version[:3], flavour.version[:3]
    if built == here or (compatible and built[0] == here[0] and built <= here):
        return
    if sidecar is None and built[0] == here[0] and built <= here:
        # The header does not show trtexec --versionCompatible; the library itself checks.
        _log.warning("the engine was built with %s, and %s is here", header.title, flavour.title)
        return
    raise EmraError(
        "engine-version",
        f"The engine was built with {header.title}, and {flavour.title} is here",
        f"{REBUILD}, or with --version-compatible for later versions of the same major one",
        path,
    )


def check_gpu(sidecar: Sidecar, here: DeviceFacts, path: str | os.PathLike[str]) -> None:
    """Refuse an engine built for another GPU.

    Raises:
        EmraError: ``engine-gpu``.
    """
    built = sidecar.machine.gpu
    if built is None or built == Gpu(here.name, here.sm):
        # TensorRT-RTX builds for all supported GPUs, also on machines without one.
        return
    portable = sidecar.flags.hardware_compatible or sidecar.flavour == RTX
    if portable and parse_version(here.sm) >= _AMPERE:
        return
    if here.sm == built.sm:
        _log.warning("the engine was built on %s, and %s may run it slower than one of its own", built.name, here.name)
        return
    raise EmraError(
        "engine-gpu",
        f"The engine was built for {built.name} (compute capability {built.sm}), and {here.name} ({here.sm}) is here",
        f"{REBUILD}, or with --hardware-compatible for other GPUs",
        path,
    )
