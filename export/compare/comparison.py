"""Two forms of one model on the same pictures: do they still segment the same way?

    comparison = compare("model.onnx", "model.fp16.onnx", open_dataset("auto", "data/dubai", "val").tiles)
    comparison.agreement, comparison.miou_drop, comparison.failures(TOLERANCES["fp16"])

Imports neither PyTorch nor an inference library; what runs a model is imported when one is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend, Outputs, Wrapper
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.evaluation.metrics import ConfusionMatrix, Scores
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.sources import ArraySource, ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.segmenter import Segmenter


@dataclass(frozen=True)
class Tolerance:
    """What one precision may cost.

    Attributes:
        min_agreement: Least share of pixels with equal labels, 0 to 1.
        max_miou_drop: Most mIoU points (hundredths) that the second model may lose.
    """

    min_agreement: float
    max_miou_drop: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise EmraError("tolerance", f"agreement of {self.min_agreement}, expected 0 to 1", "Give such as 0.999")
        if not 0 <= self.max_miou_drop <= 100:
            raise EmraError(
                "tolerance", f"a drop of {self.max_miou_drop} points, expected 0 to 100", "Give such as 0.1"
            )


TOLERANCES = {"fp32": Tolerance(0.9999, 0.05), "fp16": Tolerance(0.999, 0.1), "int8": Tolerance(0.99, 0.5)}
"""By the precision of the second model. Those of FP16 and INT8 are the project's promise; FP32's are what two
libraries that compute the same in another order stay within."""


@dataclass(frozen=True)
class TileDifference:
    """Two models on one picture.

    Attributes:
        name: Of the picture.
        pixels: In it, those without data aside.
        agreeing: Those with equal labels.
        logit_max: Largest difference of a logit over the largest absolute logit of the first model; infinite when the
            second gives a number that is not finite, None when logits cannot be had from both.
        logit_mean: Mean difference over the same.
    """

    name: str
    pixels: int
    agreeing: int
    logit_max: float | None
    logit_mean: float | None

    @property
    def agreement(self) -> float:
        """Share of pixels with equal labels."""
        return self.agreeing / self.pixels if self.pixels else 1.0


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured; ``a`` is the reference.

    Attributes:
        classes: Of both models.
        tiles: One entry for each picture, in order.
        runners: What ran either model.
        matrix_a: Counts against the ground truth, None where the pictures have none.
        matrix_b: The same of the second model.
    """

    classes: ClassSet
    tiles: tuple[TileDifference, ...]
    runners: tuple[dict[str, str], dict[str, str]]
    matrix_a: ConfusionMatrix | None = field(default=None, repr=False)
    matrix_b: ConfusionMatrix | None = field(default=None, repr=False)

    @property
    def pixels(self) -> int:
        """Of all pictures."""
        return sum(tile.pixels for tile in self.tiles)

    @property
    def agreement(self) -> float:
        """Share of all pixels with equal labels."""
        return sum(tile.agreeing for tile in self.tiles) / self.pixels if self.pixels else 1.0

    @property
    def logit_max(self) -> float | None:
        """The worst picture's."""
        values = [tile.logit_max for tile in self.tiles if tile.logit_max is not None]
        return max(values) if values else None

    @property
    def logit_mean(self) -> float | None:
        """Mean over the pictures, by their pixels."""
        known = [(tile.logit_mean, tile.pixels) for tile in self.tiles if tile.logit_mean is not None]
        return sum(mean * pixels for mean, pixels in known) / sum(p for _, p in known) if known else None

    @property
    def scores(self) -> tuple[Scores, Scores] | None:
        """Of both models against the ground truth, None without any."""
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
        return {
            name: 100 * (first - second)
            for name, first, second in zip(self.classes.names, scores[0].iou, scores[1].iou, strict=True)
        }

    @property
    def worst(self) -> TileDifference:
        """The picture with the least agreement; of equals the one with the largest logit error."""
        return min(self.tiles, key=lambda tile: (tile.agreement, -(tile.logit_max or 0.0)))

    def failures(self, tolerance: Tolerance) -> list[str]:
        """What is not within a tolerance, in words; empty when all is."""
        found = []
        if not self.agreement >= tolerance.min_agreement:
            found.append(f"{self.agreement:.4%} of the labels agree, expected at least {tolerance.min_agreement:.2%}")
        drop = self.miou_drop
        if drop is not None and not drop <= tolerance.max_miou_drop:
            found.append(f"{drop:.3f} mIoU points are lost, expected at most {tolerance.max_miou_drop:g}")
        if self.logit_max is not None and not np.isfinite(self.logit_max):
            found.append("the second model gives logits that are not finite numbers")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON values; undefined numbers are None."""
        scores = self.scores
        content: dict[str, Any] = {
            "agreement": self.agreement,
            "pixels": self.pixels,
            "logit_error_max": _json(self.logit_max),
            "logit_error_mean": _json(self.logit_mean),
            "miou": None if scores is None else [_json(scores[0].miou), _json(scores[1].miou)],
            "miou_drop_points": _json(self.miou_drop),
            "iou_drop_points": None
            if self.iou_drop is None
            else {name: _json(value) for name, value in self.iou_drop.items()},
            "runners": [dict(runner) for runner in self.runners],
            "worst": self.worst.name,
            "tiles": [
                {
                    "name": tile.name,
                    "agreement": tile.agreement,
                    "pixels": tile.pixels,
                    "logit_error_max": _json(tile.logit_max),
                    "logit_error_mean": _json(tile.logit_mean),
                }
                for tile in self.tiles
            ],
        }
        return content


def compare(
    a: str | Path | Backend,
    b: str | Path | Backend,
    pictures: npt.NDArray[np.uint8] | Iterable[LabelledTile],
    *,
    labelled: bool = True,
    threads: int | None = None,
    progress: Callable[[TileDifference], None] | None = None,
) -> Comparison:
    """Run two models on the same pictures, windows and halo as a user would, and measure how they differ.

    Args:
        a: The reference: a model file, a checkpoint folder, or what `export.compare.runners.open_runner` gave.
        b: What is compared with it.
        pictures: uint8 K x H x W x 3, or tiles such as those of `training.data.open_dataset`.
        labelled: Whether tiles have labels that can be read; arrays have none.
        threads: Of one run of a model that is opened here; None leaves the choice to the library.
        progress: Called with each picture's result.

    Raises:
        EmraError: ``class-mismatch`` when the classes differ, ``dataset-empty`` without any picture, and those of
            opening the models and reading the pictures.
    """
    from export.compare.runners import open_pair, open_runner

    if isinstance(a, str | Path) and isinstance(b, str | Path):
        first, second = open_pair(a, b, threads=threads)
    else:
        first, second = (open_runner(x, threads=threads) if isinstance(x, str | Path) else x for x in (a, b))
    classes = check_same_task(first, second)
    with_truth = labelled and not isinstance(pictures, np.ndarray)
    matrices = (ConfusionMatrix(len(classes)), ConfusionMatrix(len(classes))) if with_truth else None
    pair = _Pair(first, second)
    tiles = []
    for name, source, tile in _sources(pictures):
        result, labels_a, labels_b = pair.difference(name, source)
        if matrices is not None and tile is not None:
            truth = tile.read_labels(Window(0, 0, source.height, source.width))
            matrices[0].update(truth, labels_a)
            matrices[1].update(truth, labels_b)
        tiles.append(result)
        if progress is not None:
            progress(result)
    if not tiles:
        raise EmraError("dataset-empty", "there is no picture to compare on", "Check the data set and its split")
    if matrices is not None and not matrices[0].counts.any():
        # Nothing is labelled, so there is no score to lose.
        matrices = None
    return Comparison(classes, tuple(tiles), (first.describe(), second.describe()), *(matrices or (None, None)))


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


class _Recorder(Wrapper):
    """Keeps the logits of its last batch until they are taken."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._logits: npt.NDArray[Any] | None = None

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        outputs = super().run(batch)
        self._logits = outputs.get("logits")
        return outputs

    def take(self) -> npt.NDArray[Any] | None:
        """The last batch's logits, once; None for a window that was not run, as it holds no data."""
        taken, self._logits = self._logits, None
        return taken


class _Pair:
    """Two models side by side, window by window."""

    def __init__(self, a: Backend, b: Backend) -> None:
        self._recorders = _Recorder(a), _Recorder(b)
        # One window at a time, so that what a recorder holds belongs to the window that has just come out.
        self._segmenters = [Segmenter(recorder, batch_size=1) for recorder in self._recorders]
        self._same_windows = a.input_shape[1:] == b.input_shape[1:]

    def difference(
        self, name: str, source: ImageSource
    ) -> tuple[TileDifference, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Both label maps of a picture, and how they differ."""
        labels = np.empty((2, source.height, source.width), np.uint8)
        largest, scale, total, count = 0.0, 0.0, 0.0, 0
        walks = [segmenter.segment_tiles(source) for segmenter in self._segmenters]
        if self._same_windows:
            for (window, first), (_, second) in zip(*walks, strict=True):
                labels[0][window.slices], labels[1][window.slices] = first, second
                ours, theirs = (recorder.take() for recorder in self._recorders)
                if ours is not None and theirs is not None:
                    error = np.abs(ours.astype(np.float64) - theirs)
                    worst = float(error.max())
                    # A comparison with NaN is false, so it would pass for small.
                    largest = max(largest, worst) if np.isfinite(worst) else float("inf")
                    scale = max(scale, float(np.abs(ours).max()))
                    total, count = total + float(error.sum()), count + error.size
        else:
            for side, walk in enumerate(walks):
                for window, part in walk:
                    labels[side][window.slices] = part
        known = count > 0 and scale > 0
        # Both are without data in the same places, where there is nothing to agree on.
        data = labels[0] != IGNORE
        result = TileDifference(
            name,
            int(data.sum()),
            int((labels[0] == labels[1])[data].sum()),
            largest / scale if known else None,
            total / count / scale if known else None,
        )
        return result, labels[0], labels[1]


def label_maps(a: Backend, b: Backend, source: ImageSource) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The label maps, uint8 H x W, that two models give for one picture."""
    _, first, second = _Pair(a, b).difference("", source)
    return first, second


def _sources(
    pictures: npt.NDArray[np.uint8] | Iterable[LabelledTile],
) -> Iterator[tuple[str, ImageSource, LabelledTile | None]]:
    if isinstance(pictures, np.ndarray):
        for index, picture in enumerate(pictures):
            yield f"tile {index}", ArraySource(picture), None
        return
    for tile in pictures:
        yield tile.name, tile.source(), tile


def _json(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


__all__: Sequence[str] = ["TOLERANCES", "Comparison", "TileDifference", "Tolerance", "check_same_task", "compare"]
