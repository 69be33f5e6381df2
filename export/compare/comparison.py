"""Streaming comparison of two models on the same pictures.

    report = compare(first, second, open_dataset("auto", "data/dubai", "val").tiles)
    report.agreement, report.miou_drop, report.failures(LIMITS["fp16"])

Imports neither PyTorch nor an inference library.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend, Outputs
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.evaluation.metrics import ConfusionMatrix
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.sources import ArraySource, ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.segmenter import Segmenter
from export.compare.report import NEAR_TIE, LogitError, PictureReport, Report

_Labels = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]

_STEPS, _LEAST = 8, 1e-30
"""Steps of counted margins in an octave, and the smallest margin distinguished from 0."""


def compare(
    a: Backend,
    b: Backend,
    pictures: npt.NDArray[np.uint8] | Iterable[LabelledTile],
    *,
    labelled: bool = True,
    blend: bool = False,
    progress: Callable[[PictureReport], None] | None = None,
) -> Report:
    """Run two models on the same pictures, in windows with a halo as the runtime does, and measure the differences.

    Pictures and labels are read by windows, so memory does not grow with their height. Every pixel that holds data
    counts once, also where tiles overlap. Logits are those of each tile, blended or not.

    Args:
        a: The reference.
        b: The model that is compared with it.
        pictures: uint8 K x H x W x 3, or tiles such as those of `training.data.open_dataset`.
        labelled: Whether tiles have labels that can be read; arrays have none.
        blend: Average overlapping tiles; both models need the output ``logits``.
        progress: Called with each picture's result.

    Raises:
        EmraError: ``class-mismatch`` when the classes differ, ``dataset-empty`` without any picture, ``blend`` for a
            model without logits, and those of reading and running.
    """
    classes = check_same_task(a, b)
    first, second = (Segmenter(one, batch_size=1, blend=blend) for one in (a, b))
    matrices = ConfusionMatrix(len(classes)), ConfusionMatrix(len(classes))
    results = []
    for name, source, tile in _sources(pictures):
        pixels, agreeing, errors = 0, 0, _LogitErrors()
        for window, *labels in _walk(first, second, source, errors):
            # Pixels without data are the same for both, and are not compared.
            data = labels[0] != IGNORE
            pixels += int(data.sum())
            agreeing += int((labels[0] == labels[1])[data].sum())
            if labelled and tile is not None:
                truth = np.where(data, tile.read_labels(window), np.uint8(IGNORE))
                for matrix, found in zip(matrices, labels, strict=True):
                    matrix.update(truth, found)
        results.append(PictureReport(name, pixels, agreeing, errors.result()))
        if progress is not None:
            progress(results[-1])
    if not results:
        raise EmraError("dataset-empty", "there is no picture to compare on", "Check the data set and its split")
    runners = a.describe(), b.describe()
    if not matrices[0].counts.any():
        # Nothing is labelled, so there is no score to lose.
        return Report(classes, tuple(results), runners)
    return Report(classes, tuple(results), runners, *matrices)


def check_same_task(a: Backend, b: Backend) -> ClassSet:
    """The classes of both models.

    Raises:
        EmraError: ``class-mismatch``.
    """
    first, second = a.manifest.classes, b.manifest.classes
    if first.names != second.names:
        raise EmraError(
            "class-mismatch",
            f"one model has the classes {', '.join(first.names)}, the other {', '.join(second.names)}",
            "Compare two forms of one model",
        )
    return first


def _walk(
    a: Segmenter, b: Segmenter, source: ImageSource, errors: _LogitErrors
) -> Iterator[tuple[Window, _Labels, _Labels]]:
    """The labels of both models in the same windows, from top to bottom, while the logits are being compared."""
    if a.backend.input_shape[1:] != b.backend.input_shape[1:]:
        yield from _aligned(a.segment_rows(source), b.segment_rows(source))
        return
    waiting: deque[Outputs] = deque()

    def keep(window: Window, valid: _Mask | None, outputs: Outputs) -> None:
        waiting.append(outputs)

    def match(window: Window, valid: _Mask | None, outputs: Outputs) -> None:
        # The same plan on the same source: tiles come in one order, and those without data come for neither.
        errors.add(valid, waiting.popleft(), outputs)

    yield from _aligned(a.segment_rows(source, watch=keep), b.segment_rows(source, watch=match))


def _aligned(
    first: Iterator[tuple[Window, _Labels]], second: Iterator[tuple[Window, _Labels]]
) -> Iterator[tuple[Window, _Labels, _Labels]]:
    """Two partitions of the same rows as one, each of whose windows lies in one of either."""
    one, other = next(first, None), next(second, None)
    top = 0
    while one is not None and other is not None:
        bottom = min(one[0].bottom, other[0].bottom)
        parts = [labels[top - window.top : bottom - window.top] for window, labels in (one, other)]
        yield Window(top, 0, bottom - top, one[0].width), parts[0], parts[1]
        top = bottom
        one = next(first, None) if one[0].bottom == bottom else one
        other = next(second, None) if other[0].bottom == bottom else other


class _LogitErrors:
    """Sums over the tiles of one picture."""

    def __init__(self) -> None:
        self._pixels, self._values, self._near_ties = 0, 0, 0
        self._largest = self._scale = self._total = self._square = self._power = self._divergence = self._margin = 0.0
        self._confidence: float | None = None
        self._margins: Counter[int] = Counter()

    def add(self, valid: _Mask | None, ours: Outputs, theirs: Outputs) -> None:
        """Count one tile.

        Args:
            valid: Pixels that hold data, None for all.
            ours: Outputs of the reference, without the batch.
            theirs: Outputs of the other model.
        """
        if "logits" not in ours or "logits" not in theirs:
            return
        where = np.ones(ours["classes"].shape, bool) if valid is None else valid
        if not where.any():
            return
        first, second = (one["logits"][:, where].astype(np.float64) for one in (ours, theirs))
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(first - second)
            worst = float(error.max())
            # A comparison with NaN is false, so NaN would count as small.
            self._largest = max(self._largest, worst) if np.isfinite(worst) else float("inf")
            self._scale = max(self._scale, float(np.abs(first).max()))
            self._total += float(error.sum())
            self._square += float(np.square(error).sum())
            self._power += float(np.square(first).sum())
            p, q = _log_shares(first), _log_shares(second)
            self._divergence += float((np.exp(p) * (p - q)).sum())
        self._pixels += first.shape[1]
        self._values += first.size
        labels = ours["classes"][where], theirs["classes"][where]
        other = np.flatnonzero(labels[0] != labels[1])
        self._count_ties(np.exp(p[:, other]))
        self._count_margins(first[labels[0][other], other] - first[labels[1][other], other])
        if "confidence" in theirs:
            off = float(np.abs(theirs["confidence"][where] - np.exp(p.max(axis=0))).max())
            self._confidence = max(self._confidence or 0.0, off)

    def _count_ties(self, shares: _Floats) -> None:
        """Count the margins of pixels with another label, by the reference's class shares, C x N."""
        if shares.shape[1] and len(shares) > 1:
            second, first = np.partition(shares, -2, axis=0)[-2:]
            self._near_ties += int((first - second < NEAR_TIE).sum())
            self._margin = max(self._margin, float((first - second).max()))

    def _count_margins(self, margins: _Floats) -> None:
        """Count margins between two labels in the reference's logits, in steps: the picture's scale is unknown yet."""
        with np.errstate(invalid="ignore"):
            octaves = np.ceil(_STEPS * np.log2(np.clip(margins, _LEAST, None)))
        values, counts = np.unique(octaves[np.isfinite(octaves)].astype(int), return_counts=True)
        self._margins.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def result(self) -> LogitError | None:
        """The differences of the picture, None where no logits were compared."""
        if not self._pixels or not (self._scale > 0 or np.isinf(self._largest)):
            return None
        scale = self._scale or 1.0
        return LogitError(
            self._largest / scale,
            self._total / self._values / scale,
            float(np.sqrt(self._square / self._power)),
            max(0.0, self._divergence / self._pixels),
            self._near_ties,
            self._margin,
            self._confidence,
            tuple((2.0 ** (step / _STEPS) / scale, count) for step, count in sorted(self._margins.items())),
        )


def _log_shares(logits: _Floats) -> _Floats:
    """Logarithms of the softmax over the classes, float64 C x N of logits C x N."""
    shifted = logits - logits.max(axis=0)
    found: _Floats = shifted - np.log(np.exp(shifted).sum(axis=0))
    return found


def _sources(
    pictures: npt.NDArray[np.uint8] | Iterable[LabelledTile],
) -> Iterator[tuple[str, ImageSource, LabelledTile | None]]:
    if isinstance(pictures, np.ndarray):
        for index, picture in enumerate(pictures):
            yield f"tile {index}", ArraySource(picture), None
        return
    for tile in pictures:
        yield tile.name, tile.source(), tile
