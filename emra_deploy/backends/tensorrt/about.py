"""Description of an engine file without loading it, for ``emra info``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from emra_deploy.backends.metadata import onnx_beside, read_manifest
from emra_deploy.backends.tensorrt.plan import read_header
from emra_deploy.backends.tensorrt.sidecar import Sidecar, check_digest, read_sidecar, sidecar_path
from emra_deploy.errors import EmraError
from emra_deploy.host.digest import file_sha256
from emra_deploy.model_file.manifest import Manifest


def about_engine(
    path: str | os.PathLike[str], onnx_file: str | os.PathLike[str] | None = None
) -> tuple[Manifest | None, dict[str, Any]]:
    """The Manifest of an engine, None if unknown, and facts about the engine as JSON values.

    Unknown facts are None: an engine built by plain trtexec identifies only the library.

    Args:
        path: The engine.
        onnx_file: The ONNX file it was built from; None looks for one of the same name in the same folder.

    Raises:
        EmraError: ``model-missing`` and ``model-unreadable`` for a file that is not an engine, ``engine-sidecar`` for a
            damaged sidecar, and those of the ONNX file.
    """
    header = read_header(path)
    found = read_sidecar(path)
    belongs = found is not None and _belongs(path, found[0])
    facts: dict[str, Any] = {"built_with": header.title, "sidecar": _sidecar_words(path, found is not None, belongs)}
    if found is not None and belongs and onnx_file is None:
        return found[1], {**facts, **_known(found[0])}
    source = onnx_beside(path) if onnx_file is None else Path(onnx_file)
    unknown = dict.fromkeys(("gpu", "jetpack", "driver", "batches", "precision", "memory", "plugins", "self_test"))
    if source is None:
        facts["manifest"] = "none: no ONNX file of its name lies beside it; give --manifest FILE.onnx"
        return None, {**facts, **unknown}
    facts["manifest"] = f"of {source}; that the engine was built of it is not proven"
    return read_manifest(source), {**facts, **unknown, **(_known(found[0]) if found and belongs else {})}


def _belongs(path: str | os.PathLike[str], sidecar: Sidecar) -> bool:
    try:
        check_digest(path, sidecar, Path(path).stat().st_size, file_sha256(path))
    except EmraError:
        return False
    return True


def _sidecar_words(path: str | os.PathLike[str], there: bool, belongs: bool) -> str:
    name = sidecar_path(path).name
    if not there:
        return f"none ({name}); emra loads such an engine only with --trust-engine"
    return f"{name} belongs to it" if belongs else f"{name} belongs to another file"


def _known(sidecar: Sidecar) -> dict[str, Any]:
    machine, profile, flags = sidecar.machine, sidecar.profile, sidecar.flags
    built_on = "no GPU, for every one that TensorRT-RTX knows"
    if machine.gpu is not None:
        built_on = f"{machine.gpu.name} (compute capability {machine.gpu.sm})"
    chosen = [name.replace("_", " ") for name, value in vars(flags).items() if value is True]
    test = sidecar.self_test
    detail = f": {test.reason}" if test.reason else ""
    if not test.reason and test.different is not None:
        detail = f", {test.different:.4%} differ"
    return {
        "gpu": built_on,
        "jetpack": machine.jetpack,
        "driver": machine.driver,
        "batches": f"{profile.minimum[0]} to {profile.maximum[0]}, best at {profile.optimum[0]}",
        "flags": chosen + ([f"workspace {flags.workspace // 2**20} MiB"] if flags.workspace else []),
        "precision": {"asked": sidecar.precision.asked, **sidecar.precision.counts, "by": sidecar.precision.source},
        "memory": {
            "weights": _megabytes(sidecar.memory.weights),
            "activations": _megabytes(sidecar.memory.activations),
            "io": _megabytes(sidecar.memory.io),
        },
        "plugins": [plugin.path for plugin in sidecar.plugins],
        "self_test": f"when built: {test.status}{detail}",
        "onnx_sha256": sidecar.onnx_sha256,
        "command": sidecar.command,
    }


def _megabytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 1e6:.1f} MB"
