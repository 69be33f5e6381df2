"""Provenance of figures: device, date, versions, command, revision, and the model's sha256."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from emra_deploy._version import __version__
from emra_deploy.errors import EmraError
from emra_deploy.host import machine
from emra_deploy.host.digest import file_sha256

REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "cuda-python",
    "torch",
    "timm",
    "segmentation-models-pytorch",
)
_ABSOLUTE = re.compile(r"(?<![\w.:/~])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,]+[/\\])+([^\s/\\'\":;,]*)")


def describe_run(script: str, argv: Sequence[str]) -> dict[str, Any]:
    """Date, command, revision and versions of a measurement.

    Args:
        script: Name of the command's file below ``benchmarks/``, of one elsewhere with its folder, or of a module.
        argv: Its arguments.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": portable(" ".join(["python", *_launched(script), *(_argument(word) for word in argv)])),
        "git": git_revision(),
        "versions": versions(),
    }


def describe_machine() -> dict[str, Any]:
    """The device, without anything that names its owner or its folders."""
    facts = machine.collect(())
    gpus, jetson = facts["gpus"], facts["jetson"]
    names = [gpu["name"] for gpu in gpus] or [facts["processor"]["name"] or facts["machine"]]
    return {
        "device": (jetson or {}).get("board") or ", ".join(names),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {facts['machine']}",
        "processor": facts["processor"],
        "memory_bytes": facts["memory"]["total"],
        "gpus": gpus,
        "jetson": jetson,
    }


def versions() -> dict[str, str]:
    """Versions of the installed libraries that may take part in a measurement."""
    found = {"emra-deploy": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision(folder: Path = REPOSITORY) -> dict[str, Any] | None:
    """The commit, and whether tracked files differ from it; None outside of a repository."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=30, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": commit.strip(), "dirty": bool(changes.strip())}


def describe_file(path: Path) -> dict[str, Any]:
    """Name, size and sha256 of a model.

    Of a checkpoint's folder, size and sha256 are those of its weights, which exports and evaluations name as their
    parent.

    Raises:
        EmraError: ``model-missing``, ``model-unreadable``.
    """
    if not path.exists():
        raise EmraError("model-missing", "The model does not exist", "Give a model file or a checkpoint's folder", path)
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        return {
            "name": path.name or path.resolve().name,
            "sha256": file_sha256(file),
            "bytes": file.stat().st_size,
        }
    except OSError as error:
        raise EmraError(
            "model-unreadable", f"It cannot be read ({error.strerror})", "Check its permissions", path
        ) from error


def portable(text: str) -> str:
    """The text with absolute paths cut down to their last part: a result file is published."""
    # The rest of doubled separators may look like a path again. Each round leaves fewer separators.
    while (shorter := _ABSOLUTE.sub(lambda found: found.group(1) or "folder", text)) != text:
        text = shorter
    return text


def scrub(value: Any) -> Any:
    """JSON values with `portable` applied to every text."""
    if isinstance(value, str):
        return portable(value)
    if isinstance(value, dict):
        return {portable(str(key)): scrub(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item) for item in value]
    return value


def _launched(script: str) -> list[str]:
    if not script.endswith(".py"):
        return ["-m", script]
    return [script if "/" in script else f"benchmarks/{script}"]


def _argument(word: str) -> str:
    name, equals, value = word.partition("=")
    place = Path(value if equals else word)
    if place.is_absolute():
        try:
            inside = str(place.resolve().relative_to(REPOSITORY))
        except ValueError:
            inside = place.name
        word = f"{name}={inside}" if equals else inside
    return f"'{word}'" if re.search(r"[\s*?$&|;<>()]", word) else word
