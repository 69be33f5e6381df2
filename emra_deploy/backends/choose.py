"""The choice of ``auto``: the backend that suits a file and this machine, with its reasons.

The rules and what was measured for them are in docs/decisions/0016-choosing-a-backend.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emra_deploy.backends.half_quantizing import truncates
from emra_deploy.backends.metadata import peek_manifest
from emra_deploy.backends.providers import CUDA, RTX, TENSORRT, Provider

FEW_TILES = 16
"""Up to this many tiles ONNX Runtime finishes before OpenVINO, which loads more slowly and runs faster
(`benchmarks/backend_choice.py`)."""


@dataclass(frozen=True)
class Choice:
    """A backend and its reasons.

    Attributes:
        name: Name of the backend.
        why: Reason for choosing it, a few words.
        passed_over: Names of other backends that could run the file, each with the reason against it.
    """

    name: str
    why: str
    passed_over: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        """One line for people."""
        others = "; ".join(f"{name}: {reason}" for name, reason in self.passed_over)
        return f"{self.name}, {self.why}" + (f" (passed over: {others})" if others else "")

    def after(self, *passed_over: tuple[str, str]) -> Choice:
        """The same choice, with further backends passed over."""
        return Choice(self.name, self.why, (*passed_over, *self.passed_over))


def providers_here(
    precision: str | None = None, *, keeps_engines: bool = False
) -> tuple[list[Provider], list[tuple[str, str]]]:
    """The GPU providers that ``auto`` tries, best first, and the others with the reason against each.

    Args:
        precision: The precision that the user asked for; no provider offers a choice.
        keeps_engines: Whether the engines that a provider builds are cached for the next load.
    """
    available = _available()
    wanted: list[Provider] = []
    others: list[tuple[str, str]] = []
    for provider in (TENSORRT, RTX, CUDA) if keeps_engines else (CUDA, RTX, TENSORRT):
        plugin = provider.plugin is not None and _importable(provider.plugin)
        if provider.ep not in available and not plugin:
            others.append((provider.name, "not installed"))
        elif precision is not None:
            others.append((provider.name, "it computes in what the graph says"))
        elif provider is TENSORRT and not keeps_engines:
            others.append((provider.name, "it would build an engine at each load, without a folder to keep it in"))
        else:
            wanted.append(provider)
    return wanted, others


def choose_on_processor(path: Path, *, precision: str | None = None, tiles: int | None = None) -> Choice:
    """The backend for an ONNX file on the processor. Nothing is loaded.

    Args:
        path: The file.
        precision: The precision that the user asked for, or None.
        tiles: Number of tiles to run, None for many.
    """
    lacking = [name for name in ("openvino", "onnx") if not _importable(name)]
    manifest = peek_manifest(path)
    title = "this model" if manifest is None else f"{manifest.precision} on a processor"
    if precision is not None:
        return Choice("openvino", f"which can compute in {precision}", (("onnxruntime", "it has no choice of that"),))
    if lacking:
        why = "which refuses it: this release truncates FP16 that it quantises" if _truncates(path) else "which is here"
        return Choice("onnxruntime", why, (("openvino", f"{' and '.join(lacking)} not installed"),))
    if not _importable("onnxruntime"):
        return Choice("openvino", "which is here", (("onnxruntime", "not installed"),))
    if _truncates(path):
        return Choice(
            "openvino", "which rounds FP16 when it quantises", (("onnxruntime", "this release truncates there"),)
        )
    if tiles is not None and tiles <= FEW_TILES:
        return Choice(
            "onnxruntime",
            f"which is done with {tiles} tile{'s' if tiles > 1 else ''} sooner",
            (("openvino", "it runs faster and loads later"),),
        )
    return Choice("openvino", f"the faster one for {title}", (("onnxruntime", "slower once both are loaded"),))


def _truncates(path: Path) -> bool:
    """Whether the installed ONNX Runtime computes a file incorrectly."""
    try:
        import onnxruntime
    except Exception:  # As in `_available`.
        return False
    return truncates(path, onnxruntime)


def _available() -> list[str]:
    if not _importable("onnxruntime"):
        return []
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    except Exception:
        # A wheel for another machine may raise anything. Loading the model reports it.
        return []


def _importable(name: str) -> bool:
    if name in sys.modules:
        module: Any = sys.modules[name]
        return module is not None
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
