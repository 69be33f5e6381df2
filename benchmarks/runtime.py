"""What the runtime costs around the model: import, cold start, tiling and IO, memory on large rasters.

    python -m benchmarks.runtime --model FILE [--image IMG] [--json FILE] [--skip raster]

Every figure is of fresh processes, the kinds interleaved, so that a slow minute of the machine falls on all of them;
medians are reported. Peak memory is that of the process, from the kernel.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emra_deploy.host.command import command
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output, check_all_outputs

PARTS = ("import", "cold", "overhead", "raster")

_BARE = """
import json, sys, time
import numpy as np
from PIL import Image
from emra_deploy.backends.opening import open_backend
from emra_deploy.pictures.images import read_image
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import iter_tiles
backend = open_backend(sys.argv[1], threads=int(sys.argv[3]) or None)
segmenter = Segmenter(backend)
image = read_image(sys.argv[2])
_, height, width = backend.input_shape
tiles = []
for tile in iter_tiles(*image.shape[:2], height, width, segmenter.halo):
    padding = ((0, height - tile.read.height), (0, width - tile.read.width), (0, 0))
    tiles.append(np.pad(image[tile.read.slices], padding, mode="edge"))
size = segmenter.batch_size
batches = [np.stack(tiles[start : start + size]) for start in range(0, len(tiles), size)]
backend.run(batches[0])
start = time.perf_counter()
for batch in batches:
    backend.run(batch)
print(json.dumps({"seconds": time.perf_counter() - start, "tiles": len(tiles)}))
"""

# The peak of the command, or of it and the process that copies its map, added up, where that is more. Pages of files
# that both have mapped count twice.
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
    """Run each kind in turn, ``runs`` times over, after one run of each that is thrown away."""
    results: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(runs + 1):
        for name, measure in kinds.items():
            value = measure()
            if turn:
                results[name].append(value)
    return results


def timed(command: Sequence[str]) -> float:
    """Seconds of wall clock of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def summary(values: list[float]) -> dict[str, Any]:
    """Median and all values, rounded to a tenth of a millisecond."""
    return {"median": round(statistics.median(values), 4), "runs": [round(value, 4) for value in values]}


def emra(*arguments: object) -> list[str]:
    """The command line of ``emra ARGUMENTS`` with this interpreter."""
    return [sys.executable, "-m", "emra_deploy", *map(str, arguments)]


def sample_picture(path: Path, height: int, width: int) -> None:
    """A picture that compresses like a photograph: smooth ground with noise."""
    from PIL import Image

    Image.fromarray(_ground(np.random.default_rng(0), 0, height, width)).save(path)


def _ground(random: np.random.Generator, top: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[top : top + height, 0:width].astype(np.float32)
    waves = [np.sin(rows / (37 + 11 * band)) + np.cos(columns / (53 + 7 * band)) for band in range(3)]
    noise = random.integers(-12, 13, (height, width, 3), np.int16)
    return np.clip(np.stack(waves, axis=-1) * 50 + 128 + noise, 0, 255).astype(np.uint8)


def sample_raster(path: Path, side: int) -> None:
    """A tiled GeoTIFF of side x side pixels without empty blocks, written a row of blocks at a time."""
    import rasterio
    from rasterio.windows import Window

    random = np.random.default_rng(0)
    options = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "zlevel": 1,
    }
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.1, 0, 500_000, 0, -0.1, 2_800_000)}
    with (
        rasterio.Env(GDAL_CACHEMAX=64 * 2**20),
        rasterio.open(
            path, "w", width=side, height=side, count=3, dtype="uint8", bigtiff="IF_SAFER", **options, **place
        ) as raster,
    ):
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


def measure_overhead(model: Path, image: Path, folder: Path, runs: int, threads: int) -> dict[str, Any]:
    """``emra segment`` on a picture over the bare backend on the same tiles.

    Two ratios: ``segment``, the job after loading (reading tiles, running, stitching, writing), and ``total``, which
    adds decoding the picture, loading the model and its self-test.
    """
    command = emra(
        "segment", image, "-m", model, "-o", folder / "large.png", "--overwrite", "--json", *_threads(threads)
    )
    bare = [sys.executable, "-c", _BARE, str(model), str(image), str(threads)]
    reports: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}

    def run_segment() -> float:
        reports.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        return float(reports[-1]["seconds"]["segment"])

    def run_bare() -> float:
        facts.update(json.loads(subprocess.run(bare, check=True, capture_output=True).stdout))
        return float(facts["seconds"])

    results = interleaved({"segment": run_segment, "bare": run_bare}, runs)
    totals = [float(report["seconds"]["total"]) for report in reports[1:]]
    base = statistics.median(results["bare"])
    return {
        "image": image.name,
        "pixels": [reports[0]["height"], reports[0]["width"]],
        "tiles": facts["tiles"],
        "bare_seconds": summary(results["bare"]),
        "segment_seconds": summary(results["segment"]),
        "total_seconds": summary(totals),
        "ratio": round(statistics.median(results["segment"]) / base, 4),
        "total_ratio": round(statistics.median(totals) / base, 4),
    }


def measure_raster(model: Path, folder: Path, sizes: Sequence[int], threads: int, overlay: bool) -> dict[str, Any]:
    """Peak memory of ``emra segment`` for GeoTIFFs of several sizes; one run of each, as a peak does not scatter."""
    results: dict[str, Any] = {}
    for side in sizes:
        raster, labels = folder / f"{side}.tif", folder / f"{side}-labels.tif"
        sample_raster(raster, side)
        extra = ["--overlay", folder / f"{side}.png"] if overlay else []
        command = emra("segment", raster, "-m", model, "-o", labels, "--json", *extra, *_threads(threads))
        done = subprocess.run([sys.executable, "-c", _PEAK, *command], check=True, capture_output=True)
        content = json.loads(done.stdout)
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
        image: Picture for the overhead; a generated one of 2048 x 2048 when None.
        runs: Fresh processes for each figure.
        threads: Threads of the backend; 0 is its own choice.
        raster_sizes: Sides of the generated rasters in pixels.
        overlay: Whether the raster runs also make an overlay.
        skip: Names of parts to leave out, of `PARTS`.
        say: Called with a line for people as each part is done.

    Returns:
        JSON values: one entry for each part, and the machine.
    """
    report: dict[str, Any] = {
        # Names and hashes, not paths: a result file is published, and a path says nothing about a model.
        "model": {"name": model.name, "sha256": file_sha256(model)},
        "date": datetime.date.today().isoformat(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "cores": os.cpu_count(),
        },
    }
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
            report["overhead"] = measure_overhead(model, image, folder, runs, threads)
            part = report["overhead"]
            say(
                f"segment over bare backend: {part['ratio']:.3f} x ({part['tiles']} tiles, bare "
                f"{part['bare_seconds']['median']:.2f} s); with loading {part['total_ratio']:.3f} x"
            )
        if "raster" not in skip:
            report["raster"] = measure_raster(model, folder, raster_sizes, threads, overlay)
            for side, result in report["raster"]["sizes"].items():
                say(f"GeoTIFF of {side} x {side}: peak {result['peak_bytes'] / 2**20:.0f} MiB")
            say(f"largest over smallest peak: {report['raster']['ratio']:.3f} x")
    return report


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model file")
    parser.add_argument("--image", type=Path, default=None, help="picture for the overhead (default: generated)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes for each figure (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="threads of the backend (default: its choice)")
    parser.add_argument("--raster-sizes", type=int, nargs="+", default=[5_000, 20_000], metavar="SIDE")
    parser.add_argument("--overlay", action="store_true", help="make overlays in the raster runs, too")
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[], help="parts to leave out")
    options = parser.parse_args(argv)
    try:
        need("bench", "psutil", purpose="measuring", code="bench-missing")
        if "raster" not in options.skip:
            need("raster", "rasterio", purpose="measuring rasters (--skip raster leaves them out)")
        check_all_outputs([options.json], overwrite=options.overwrite, inputs=[options.model])
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
            with atomic_output(options.json, overwrite=options.overwrite) as part:
                part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except subprocess.CalledProcessError as error:
        # What the measured process said is the cause; some of these had their stderr kept from the terminal.
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        print(f"error: a measured process ended with status {error.returncode}\n{said}".rstrip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
