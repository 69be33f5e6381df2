"""Scoring of a model on labelled pictures: the loop behind every accuracy stated by this project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.evaluation.metrics import ConfusionMatrix, Scores, json_number
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.segmenter import Segmenter

CLUTTER = "clutter"
"""The ISPRS class that many papers exclude from the mean; both means are reported."""


class LabelledTile(Protocol):
    """A picture with its ground truth, such as a tile of `training.data`."""

    @property
    def name(self) -> str:
        """Name, distinct within the data set."""
        ...

    def source(self) -> ImageSource:
        """The picture."""
        ...

    def read_labels(self, window: Window | None = None) -> npt.NDArray[np.uint8]:
        """Labels of a window, uint8 h×w; 255 is "no label"."""
        ...


@dataclass(frozen=True)
class ImageScore:
    """Scores of one picture.

    Attributes:
        name: Name of the picture.
        miou: Mean IoU over the classes that occur in it, NaN without any label.
        accuracy: Fraction of correct pixels, NaN without any label.
        pixels: Labelled pixels.
    """

    name: str
    miou: float
    accuracy: float
    pixels: int


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        classes: Names and colours.
        matrix: Counts over all pictures.
        images: Scores of each picture, in the order of the data set.
        tile: Height and width of the windows in pixels.
        halo: Half the minimum overlap of neighbouring windows, in pixels.
        blend: Whether overlapping windows were averaged.
        runner: Facts about the backend.
    """

    classes: ClassSet
    matrix: ConfusionMatrix
    images: tuple[ImageScore, ...]
    tile: tuple[int, int]
    halo: int
    blend: bool
    runner: dict[str, str]

    @property
    def scores(self) -> Scores:
        """Scores over all pictures together."""
        return self.matrix.scores(self.classes)

    @property
    def miou_without_clutter(self) -> float | None:
        """Mean IoU over the other classes, or None if no class has that name."""
        if CLUTTER not in self.classes.names:
            return None
        scores = self.scores
        others = [iou for name, iou in zip(scores.names, scores.iou, strict=True) if name != CLUTTER]
        present = [iou for iou in others if not np.isnan(iou)]
        return float(np.mean(present)) if present else float("nan")

    def worst(self, count: int) -> tuple[ImageScore, ...]:
        """The pictures of lowest mIoU, worst first, without pictures that have no label."""
        labelled = [image for image in self.images if image.pixels]
        return tuple(sorted(labelled, key=lambda image: image.miou)[:count])

    def to_dict(self) -> dict[str, Any]:
        """JSON values; undefined scores are None."""
        content = self.scores.to_dict()
        without = self.miou_without_clutter
        if without is not None:
            content["miou_without_clutter"] = json_number(without)
        content["confusion"] = self.matrix.counts.tolist()
        content["windows"] = {
            "height": self.tile[0],
            "width": self.tile[1],
            "halo": self.halo,
            "blend": self.blend,
        }
        content["runner"] = dict(self.runner)
        content["images"] = [
            {
                "name": image.name,
                "miou": json_number(image.miou),
                "accuracy": json_number(image.accuracy),
                "pixels": image.pixels,
            }
            for image in self.images
        ]
        return content


def evaluate(
    segmenter: Segmenter,
    tiles: Iterable[LabelledTile],
    classes: ClassSet,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Segment each picture as a user would, with windows and halo, and count correct and wrong pixels.

    Pictures and labels are read by windows, so memory does not grow with their size.

    Args:
        segmenter: The loaded model.
        tiles: Pictures with labels.
        classes: Classes of the labels; the model must have the same, in the same order.
        progress: Called with the name of each picture once it is counted.

    Raises:
        EmraError: ``class-mismatch`` when model and labels have different classes, ``dataset-empty`` without any
            picture, and those of reading.
    """
    check_classes(segmenter.classes, classes)
    total = ConfusionMatrix(len(classes))
    images = []
    for tile in tiles:
        own = ConfusionMatrix(len(classes))
        for window, prediction in segmenter.segment_rows(tile.source()):
            # Pixels without data are not scored, whatever the ground truth says.
            own.update(np.where(prediction == IGNORE, prediction, tile.read_labels(window)), prediction)
        total.merge(own)
        scores = own.scores(classes)
        images.append(ImageScore(tile.name, scores.miou, scores.accuracy, sum(scores.support)))
        if progress is not None:
            progress(tile.name)
    if not images:
        raise EmraError("dataset-empty", "there is no picture to evaluate on", "Check the data set and its split")
    _, height, width = segmenter.backend.input_shape
    runner = segmenter.backend.describe()
    return Evaluation(classes, total, tuple(images), (height, width), segmenter.halo, segmenter.blend, runner)


def check_classes(model: ClassSet, data: ClassSet) -> None:
    """Refuse labels of other classes than the model's.

    Raises:
        EmraError: ``class-mismatch``.
    """
    if model.names != data.names:
        raise EmraError(
            "class-mismatch",
            f"the model has the classes {', '.join(model.names)}; the data set has {', '.join(data.names)}",
            "Evaluate on data with the model's classes, in the same order",
        )


def check_bands(model: Sequence[str], data: Sequence[str]) -> None:
    """Refuse pictures whose bands differ from those the model was trained on.

    Raises:
        EmraError: ``band-mismatch``.
    """
    if tuple(model) != tuple(data):
        raise EmraError(
            "band-mismatch",
            f"the model was trained on {', '.join(model)}; the data set's channels are {', '.join(data)}",
            "Use a data set with the model's bands",
        )
