"""The measurements of the precision table: accuracy, time on this processor, size of an engine.

Each measure of each file stands alone: what is missing on this machine, and what fails, becomes a `Missing` that says
why, and the others go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Plan
from emra_deploy.backends.base import Outputs
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.manifest import Manifest
from export.comparison import TileDifference, compare
from export.cost import Timing, Variant, open_cost_model
from export.model_file import read_model
from export.runners import OnnxRunner
from export.verify import NO_RTX, build_plan

LIBRARIES = {"onnxruntime": "cpu", "openvino": "openvino"}
"""What times are measured with, and the name that `export.cost` has for it."""

TIMING = Plan(iterations=30, warmup=2, rounds=10, settle=1)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """What was not measured.

    Attributes:
        why: In words.
        failed: Whether it went wrong, rather than that this machine lacks what it takes.
    """

    why: str
    failed: bool = True


@dataclass(frozen=True)
class Accuracy:
    """Of one file, on all pictures.

    Attributes:
        miou: 0 to 1.
        iou: By class, 0 to 1; NaN for classes that do not occur.
        agreement: Share of the labels that are those of the FP32 file.
        pixels: Compared.
    """

    miou: float
    iou: Mapping[str, float]
    agreement: float
    pixels: int


class Remembered:
    """A runner that labels each tile once: the reference is asked for the same ones by every comparison.

    Only labels are kept, a byte a pixel.

    Args:
        runner: Which it stands for.
    """

    def __init__(self, runner: OnnxRunner) -> None:
        self._runner = runner
        self._labels: dict[bytes, npt.NDArray[np.uint8]] = {}
        self.manifest = runner.manifest
        self.name = runner.name
        self.input_shape = runner.input_shape
        self.describe = runner.describe
        self.close = runner.close

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """uint8 B x H x W x 3 -> ``classes``, uint8 B x H x W."""
        key = hashlib.sha256(np.ascontiguousarray(batch)).digest()
        if key not in self._labels:
            self._labels[key] = self._runner.run(batch)["classes"]
        return {"classes": self._labels[key]}


def attempt(action: Callable[[], T]) -> T | Missing:
    """What the action gives, or why it gives nothing."""
    try:
        return action()
    except EmraError as error:
        return Missing(error.cause)
    except Exception as error:  # The libraries' own errors share no base but Exception.
        return Missing(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def measure_accuracy(
    files: Mapping[str, Path], pictures: Sequence[LabelledTile], progress: Progress
) -> dict[str, Accuracy | Missing]:
    """Scores of every file, and how many of its labels are the first one's.

    Args:
        files: By precision; the first is the reference.
        pictures: With labels.
        progress: See `Progress`.
    """
    reference = Remembered(_open(next(iter(files.values()))))

    def score(precision: str, path: Path) -> Accuracy:
        runner = reference if path is next(iter(files.values())) else _open(path)
        done = 0

        def step(tile: TileDifference) -> None:
            nonlocal done
            done += 1
            progress(f"scoring {precision.upper()}", done, len(pictures))

        progress(f"scoring {precision.upper()}", 0, len(pictures))
        found = compare(reference, runner, pictures, progress=step)
        if runner is not reference:
            runner.close()
        if found.scores is None:
            raise EmraError("table-data", "no pixel of the pictures has a label", "Choose another --split")
        scores = found.scores[1]
        return Accuracy(
            scores.miou, dict(zip(found.classes.names, scores.iou, strict=True)), found.agreement, found.pixels
        )

    results = {name: attempt(lambda name=name, path=path: score(name, path)) for name, path in files.items()}
    reference.close()
    return results


def measure_times(
    library: str, files: Mapping[str, Path], tile: npt.NDArray[np.uint8], progress: Progress, plan: Plan = TIMING
) -> tuple[dict[str, Timing | Missing], str]:
    """Seconds a tile of every file, and their ratio to the first, measured in turns in one process.

    Args:
        library: One of `LIBRARIES`.
        files: By precision; the first is what the others are compared with.
        tile: uint8 H x W x 3.
        progress: See `Progress`.
        plan: How often each is run.

    Returns:
        Times by precision, and what measured them, in words.
    """
    models = {name: read_model(path) for name, path in files.items()}
    first, manifest = next(iter(models)), next(iter(models.values()))[1]
    try:
        costs = open_cost_model(LIBRARIES[library], manifest, tile, "fp32", plan)
    except EmraError as error:
        return dict.fromkeys(files, Missing(error.cause, failed=False)), library

    def time_together(names: Sequence[str]) -> dict[str, Timing]:
        done, total = 0, len(names) * (plan.rounds + 1)

        def step() -> None:
            nonlocal done
            done += 1
            progress(f"timing in {library}", min(done, total), total)

        return costs.graphs({name: Variant(models[name][0], (), frozenset()) for name in names}, step)

    found = attempt(lambda: time_together(list(models)))
    if not isinstance(found, Missing):
        return dict(found), costs.description
    # One that this library cannot run would take the others with it: each beside the reference alone.
    alone: dict[str, Timing | Missing] = {}
    for name in models:
        pair = attempt(lambda name=name: time_together(list(dict.fromkeys([first, name]))))
        alone[name] = pair if isinstance(pair, Missing) else pair[name]
    return alone, costs.description


def measure_engine(path: Path, manifest: Manifest) -> Any:
    """The engine that TensorRT-RTX builds without a GPU: `export.verify.Plan`, or `Missing`."""
    plan = attempt(lambda: build_plan(path, manifest.input_shape[0]))
    return Missing(NO_RTX, failed=False) if plan is None else plan


def _open(path: Path) -> OnnxRunner:
    return OnnxRunner(*read_model(path))
