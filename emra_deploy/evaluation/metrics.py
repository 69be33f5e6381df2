"""Scores of label maps against ground truth, in NumPy only, so that a device can evaluate its own results.

Definitions are those usual in semantic segmentation (as in Cordts et al., Cityscapes, and the ISPRS benchmark): with
n[i, j] the pixels of class i labelled j, IoU of class i is n[i, i] / (sum of row i + sum of column i - n[i, i]).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, MAX_CLASSES, ClassSet

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Scores:
    """Scores of one evaluation, all fractions of 0 to 1; NaN where a value is undefined.

    Attributes:
        names: The C classes.
        iou: Intersection over union of each class.
        f1: Harmonic mean of precision and recall of each class.
        precision: Fraction of the pixels with the label that is correct.
        recall: Fraction of the pixels of the class that is found.
        support: Ground-truth pixels of each class.
        miou: Mean of ``iou`` over classes that occur in truth or prediction.
        mf1: Mean of ``f1`` over the same.
        accuracy: Overall accuracy (OA), the fraction of correct pixels.
    """

    names: tuple[str, ...]
    iou: tuple[float, ...]
    f1: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    support: tuple[int, ...]
    miou: float
    mf1: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; undefined scores are None."""
        return {
            "miou": json_number(self.miou),
            "mf1": json_number(self.mf1),
            "accuracy": json_number(self.accuracy),
            "classes": {
                name: {
                    "iou": json_number(self.iou[index]),
                    "f1": json_number(self.f1[index]),
                    "precision": json_number(self.precision[index]),
                    "recall": json_number(self.recall[index]),
                    "support": self.support[index],
                }
                for index, name in enumerate(self.names)
            },
        }


class ConfusionMatrix:
    """Counts of true against predicted labels, summed over any number of pictures.

    Args:
        num_classes: C, 1 to 254.

    Attributes:
        counts: int64 C×C; row is truth, column is prediction.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= MAX_CLASSES:
            raise EmraError("class-count", f"{num_classes} classes, expected 1 to {MAX_CLASSES}", "Correct the number")
        self.num_classes = num_classes
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, labels: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Add one picture, or a part of one.

        Args:
            labels: Ground truth, uint8 of any shape; 255 is ignored.
            prediction: uint8 of the same shape; values where ``labels`` is 255 are ignored.

        Raises:
            EmraError: ``label-array`` for other types or unequal shapes, ``class-count`` for labels from C to 254
                in either, or a prediction of 255 where there is ground truth.
        """
        for what, array in (("labels", labels), ("prediction", prediction)):
            if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
                kind = getattr(array, "dtype", type(array).__name__)
                raise EmraError("label-array", f"{what} are {kind}, expected a uint8 array", "Convert them first")
        if labels.shape != prediction.shape:
            raise EmraError(
                "label-array",
                f"labels have shape {labels.shape} and the prediction {prediction.shape}",
                "Compare label maps of the same picture",
            )
        truth, guess = labels.reshape(-1), prediction.reshape(-1)
        added = np.zeros(256 * 256, np.int64)
        # Counting in pieces bounds the memory: bincount needs 8 bytes per pixel.
        for start in range(0, truth.size, _CHUNK):
            pair = truth[start : start + _CHUNK].astype(np.int64) * 256 + guess[start : start + _CHUNK]
            added += np.bincount(pair, minlength=256 * 256)
        table = added.reshape(256, 256)
        for what, occurring in (("ground truth", table.sum(1)[:IGNORE]), ("prediction", table[:IGNORE].sum(0))):
            beyond = np.flatnonzero(occurring[self.num_classes :])
            if beyond.size:
                raise EmraError(
                    "class-count",
                    f"the {what} has label {self.num_classes + int(beyond[0])} of {self.num_classes} classes (from 0)",
                    "Use a model and a data set with the same classes",
                )
        self.counts += table[: self.num_classes, : self.num_classes]

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same number of classes."""
        if other.num_classes != self.num_classes:
            raise EmraError(
                "class-count",
                f"matrices of {self.num_classes} and {other.num_classes} classes cannot be added",
                "Evaluate with the same classes",
            )
        self.counts += other.counts

    def scores(self, classes: ClassSet) -> Scores:
        """Scores of all pictures added.

        Classes that occur neither in truth nor in prediction have NaN scores and are excluded from the means. A class
        that was never predicted has precision 0 if it occurs in the truth, and likewise for recall, as in torchmetrics.

        Args:
            classes: The C classes, for their names.

        Raises:
            EmraError: ``class-count`` when their number is not C.
        """
        if len(classes) != self.num_classes:
            raise EmraError(
                "class-count",
                f"{len(classes)} class names for a matrix of {self.num_classes} classes",
                "Give the classes that were evaluated",
            )
        hit = np.diag(self.counts).astype(np.float64)
        truth, guess = self.counts.sum(1), self.counts.sum(0)
        present = (truth + guess) > 0
        iou = _ratio(hit, truth + guess - hit, present)
        f1 = _ratio(2 * hit, truth + guess, present)
        total = int(truth.sum())
        return Scores(
            names=classes.names,
            iou=tuple(iou.tolist()),
            f1=tuple(f1.tolist()),
            precision=tuple(_ratio(hit, guess, present).tolist()),
            recall=tuple(_ratio(hit, truth, present).tolist()),
            support=tuple(truth.tolist()),
            miou=float(iou[present].mean()) if total else float("nan"),
            mf1=float(f1[present].mean()) if total else float("nan"),
            accuracy=float(hit.sum() / total) if total else float("nan"),
        )


def _ratio(
    part: npt.NDArray[np.float64], whole: npt.NDArray[Any], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Part divided by whole: 0 where the whole is empty, NaN where the class is absent."""
    value: npt.NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    value[~present] = np.nan
    return value


def json_number(value: float | None) -> float | None:
    """A number for JSON: None if it is not finite."""
    return None if value is None or not math.isfinite(value) else value
