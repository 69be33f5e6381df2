"""The self-test: a comparison of this machine's labels with those of PyTorch.

Inference libraries have shipped releases that return wrong results for vision transformers without an error
(TensorRT 10.3 in FP16: NVIDIA/TensorRT issues 4419 and 4723), so every model runs its golden tile when loaded.
"""

from __future__ import annotations

import logging

import numpy as np

from emra_deploy.backends.base import Backend
from emra_deploy.backends.tensorrt.faults import known_fault, way_out
from emra_deploy.errors import EmraError
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.precisions import PRECISIONS

_log = logging.getLogger(__name__)

COMPUTED = {"bf16": 0.01, "f16": 0.001}
"""Fraction of pixels that may be labelled otherwise, as for `PRECISIONS`, for what a backend computes in by its own
choice. BF16 keeps 8 bits of FP32's 24: of the golden tile of a shipped FP32 model it labelled 0.18 % otherwise."""


def self_test(backend: Backend) -> float | None:
    """Run the golden tile and compare its labels with PyTorch's.

    Args:
        backend: The loaded model.

    Returns:
        The fraction of pixels that differ, 0 to 1, or None when the model has no golden tile.

    Raises:
        EmraError: ``self-test-failed`` when more pixels differ than the golden tile and the precision allow,
            ``class-count`` when there are labels beyond the Manifest's classes, ``golden-tile`` when it cannot be
            decoded.
    """
    manifest = backend.manifest
    if manifest.golden is None:
        _log.warning("model %s has no golden tile: its results cannot be checked on this machine", manifest.name)
        return None
    expected = manifest.golden.labels()
    highest = int(np.max(expected))
    if highest >= len(manifest.classes):
        raise EmraError(
            "class-count",
            f"The golden tile has label {highest}, and the Manifest names {len(manifest.classes)} classes",
            "Export the model again with python -m export.to_onnx",
        )
    facts = backend.describe()
    computed_in = f" in {facts['precision']}" if "precision" in facts else ""
    with step(f"testing {manifest.name} with {backend.name}{computed_in}: its golden tile is run"):
        found = backend.run(manifest.golden.image()[np.newaxis])["classes"][0]
    different = float(np.mean(found != expected))
    computed = COMPUTED.get(facts.get("precision", ""), 0.0)
    allowed = max(manifest.golden.tolerance, PRECISIONS[manifest.precision].golden, computed)
    if different > allowed:
        library, version = backend.name, facts.get("version", "of unknown version")
        fault = known_fault(library, version, manifest.precision)
        raise EmraError(
            "self-test-failed",
            f"Model {manifest.name!r} ({manifest.precision}) labels {different:.2%} of its golden tile otherwise than"
            f" PyTorch did; {allowed:.2%} are allowed" + (f". {fault}" if fault else ""),
            way_out(library, version, manifest.precision),
        )
    _log.debug("self-test of %s: %.4f%% of pixels differ", manifest.name, 100 * different)
    return different
