"""The measurements of the precision table: accuracy, time on this processor, size of an engine.

Each measure of each file stands alone: what is missing on this machine, and what fails, becomes a `Missing` that says
why, and the others go on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend, Outputs, Wrapper
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.model_file.manifest import Manifest
from export.compare.comparison import TileDifference, compare
from export.compare.runners import OnnxRunner
from export.compare.verify import NO_RTX, build_plan
from export.graphs.model_file import read_model
from export.int8.cost import Timing
from export.measure import Plan, Series, measure, paired_ratio
from export.measure.noise import PROBE, Noise, Probe, Watch

LIBRARIES = ("onnxruntime", "openvino")
"""Backends that times are measured with."""

STAGE = "end_to_end"

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


class Remembered(Wrapper):
    """Labels each tile once: the reference is asked for the same ones by every comparison.

    Only labels are kept, a byte a pixel.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._labels: dict[bytes, npt.NDArray[np.uint8]] = {}

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """uint8 B x H x W x 3 -> ``classes``, uint8 B x H x W."""
        key = hashlib.sha256(np.ascontiguousarray(batch)).digest()
        if key not in self._labels:
            self._labels[key] = super().run(batch)["classes"]
        return {"classes": self._labels[key]}


def attempt(action: Callable[[], T]) -> T | Missing:
    """What the action gives, or why it gives nothing."""
    try:
        return action()
    except EmraError as error:
        return Missing(error.cause, failed=error.code != "backend-missing")
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


@dataclass(frozen=True)
class Times:
    """Of every file in one library.

    Attributes:
        times: By precision; ratios are to the first.
        how: What measured them, in words; empty where nothing did.
        noise: What the machine did meanwhile, or None.
    """

    times: Mapping[str, Timing | Missing]
    how: str = ""
    noise: Noise | None = None


def measure_times(
    library: str, files: Mapping[str, Path], tile: npt.NDArray[np.uint8], progress: Progress, plan: Plan = TIMING
) -> Times:
    """Seconds a tile as the runtime runs the files, in turns in one process.

    Args:
        library: One of `LIBRARIES`.
        files: By precision; the first is what the others are compared with.
        tile: uint8 H x W x 3.
        progress: See `Progress`.
        plan: How often each is run.
    """
    opened = {name: attempt(lambda path=path: open_backend(path, backend=library)) for name, path in files.items()}
    backends = {name: backend for name, backend in opened.items() if not isinstance(backend, Missing)}
    times: dict[str, Timing | Missing] = {name: one for name, one in opened.items() if isinstance(one, Missing)}
    if not backends:
        return Times(times)
    done, total = 0, (len(backends) + 1) * (plan.rounds + 1)

    def step(number: int, name: str) -> None:
        nonlocal done
        done += 1
        progress(f"timing in {library}", min(done, total), total)

    probe, watch = Probe(), Watch()
    series = measure({**{name: _timed(one, tile) for name, one in backends.items()}, PROBE: probe}, plan, step)
    noise = watch.noise(series[PROBE].medians(STAGE))
    first = next(iter(files))
    base = series[first].medians(STAGE) if first in backends and series[first].failure is None else None
    facts = {name: backend.describe() for name, backend in backends.items()}
    for name, backend in backends.items():
        times[name] = _timing(series[name], None if name == first else base)
        backend.close()
    inside = ", ".join(
        f"the {name.upper()} file in {one['precision']}" for name, one in facts.items() if "precision" in one
    )
    version = next(iter(facts.values()))["version"]
    return Times(times, f"{version}, {inside}" if inside else version, noise)


def _timed(backend: Backend, tile: npt.NDArray[np.uint8]) -> Callable[[int], Mapping[str, float]]:
    batch = np.stack([tile] * (backend.input_shape[0] or 1))

    def once(_: int) -> Mapping[str, float]:
        start = time.perf_counter()
        backend.run(batch)
        return {STAGE: (time.perf_counter() - start) / len(batch)}

    return once


def _timing(series: Series, base: Sequence[float] | None) -> Timing | Missing:
    error = series.failure
    if error is not None:
        return Missing(error.cause if isinstance(error, EmraError) else f"{type(error).__name__}: {error}"[:300])
    seconds = float(np.median(series.samples(STAGE)))
    return Timing(seconds, None if base is None else paired_ratio(series.medians(STAGE), base))


def measure_engine(path: Path, manifest: Manifest) -> Any:
    """The engine that TensorRT-RTX builds without a GPU: `export.compare.verify.Plan`, or `Missing`."""
    plan = attempt(lambda: build_plan(path, manifest.input_shape[0]))
    return Missing(NO_RTX, failed=False) if plan is None else plan


def _open(path: Path) -> OnnxRunner:
    return OnnxRunner(*read_model(path))
