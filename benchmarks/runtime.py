"""Costs of the runtime around the model: import, cold start, tiling and IO, memory on large rasters.

    python -m benchmarks.runtime --model FILE [--image IMG] [--json FILE] [--skip raster]

Every figure is a median over fresh processes. The kinds are interleaved, so that a slow minute of the machine affects
all of them. Peak memory is that of the process, from the kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.reporting.command import make_parser, start
from benchmarks.reporting.provenance import describe_file
from benchmarks.reporting.results import make_result, write_result
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import check_all_outputs

PARTS = ("import", "cold", "overhead", "raster")

# Tiles are read between runs and not timed: all of them at once would not fit into memory.
_BARE = """
import json, sys, time
import numpy as np
from emra_deploy.backends.opening import open_backend
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.windows import iter_tiles
from emra_deploy.segmenting.segmenter import Segmenter
model, picture, name, threads, size = sys.argv[1:]
backend = open_backend(model, backend=name, threads=int(threads) or None)
segmenter = Segmenter(backend, batch_size=int(size) or None)
_, height, width = backend.input_shape
seconds, tiles, waiting = 0.0, 0, []
def run():
    global seconds, tiles
    batch = np.stack(waiting)
    if not tiles:
        backend.run(batch)
    start = time.perf_counter()
    backend.run(batch)
    seconds += time.perf_counter() - start
    tiles += len(waiting)
    waiting.clear()
source = open_input(picture)
for tile in iter_tiles(source.height, source.width, height, width, segmenter.halo):
    padding = ((0, height - tile.read.height), (0, width - tile.read.width), (0, 0))
    waiting.append(np.pad(source.read(tile.read), padding, mode="edge"))
    if len(waiting) == segmenter.batch_size:
        run()
if waiting:
    run()
print(json.dumps({"seconds": seconds, "tiles": tiles, "batch": segmenter.batch_size}))
"""

# The peak of the command, or the sum of it and the process that copies its map, if that is more. File pages that both
# have mapped count twice.
_PEAK = """
import json, resource, subprocess, sys, time
import psutil

with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True) as process:
    together = 0
    while process.poll() is None:
        try:
            first = psutil.Process(process.pid)
            together = max(together, sum(one.memory_info().rss for one in [first, *first.children(recursive=True)]))
        except psutil.Error:
            pass
        time.sleep(0.01)
    said = process.stdout.read()
if process.returncode:
    sys.exit(process.returncode)
largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"bytes": max(largest, together), "largest_process_bytes": largest, "report": json.loads(said)}))
"""


def interleaved(kinds: dict[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Run each kind in turn, ``runs`` times over, after one discarded run of each."""
    results: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(runs + 1):
        for name, measure in kinds.items():
            value = measure()
            if turn:
                results[name].append(value)
    return results


def output_of(command: Sequence[str]) -> str:
    """Standard output of a process.

    Raises:
        EmraError: ``probe-failed``: the process fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        words = " ".join(done.stderr.split())[-500:] or "no message"
        raise EmraError(
            "probe-failed", f"A measured process ended with status {done.returncode}: {words}", "Correct this first"
        )
    return done.stdout


def timed(command: Sequence[str]) -> float:
    """Wall-clock seconds of one process."""
    start = time.perf_counter()
    output_of(command)
    return time.perf_counter() - start


def summary(values: list[float]) -> dict[str, Any]:
    """Median and all values, rounded to a tenth of a millisecond."""
    return {"median": round(statistics.median(values), 4), "runs": [round(value, 4) for value in values]}


def emra(*arguments: object) -> list[str]:
    """The command line of ``emra ARGUMENTS`` with this interpreter."""
    return [sys.executable, "-m", "emra_deploy", *map(str, arguments)]


def sample_picture(path: Path, height: int, width: int) -> None:
    """Write a picture that compresses like a photograph: smooth ground with noise."""
    from PIL import Image

    Image.fromarray(_ground(np.random.default_rng(0), 0, height, width)).save(path)


def _ground(random: np.random.Generator, top: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[top : top + height, 0:width].astype(np.float32)
    waves = [np.sin(rows / (37 + 11 * band)) + np.cos(columns / (53 + 7 * band)) for band in range(3)]
    noise = random.integers(-12, 13, (height, width, 3), np.int16)
    ground: npt.NDArray[np.uint8] = np.clip(np.stack(waves, axis=-1) * 50 + 128 + noise, 0, 255).astype(np.uint8)
    return ground


def sample_raster(path: Path, side: int) -> None:
    """Write a tiled GeoTIFF of side x side pixels without empty blocks, a row of blocks at a time."""
    import rasterio
    from rasterio.windows import Window

    random = np.random.default_rng(0)
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "bigtiff": "IF_SAFER"}
    options |= {"compress": "deflate", "zlevel": 1, "count": 3, "dtype": "uint8", "width": side, "height": side}
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.1, 0, 500_000, 0, -0.1, 2_800_000)}
    with rasterio.Env(GDAL_CACHEMAX=64 * 2**20), rasterio.open(path, "w", **options, **place) as raster:
        for top in range(0, side, 512):
            height = min(512, side - top)
            for left in range(0, side, 2048):
                width = min(2048, side - left)
                pixels = _ground(random, top, height, width).transpose(2, 0, 1)
                raster.write(pixels, window=Window(left, top, width, height))


def measure_import(runs: int) -> dict[str, Any]:
    """Seconds that ``import emra_deploy`` adds to the start of Python."""
    bare, ours = [sys.executable, "-c", "pass"], [sys.executable, "-c", "import emra_deploy"]
    results = interleaved({"python": lambda: timed(bare), "emra_deploy": lambda: timed(ours)}, max(runs, 7))
    differences = [ours - bare for ours, bare in zip(results["emra_deploy"], results["python"], strict=True)]
    return {"seconds": summary(differences), "with_python": summary(results["emra_deploy"])}


def measure_cold(model: Path, folder: Path, runs: int, threads: int) -> dict[str, Any]:
    """Seconds from the shell to the mask of a 512 x 512 picture, self-test included."""
    picture = folder / "small.png"
    sample_picture(picture, 512, 512)
    command = emra(
        "segment", picture, "-m", model, "-o", folder / "small-labels.png", "--overwrite", *_threads(threads)
    )
    help_command = emra("--help")
    results = interleaved({"segment": lambda: timed(command), "help": lambda: timed(help_command)}, runs)
    return {"seconds": summary(results["segment"]), "help_seconds": summary(results["help"])}


def pipeline_and_bare(
    model: Path, picture: Path, labels: Path, runs: int, *, threads: int = 0, batch: int = 0, words: Sequence[str] = ()
) -> tuple[dict[str, list[float]], list[dict[str, Any]], dict[str, Any]]:
    """Time ``emra segment`` and the bare backend that it chose, on the same tiles, in turns.

    Args:
        model: Model file.
        picture: Picture or raster.
        labels: Output of ``emra segment``.
        runs: Fresh processes of each; with one, no run is discarded.
        threads: Threads of the backend; 0 is its own choice.
        batch: Tiles run at once; 0 is the default.
        words: More arguments of ``emra segment``.

    Returns:
        Seconds of ``"pipeline"`` (after loading) and ``"bare"``; the reports of the command; tiles and batch.
    """
    command = emra("segment", picture, "-m", model, "-o", labels, "--overwrite", "--json", *words, *_threads(threads))
    command += ["--batch", str(batch)] if batch else []
    reports: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}

    def run_pipeline() -> float:
        reports.append(json.loads(output_of(command)))
        return float(reports[-1]["seconds"]["segment"])

    def run_bare() -> float:
        chosen = reports[-1]["backend"]["backend"]
        bare = [sys.executable, "-c", _BARE, *map(str, (model, picture, chosen, threads, batch))]
        facts.update(json.loads(output_of(bare)))
        return float(facts["seconds"])

    kinds = {"pipeline": run_pipeline, "bare": run_bare}
    times = interleaved(kinds, runs) if runs > 1 else {name: [run()] for name, run in kinds.items()}
    return times, reports[-runs:], facts


def measure_overhead(model: Path, image: Path, folder: Path, runs: int, threads: int) -> dict[str, Any]:
    """``emra segment`` on a picture over the bare backend on the same tiles.

    Two ratios: ``segment``, the job after loading (reading tiles, running, stitching, writing), and ``total``, which
    adds decoding the picture, loading the model and its self-test.
    """
    times, reports, facts = pipeline_and_bare(model, image, folder / "large.png", runs, threads=threads)
    totals = [float(report["seconds"]["total"]) for report in reports]
    base = statistics.median(times["bare"])
    return {
        "image": image.name,
        "pixels": [reports[0]["height"], reports[0]["width"]],
        "tiles": facts["tiles"],
        "bare_seconds": summary(times["bare"]),
        "segment_seconds": summary(times["pipeline"]),
        "total_seconds": summary(totals),
        "ratio": round(statistics.median(times["pipeline"]) / base, 4),
        "total_ratio": round(statistics.median(totals) / base, 4),
    }


def measure_raster(model: Path, folder: Path, sizes: Sequence[int], threads: int, overlay: bool) -> dict[str, Any]:
    """Peak memory of ``emra segment`` for GeoTIFFs of several sizes; one run of each, as peaks do not scatter."""
    results: dict[str, Any] = {}
    for side in sizes:
        raster, labels = folder / f"{side}.tif", folder / f"{side}-labels.tif"
        sample_raster(raster, side)
        extra = ["--overlay", folder / f"{side}.png"] if overlay else []
        command = emra("segment", raster, "-m", model, "-o", labels, "--json", *extra, *_threads(threads))
        content = json.loads(output_of([sys.executable, "-c", _PEAK, *command]))
        results[str(side)] = {
            "peak_bytes": content["bytes"],
            "largest_process_bytes": content["largest_process_bytes"],
            "seconds": content["report"]["seconds"],
            "raster_bytes": raster.stat().st_size,
        }
        for path in folder.glob(f"{side}*"):
            path.unlink()
    peaks = [results[str(side)]["peak_bytes"] for side in sizes]
    return {"overlay": overlay, "sizes": results, "ratio": round(max(peaks) / min(peaks), 4)}


def _threads(threads: int) -> list[str]:
    return ["--threads", str(threads)] if threads else []


def measure(
    model: Path,
    image: Path | None = None,
    *,
    runs: int = 5,
    threads: int = 0,
    raster_sizes: Sequence[int] = (5_000, 20_000),
    overlay: bool = False,
    skip: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure all parts that are not skipped.

    Args:
        model: Model file.
        image: Picture for the overhead; None generates one of 2048 x 2048.
        runs: Fresh processes for each figure.
        threads: Threads of the backend; 0 is its own choice.
        raster_sizes: Sides of the generated rasters in pixels.
        overlay: Whether the raster runs also make an overlay.
        skip: Parts to leave out, of `PARTS`.
        say: Called with a line of text after each part.

    Returns:
        JSON values: one entry for each part.
    """
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="emra-runtime-") as name:
        folder = Path(name)
        if "import" not in skip:
            report["import"] = measure_import(runs)
            say(f"import emra_deploy: {report['import']['seconds']['median']:.3f} s")
        if "cold" not in skip:
            report["cold"] = measure_cold(model, folder, runs, threads)
            say(f"shell to first 512 x 512 mask: {report['cold']['seconds']['median']:.2f} s")
        if "overhead" not in skip:
            if image is None:
                image = folder / "large-input.png"
                sample_picture(image, 2048, 2048)
            report["overhead"] = part = measure_overhead(model, image, folder, runs, threads)
            say(
                f"segment over bare backend: {part['ratio']:.3f} x ({part['tiles']} tiles, bare "
                f"{part['bare_seconds']['median']:.2f} s); with loading {part['total_ratio']:.3f} x"
            )
        if "raster" not in skip:
            report["raster"] = part = measure_raster(model, folder, raster_sizes, threads, overlay)
            for side, result in part["sizes"].items():
                say(f"GeoTIFF of {side} x {side}: peak {result['peak_bytes'] / 2**20:.0f} MiB")
            say(f"largest over smallest peak: {part['ratio']:.3f} x")
    return report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("runtime.py", __doc__)
    add = made.add_argument
    add("--model", type=Path, required=True, help="model file")
    add("--image", type=Path, help="picture for the overhead (default: generated)")
    add("--json", type=Path, help="write the figures to this file")
    add("--overwrite", action="store_true", help="replace an existing FILE")
    add("--runs", type=int, default=5, help="fresh processes for each figure (default: 5)")
    add("--threads", type=int, default=0, help="threads of the backend (default: its choice)")
    add("--raster-sizes", type=int, nargs="+", default=[5_000, 20_000], metavar="SIDE")
    add("--overlay", action="store_true", help="make overlays in the raster runs, too")
    add("--skip", nargs="+", choices=PARTS, default=[], help="parts to leave out")
    return made


def run(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    need("bench", "psutil", purpose="measuring")
    if "raster" not in options.skip:
        need("raster", "rasterio", purpose="measuring rasters (--skip raster leaves them out)")
    check_all_outputs([options.json], overwrite=options.overwrite, inputs=[options.model])
    described = describe_file(options.model)
    report = measure(
        options.model.resolve(),
        None if options.image is None else options.image.resolve(),
        runs=options.runs,
        threads=options.threads,
        raster_sizes=options.raster_sizes,
        overlay=options.overlay,
        skip=options.skip,
        say=lambda line: print(line, flush=True),
    )
    if options.json is not None:
        result = make_result("runtime", "runtime.py", options.argv, report, models=[described])
        write_result(options.json, result, overwrite=options.overwrite)
    return 0


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
