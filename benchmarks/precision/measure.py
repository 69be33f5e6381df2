"""The measurements of the precision table: accuracy, time on this processor, size of an engine.

Each measurement of each file is independent: one that fails or is impossible on this machine becomes a `Missing` with
the reason, and the others continue.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError, one_line
from emra_deploy.evaluation import LabelledTile
from emra_deploy.model_file.manifest import Manifest
from export.compare.cached import Cached
from export.compare.comparison import compare
from export.compare.report import Report
from export.compare.runners import OnnxRunner
from export.compare.verify import NO_RTX, Engine, build_engine
from export.graphs.model_file import read_model
from export.int8.cost import Timing
from export.measure import Plan, Series, measure, paired_ratio
from export.measure.noise import PROBE, Noise, Probe, Watch

LIBRARIES = ("onnxruntime", "openvino")
"""Backends that times are measured with."""

STAGE = "end_to_end"

TIMING = Plan(iterations=30, warmup=2, rounds=10, settle=1)

Progress = Callable[[str, int, int], None]
"""Called with a step's name, the work done, and the work in all."""

T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """A measurement that is missing.

    Attributes:
        why: The reason, in words.
        failed: Whether it failed, as opposed to a machine that lacks a library.
    """

    why: str
    failed: bool = True


def attempt(action: Callable[[], T]) -> T | Missing:
    """The result of an action, or the reason for its absence."""
    try:
        return action()
    except EmraError as error:
        return Missing(error.cause, failed=error.code != "backend-missing")
    except Exception as error:  # The libraries' own errors share no base but Exception.
        return Missing(f"{type(error).__name__}: {one_line(error)}")


def measure_accuracy(
    files: Mapping[str, Path], pictures: Sequence[LabelledTile], progress: Progress
) -> dict[str, Report | Missing]:
    """Compare every file with the first, and score it.

    Args:
        files: By precision; the first is the reference.
        pictures: With labels.
        progress: See `Progress`.
    """
    reference = Cached(_open(next(iter(files.values()))), ("classes",))

    def score(precision: str, path: Path) -> Report:
        steps = itertools.count(1)
        text = f"scoring {precision.upper()}"
        progress(text, 0, len(pictures))
        runner = reference if path is next(iter(files.values())) else _open(path)
        report = compare(reference, runner, pictures, progress=lambda _: progress(text, next(steps), len(pictures)))
        if runner is not reference:
            runner.close()
        if report.scores is None:
            raise EmraError("no-labels", "no pixel of the pictures has a label", "Choose another --split")
        return report

    results = {name: attempt(partial(score, name, path)) for name, path in files.items()}
    reference.close()
    return results


@dataclass(frozen=True)
class Times:
    """Times of every file in one library.

    Attributes:
        times: By precision; ratios are to the first.
        how: The library and its precisions, in words; empty where nothing was measured.
        noise: Noise of the machine meanwhile, or None.
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
        files: By precision; the others are compared with the first.
        tile: uint8 H x W x 3.
        progress: See `Progress`.
        plan: Number of runs of each.
    """
    opened = {name: attempt(partial(_open_in, library, path)) for name, path in files.items()}
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


def measure_engine(path: Path, manifest: Manifest) -> Engine | Missing:
    """The engine that TensorRT-RTX builds without a GPU."""
    engine = attempt(lambda: build_engine(path, manifest.input_shape[0]))
    return Missing(NO_RTX, failed=False) if engine is None else engine


def _open(path: Path) -> OnnxRunner:
    return OnnxRunner(*read_model(path))


def _open_in(library: str, path: Path) -> Backend:
    return open_backend(path, backend=library)
