"""SIGTERM to `emra stream`: how long does it take, and is the overlay whole?"""

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
"""Seconds from the signal to the end of the process that are promised."""


def stop_many(url: str, model: str | None, folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Start the command on a live source with an overlay, and end it at a random moment, again and again.

    Args:
        url: A live source.
        model: Model file, or None for the shipped one.
        folder: Where overlays go.
        times: How often.
        seed: Of the moments.
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
    """Seconds to the exit, its status, and pictures that the command says it wrote."""
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
    """Pictures in a video; -1 where there is none."""
    import av

    if not path.exists():
        return -1
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
