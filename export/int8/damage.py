"""What a change of the graph does to its answers, without ground truth: the cheap measure that orders candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError


@dataclass(frozen=True)
class Answers:
    """What a model said about some tiles.

    Attributes:
        logits: float32 K x C x H x W.
        labels: uint8 K x H x W.
    """

    logits: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Damage:
    """How far a changed model's answers are from the FP32 model's.

    Attributes:
        divergence: Mean over pixels of the Kullback-Leibler divergence from the FP32 class shares to the changed ones,
            in nats. For small changes it is quadratic in the change of the logits, so that the divergences of
            independent changes add up.
        logit_error: Root mean square of the change of the logits over root mean square of the logits.
        agreement: Share of pixels with the same label.
    """

    divergence: float
    logit_error: float
    agreement: float


def ask(backend: Backend, tiles: np.ndarray) -> Answers:
    """Run uint8 K x H x W x 3 tiles one after the other."""
    found = [backend.run(tile[np.newaxis]) for tile in tiles]
    return Answers(
        np.concatenate([one["logits"] for one in found]).astype(np.float32, copy=False),
        np.concatenate([one["classes"] for one in found]),
    )


def compare_answers(reference: Answers, changed: Answers) -> Damage:
    """The damage of a change.

    Raises:
        EmraError: ``quantize-not-finite`` when there are logits that are not finite numbers.
    """
    if not np.isfinite(changed.logits).all():
        raise EmraError(
            "quantize-not-finite",
            "the quantised graph gives logits that are not finite numbers",
            "Calibrate with other tiles, or leave linears out with --exclude",
        )
    divergence, error, scale = 0.0, 0.0, 0.0
    # Tile by tile: the double-precision copies of all would be the largest thing in memory.
    for before, after in zip(reference.logits, changed.logits, strict=True):
        p, q = _log_shares(before), _log_shares(after)
        divergence += float((np.exp(p) * (p - q)).sum(axis=0).mean())
        error += float(np.square(after - before, dtype=np.float64).sum())
        scale += float(np.square(before, dtype=np.float64).sum())
    return Damage(
        max(0.0, divergence / len(reference.logits)),
        float(np.sqrt(error / max(scale, 1e-30))),
        float((reference.labels == changed.labels).mean()),
    )


def _log_shares(logits: np.ndarray) -> np.ndarray:
    """float32 C x H x W -> float64 logarithms of the softmax over the classes."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=0)
    return shifted - np.log(np.exp(shifted).sum(axis=0))
