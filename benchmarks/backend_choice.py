"""Number of tiles from which a backend with a slower start pays off: the basis of `--backend auto` on processors.

    python -m benchmarks.backend_choice MODEL.onnx [MODEL.int8.onnx] [--rounds 5] [--tiles 4] [--threads 1]

Each model is opened and run in fresh processes, one for each backend in turn, round by round. Loading lasts from the
start of the process to an opened model; a tile is the median of the runs after the first. The command prints medians
over the rounds, of wall-clock and of processor time. On a shared machine, trust the processor time with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reporting.command import make_parser, start
from benchmarks.runtime import output_of
from emra_deploy.host.extras import need

EXTRAS = {"onnxruntime": "runtime", "openvino": "openvino"}
CANDIDATES = ("onnxruntime", "openvino", "openvino:fp32", "openvino:bf16")

_CHILD = """
import json, sys, time
from emra_deploy.backends.opening import open_backend
path, name, threads, tiles, began = sys.argv[1:]
name, _, precision = name.partition(":")
backend = open_backend(path, backend=name, threads=int(threads) or None, precision=precision or None)
loaded = time.time() - float(began), time.process_time()
import numpy as np
picture = np.random.default_rng(0).integers(0, 256, (1, *backend.manifest.tile, 3), np.uint8)
backend.run(picture)
runs = []
for _ in range(int(tiles)):
    start = time.perf_counter(), time.process_time()
    backend.run(picture)
    runs.append([time.perf_counter() - start[0], time.process_time() - start[1]])
print(json.dumps({"load": loaded, "runs": runs, "facts": backend.describe()}))
"""


def measure(model: Path, candidate: str, threads: int, tiles: int) -> dict[str, Any]:
    """Load and run once, in a fresh process."""
    command = [sys.executable, "-c", _CHILD, str(model), candidate, str(threads), str(tiles), repr(time.time())]
    found: dict[str, Any] = json.loads(output_of(command))
    return found


def break_even(load: tuple[float, float], tile: tuple[float, float]) -> str:
    """The tile from which the second of two candidates takes less time than the first, as text."""
    if tile[1] >= tile[0]:
        return "never" if load[1] >= load[0] else "slower from some point on"
    return f"from tile {max(1, math.ceil((load[1] - load[0]) / (tile[0] - tile[1])))} on"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("backend_choice.py", __doc__)
    add = made.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL.onnx")
    add("--rounds", type=int, default=5, help="fresh processes of each (5)")
    add("--tiles", type=int, default=4, help="measured runs of each process (4)")
    add("--threads", type=int, default=0, help="threads of one run (0: the backend's choice)")
    add("--candidates", default=",".join(CANDIDATES), help="backends; the others are compared with the first")
    return made


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    names = options.candidates.split(",")
    for name in names:
        library = name.partition(":")[0]
        if library in EXTRAS:
            need(EXTRAS[library], library, purpose=f"--candidates {name}")
    for model in options.models:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                found[name].append(measure(model, name, options.threads, options.tiles))
        print(f"{model.name}, {options.rounds} rounds, threads {options.threads or 'by the backend'}")
        for clock, title in enumerate(("wall clock", "processor time")):
            load = {name: statistics.median(one["load"][clock] for one in found[name]) for name in names}
            tile = {
                name: statistics.median(tile[clock] for one in found[name] for tile in one["runs"]) for name in names
            }
            first = names[0]
            for name in names:
                ratio = statistics.geometric_mean(
                    statistics.median(run[clock] for run in one["runs"])
                    / statistics.median(run[clock] for run in other["runs"])
                    for one, other in zip(found[name], found[first], strict=True)
                )
                even = "" if name == first else break_even((load[first], load[name]), (tile[first], tile[name]))
                print(
                    f"  {title:15} {name:14} loaded after {load[name]:6.2f} s, {1000 * tile[name]:7.1f} ms a tile,"
                    f" {ratio:5.2f} x of {first} {even}"
                )
    return 0


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
