"""Runs map jobs for the tests, as a program does that has a model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emra_deploy.maps.job import MapJob
from emra_deploy.maps.report import MapReport
from emra_deploy.maps.run import make_map
from emra_deploy.segmenting.segmenter import Segmenter


def run_job(
    source: Path,
    output: Path,
    model: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    halo: int | None = None,
    blend: bool = False,
    **settings: object,
) -> MapReport:
    """The map of ``source`` by ONNX Runtime on one thread; ``settings`` are those of `MapJob`."""
    job = MapJob(source, output, **settings)  # type: ignore[arg-type]
    with Segmenter.open(model, backend="onnxruntime", threads=1, halo=halo, blend=blend) as segmenter:
        return make_map(job, segmenter, progress)
