"""`kill -9` at random moments of a long map: every output is whole, and the next call resumes to the same bytes."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.reliability.board import Row, counted
from tests.reliability.jobs import Job

_PATIENCE = 600.0


def kill_many(
    job: Job, folder: Path, kills: int, seed: int, say: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, Any], list[Row]]:
    """Kill a job, check its outputs, let it finish; repeatedly.

    Args:
        job: The job to run.
        folder: For its outputs.
        kills: Number of jobs to kill.
        seed: Determines the moments.
        say: Called with a line of progress every ten kills.

    Raises:
        RuntimeError: The job fails without a kill.
    """
    chance = random.Random(seed)
    expected, lasted = _finish(job, folder / "whole")
    if set(expected) != set(job.outputs):
        raise RuntimeError(f"the job made {sorted(expected)}, expected {job.outputs}")
    wrong, unlike, resumed_rows, dead, before = [], [], 0, 0, 0
    place = folder / "killed"
    for turn in range(kills):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        # One or more kills in a row, each at its own moment; resumed runs are shorter, so moments fall earlier.
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            killed = _kill(job, place, chance.uniform(0.0, 1.05) * lasted)
            dead += killed
            before += not killed
            found = job.digests(place)
            wrong += [f"{turn}: {name}" for name, digest in found.items() if digest != expected[name]]
            resumed_rows += (place / f".{job.outputs[0]}.journal" / "state.json").exists()
            if job.outputs[0] in found:
                break
        # A finished output is kept; the next call replaces it, as a user would after `output-exists`.
        finished, _ = _finish(job, place, overwrite=True)
        unlike += [f"{turn}: {name}" for name in job.outputs if finished.get(name) != expected[name]]
        if (turn + 1) % 10 == 0:
            say(f"  {turn + 1} killed, {len(wrong)} wrong, {len(unlike)} not the same after resuming")
    content = {
        "kills": kills,
        "signals": dead,
        "ended_before_the_signal": before,
        "left_a_journal": resumed_rows,
        "seconds_alone": lasted,
        "wrong": wrong,
        "not_identical": unlike,
        "outputs": list(job.outputs),
    }
    figure = (
        f"{len(wrong)} wrong outputs, {len(unlike)} not byte-identical after resuming; {resumed_rows} left a journal"
    )
    rows = [counted("kill -9", kills, len(wrong) + len(unlike), figure, "0 wrong, resumed bytes identical")]
    return content, rows


def _kill(job: Job, folder: Path, after: float) -> bool:
    """Kill the job after some seconds; returns whether it was still running."""
    with job.start(folder) as process:
        time.sleep(after)
        running = process.poll() is None
        process.kill()
        process.communicate()
    return running


def _finish(job: Job, folder: Path, overwrite: bool = False) -> tuple[dict[str, str], float]:
    """Run the job to its end; returns the digests of its outputs and its seconds."""
    folder.mkdir(exist_ok=True)
    if overwrite:
        job = replace(job, words=(*job.words, "--overwrite"))
    times = []
    for _ in range(1 if overwrite else 2):
        began = time.monotonic()
        for name in () if overwrite else job.outputs:
            (folder / name).unlink(missing_ok=True)
        with job.start(folder) as process:
            _, said = process.communicate(timeout=_PATIENCE)
        if process.returncode:
            raise RuntimeError(f"the job ended with {process.returncode}: {said[-800:]}")
        times.append(time.monotonic() - began)
    return job.digests(folder), statistics.median(times)
