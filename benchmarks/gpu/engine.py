"""A model file as an engine, through the runtime's own TensorRT backend: built, checked and timed on this GPU.

Runs in a separate process (``python -m benchmarks.gpu.engine MODEL.onnx FOLDER``), which prints rows as JSON: the
library may be an unpacked wheel, and its faults can end the process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.library import PROJECT
from benchmarks.gpu.rows import Row

SECTION = "engine through the runtime's TensorRT backend"
BATCHES = (1, 4)
RUNS = 30


def measure_engine(model: Path, folder: Path, paths: Sequence[Path], seconds: float) -> list[Row]:
    """Rows of a model; reported without values where the library is missing or cannot use this GPU.

    Args:
        model: An ONNX file with a Manifest.
        folder: Holds the engine.
        paths: Python paths of the unpacked library; empty for an installed one.
        seconds: Time limit.
    """
    environment = {**os.environ}
    places = [*map(str, paths), str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    command = [sys.executable, "-m", "benchmarks.gpu.engine", str(model.resolve()), str(folder)]
    # A library from given wheels must work; an installed one may be absent.
    wanted = bool(paths)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=PROJECT, check=False
        )
    except subprocess.TimeoutExpired:
        return [Row(SECTION, model.name, None, note=f"not done after {seconds:.0f} s", required=wanted)]
    try:
        answers = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        words = " ".join(done.stderr.split())[-160:] or "no message"
        note = f"the process ended with {done.returncode}: {words}"
        return [Row(SECTION, model.name, None, note=note, required=wanted)]
    return [_row(answer, wanted) for answer in answers]


def _row(answer: dict[str, Any], wanted: bool) -> Row:
    required = bool(answer.get("wrong")) or wanted
    return Row(
        SECTION, answer["name"], answer["value"], answer.get("unit", ""), note=answer.get("note", ""), required=required
    )


def answers_of(model: Path, folder: Path) -> list[dict[str, Any]]:
    """Build, check and time; each answer has ``name``, ``value``, and perhaps ``unit``, ``note`` and ``wrong``.

    Raises:
        EmraError: The library is missing, does not build, or cannot use this GPU.
    """
    import numpy as np

    from benchmarks.candidates.files import TimedCuda
    from emra_deploy.backends.tensorrt.backend import TensorRTBackend
    from emra_deploy.backends.tensorrt.cuda import open_cuda
    from export.build_engine import build_engine

    begun = time.perf_counter()
    engine = build_engine(model, folder / f"{model.stem}.engine", max_batch=max(BATCHES), overwrite=True)
    found = [
        {"name": "build", "value": time.perf_counter() - begun, "unit": "s", "note": "; ".join(engine.lines)[:200]}
    ]
    clock: Any = TimedCuda(open_cuda())
    backend = TensorRTBackend(engine.path, cuda=clock)
    try:
        facts = backend.describe()
        found.append(_golden(backend, f"{facts['backend']} {facts['version']} on {facts['device']}"))
        _, height, width = backend.input_shape
        random = np.random.default_rng(0)
        for batch in BATCHES:
            pictures = random.integers(0, 256, (4, batch, height, width, 3), np.uint8)
            stages: dict[str, list[float]] = {}
            for number in range(RUNS + 5):
                clock.start()
                backend.run(pictures[number % len(pictures)])
                if number >= 5:
                    for stage, taken in clock.stages().items():
                        stages.setdefault(stage, []).append(taken)
            middle = {stage: statistics.median(times) for stage, times in stages.items()}
            note = ", ".join(f"{stage} {1e3 * taken:.2f}" for stage, taken in middle.items())
            found.append(
                {"name": f"batch {batch}", "value": 1e3 * sum(middle.values()), "unit": "ms", "note": f"ms: {note}"}
            )
        memory = backend.memory()
        if memory is not None:
            found.append({"name": "workspace", "value": memory / 1e6, "unit": "MB"})
    finally:
        backend.close()
    return found


def _golden(backend: Any, where: str) -> dict[str, Any]:
    from emra_deploy.errors import EmraError
    from emra_deploy.segmenting.selftest import self_test

    name = "golden tile, pixels that differ"
    try:
        differing = self_test(backend)
    except EmraError as error:
        return {"name": name, "value": None, "note": f"{where}: {error.cause}"[:200], "wrong": True}
    return {"name": name, "value": differing, "note": where if differing is not None else f"{where}: no golden tile"}


def main(argv: Sequence[str]) -> int:
    """Print the answers; an `EmraError` becomes an answer, too."""
    from emra_deploy.errors import EmraError

    model, folder = map(Path, argv)
    try:
        answers = answers_of(model, folder)
    except EmraError as error:
        answers = [{"name": model.name, "value": None, "note": f"{error.code}: {error.cause}"[:200]}]
    # Libraries print on stdout; the answers are its last line.
    sys.stdout.write("\n" + json.dumps(answers) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
