"""The result of comparing two models on pictures, and the limits it must meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.evaluation.metrics import ConfusionMatrix, Scores, json_number
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.precisions import PRECISIONS

NEAR_TIE = 0.1
"""Margin, as a difference of probabilities, below which rounding may decide between the two best classes."""


@dataclass(frozen=True)
class Limits:
    """Largest acceptable differences between a model and its reference.

    Attributes:
        agreement: Least share of pixels with equal labels, 0 to 1.
        miou_drop: Most mIoU points (hundredths) lost, where there is ground truth.
        logit_error: Most that a logit may be off, over the picture's largest absolute logit; finite logits pass.
        confidence_error: Most that a confidence may be off.
        tie: Margin between two classes in the reference, over the picture's largest absolute logit, up to which both
            labels count as equal: neither is more right.

    Raises:
        EmraError: ``tolerance`` for values out of range.
    """

    agreement: float
    miou_drop: float = 100.0
    logit_error: float = math.inf
    confidence_error: float = math.inf
    tie: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1:
            raise EmraError("tolerance", f"agreement of {self.agreement}, expected 0 to 1", "Give such as 0.999")
        if not 0 <= self.miou_drop <= 100:
            raise EmraError("tolerance", f"a drop of {self.miou_drop} points, expected 0 to 100", "Give such as 0.1")


LIMITS = {name: Limits(one.agreement, one.miou_drop) for name, one in PRECISIONS.items()}
"""By the precision of the second model."""


@dataclass(frozen=True)
class LogitError:
    """Differences of the logits of one picture, over the pixels that hold data.

    Attributes:
        max: Largest difference over the reference's largest absolute logit; infinite where one is not finite.
        mean: Mean difference over the same.
        rms: Root mean square of the differences over that of the reference's logits.
        divergence: Mean Kullback-Leibler divergence from the reference's class probabilities, in nats. For small
            changes it is quadratic in the change of the logits, so that those of independent changes add up.
        near_ties: Pixels with another label whose margin in the reference, the difference between the probabilities of
            its two best classes, is below `NEAR_TIE`.
        margin: Largest such margin of a pixel with another label; 0 without any.
        confidence: Largest difference between the output ``confidence`` and the reference's largest probability, None
            without that output.
        margins: Of the pixels with another label: margins between both labels in the reference's logits, rounded up,
            over the largest absolute logit, and how many pixels have each.
    """

    max: float
    mean: float
    rms: float
    divergence: float
    near_ties: int
    margin: float
    confidence: float | None = None
    margins: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class PictureReport:
    """Two models on one picture.

    Attributes:
        name: Name of the picture.
        pixels: Number of pixels with data.
        agreeing: Number of pixels with equal labels.
        logits: Their differences, None where the two models do not both give logits of the same tiles.
    """

    name: str
    pixels: int
    agreeing: int
    logits: LogitError | None = None

    @property
    def agreement(self) -> float:
        """Share of pixels with equal labels."""
        return self.agreeing / self.pixels if self.pixels else 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "agreement": self.agreement, "pixels": self.pixels, **_logit_values([self])}


@dataclass(frozen=True)
class Report:
    """Result of `export.compare.comparison.compare`; the first model is the reference.

    Attributes:
        classes: Classes of both models.
        pictures: One entry for each picture, in order; at least one.
        runners: Facts about the backend of either model.
        matrix_a: Counts against the ground truth, None where the pictures have none.
        matrix_b: The same of the second model.
    """

    classes: ClassSet
    pictures: tuple[PictureReport, ...]
    runners: tuple[dict[str, str], dict[str, str]]
    matrix_a: ConfusionMatrix | None = field(default=None, repr=False)
    matrix_b: ConfusionMatrix | None = field(default=None, repr=False)

    @property
    def pixels(self) -> int:
        """Pixels compared."""
        return sum(picture.pixels for picture in self.pictures)

    @property
    def agreement(self) -> float:
        """Share of all pixels with equal labels."""
        return sum(picture.agreeing for picture in self.pictures) / self.pixels if self.pixels else 1.0

    def agreement_beyond(self, tie: float) -> float:
        """Share of all pixels whose labels are equal, or whose margin in the reference is at most ``tie``."""
        ties = sum(count for margin, count in self.logits.margins if margin <= tie) if self.logits else 0
        return min(1.0, self.agreement + ties / self.pixels) if self.pixels else 1.0

    @property
    def logits(self) -> LogitError | None:
        """Largest values and, weighted by pixels, means over all pictures."""
        return _total(self.pictures)

    @property
    def scores(self) -> tuple[Scores, Scores] | None:
        """Scores of both models against the ground truth, None without any."""
        if self.matrix_a is None or self.matrix_b is None:
            return None
        return self.matrix_a.scores(self.classes), self.matrix_b.scores(self.classes)

    @property
    def miou_drop(self) -> float | None:
        """Points (hundredths) of mIoU that the second model loses; below 0 when it gains."""
        scores = self.scores
        return None if scores is None else 100 * (scores[0].miou - scores[1].miou)

    @property
    def iou_drop(self) -> dict[str, float] | None:
        """The same for each class; NaN for classes that do not occur."""
        scores = self.scores
        if scores is None:
            return None
        pairs = zip(self.classes.names, scores[0].iou, scores[1].iou, strict=True)
        return {name: 100 * (first - second) for name, first, second in pairs}

    @property
    def worst(self) -> PictureReport:
        """The picture with the least agreement; of equals the one with the largest logit error."""
        return min(self.pictures, key=lambda one: (one.agreement, -(one.logits.max if one.logits else 0.0)))

    def failures(self, limits: Limits) -> list[str]:
        """Violations of the limits, in words; empty when there is none."""
        found = []
        agreement = self.agreement_beyond(limits.tie)
        if not agreement >= limits.agreement:
            ties = f" and {agreement - self.agreement:.4%} are ties" if limits.tie else ""
            found.append(f"{self.agreement:.4%} of the labels agree{ties}, expected at least {limits.agreement:.2%}")
        drop, logits = self.miou_drop, self.logits
        if drop is not None and not drop <= limits.miou_drop:
            found.append(f"{drop:.3f} mIoU points are lost, expected at most {limits.miou_drop:g}")
        if logits is not None and not math.isfinite(logits.max):
            found.append("there are logits that are not finite numbers")
        elif logits is not None and not logits.max <= limits.logit_error:
            found.append(f"logits are off by {logits.max:.1e}, expected at most {limits.logit_error:.0e}")
        if logits is not None and logits.confidence is not None and not logits.confidence <= limits.confidence_error:
            found.append(
                f"confidence is off by {logits.confidence:.1e}, expected at most {limits.confidence_error:.0e}"
            )
        return found

    def __str__(self) -> str:
        text = f"{self.agreement:.4%} of {self.pixels} labels agree"
        if self.miou_drop is not None:
            text += f", {self.miou_drop:+.3f} mIoU points lost"
        if self.logits is not None:
            text += f", logits within {self.logits.max:.1e} of the largest"
        return f"{text} ({len(self.pictures)} pictures)"

    def summary(self) -> dict[str, Any]:
        """JSON values of all pictures together, as evidence keeps them; undefined numbers are None."""
        scores, drops = self.scores, self.iou_drop
        return {
            "agreement": self.agreement,
            "pixels": self.pixels,
            "pictures": len(self.pictures),
            **_logit_values(self.pictures),
            "miou": None if scores is None else [json_number(one.miou) for one in scores],
            "miou_drop_points": json_number(self.miou_drop),
            "iou_drop_points": None if drops is None else {name: json_number(value) for name, value in drops.items()},
            "runners": [dict(runner) for runner in self.runners],
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the summary, the worst picture's name, and each picture."""
        each = [picture.to_dict() for picture in self.pictures]
        return {**self.summary(), "worst": self.worst.name, "tiles": each}


def _total(pictures: tuple[PictureReport, ...] | list[PictureReport]) -> LogitError | None:
    known = [(one.logits, one.pixels) for one in pictures if one.logits is not None]
    if not known:
        return None
    pixels = sum(count for _, count in known)

    def mean(value: Callable[[LogitError], float]) -> float:
        return sum(value(error) * count for error, count in known) / pixels

    confidences = [error.confidence for error, _ in known if error.confidence is not None]
    return LogitError(
        max(error.max for error, _ in known),
        mean(lambda error: error.mean),
        math.sqrt(mean(lambda error: error.rms**2)),
        mean(lambda error: error.divergence),
        sum(error.near_ties for error, _ in known),
        max(error.margin for error, _ in known),
        max(confidences) if confidences else None,
        tuple(margin for error, _ in known for margin in error.margins),
    )


def _logit_values(pictures: tuple[PictureReport, ...] | list[PictureReport]) -> dict[str, Any]:
    error = _total(pictures)
    return {
        "logit_error_max": None if error is None else json_number(error.max),
        "logit_error_mean": None if error is None else json_number(error.mean),
        "logit_error_rms": None if error is None else json_number(error.rms),
        "divergence": None if error is None else json_number(error.divergence),
        "near_ties": None if error is None else error.near_ties,
        "largest_margin": None if error is None else json_number(error.margin),
    }
