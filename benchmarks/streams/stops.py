"""SIGTERM to `emra stream`: time to exit, and wholeness of the overlay."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.streams.follow import PATIENCE, percentile

LIMIT = 2.0
"""Promised seconds from the signal to the end of the process."""


def stop_many(url: str, model: str | None, folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Start the command on a live source with an overlay, and end it at a random moment, repeatedly.

    Args:
        url: A live source.
        model: Model file, or None for the shipped one.
        folder: Holds the overlays.
        times: Number of repetitions.
        seed: Determines the moments.
    """
    chance = random.Random(seed)
    seconds, statuses, whole = [], [], 0
    for turn in range(times):
        overlay = folder / f"{turn}.mp4"
        took, status, written = _stop_one(url, model, overlay, chance.uniform(0.0, 1.0))
        seconds.append(took)
        statuses.append(status)
        whole += _decoded(overlay) == written
        overlay.unlink(missing_ok=True)
    return {
        "signals": times,
        "exit_p50": percentile(seconds, 0.5),
        "exit_max": max(seconds),
        "within_limit": sum(took <= LIMIT for took in seconds),
        "exit_status_0": statuses.count(0),
        "overlays_whole": whole,
        "left_over": len(list(folder.iterdir())),
    }


def _stop_one(url: str, model: str | None, overlay: Path, wait: float) -> tuple[float, int, int]:
    """Seconds to the exit, its status, and the number of pictures that the command reports."""
    command = [sys.executable, "-m", "emra_deploy", "stream", url, "--overlay", str(overlay), "--json"]
    command += [] if model is None else ["--model", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "frame":
                break
        time.sleep(wait)
        process.send_signal(signal.SIGTERM)
        since = time.monotonic()
        out, _ = process.communicate(timeout=PATIENCE)
        took = time.monotonic() - since
    finally:
        process.kill()
    end = json.loads(out.splitlines()[-1])
    return took, process.returncode, int(end.get("written", -1))


def _decoded(path: Path) -> int:
    """Number of pictures in a video; -1 without a file."""
    import av

    if not path.exists():
        return -1
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
