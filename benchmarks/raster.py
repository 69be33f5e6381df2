"""Orthomosaics: what reading, stitching and writing cost beside the model, and whether memory grows with the raster.

    python -m benchmarks.raster [--model FILE] [--side 10000] [--memory-sizes 10000 40000] [--json FILE]

Throughput: the bare backend's time over that of `emra segment`, on the same tiles of one GeoTIFF, journal and COG
included, loading left out; medians of fresh processes that take turns. Memory: peaks of `emra segment` with a model of
one layer, as a larger one would hide what the raster adds. A raster of 40,000 x 40,000 pixels takes 4.5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting.provenance import describe_file, describe_machine, describe_run, scrub
from benchmarks.runtime import emra, interleaved, measure_raster, sample_raster, summary
from emra_deploy.host.command import command
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output, check_all_outputs
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.models import shipped_model

THROUGHPUT_GOAL, MEMORY_GOAL = 0.95, 1.05

# The tiles are read between runs, not timed: all of them at once would not fit into memory.
_BARE = """
import json, sys, time
import numpy as np
from emra_deploy.backends.opening import open_backend
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.pictures.windows import iter_tiles
model, raster, name, threads, size = sys.argv[1:]
backend, manifest = open_backend(model, name, int(threads) or None)
segmenter = Segmenter(backend, manifest, batch_size=int(size) or None)
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
with RasterSource(raster) as source:
    for tile in iter_tiles(source.height, source.width, height, width, segmenter.halo):
        padding = ((0, height - tile.read.height), (0, width - tile.read.width), (0, 0))
        waiting.append(np.pad(source.read(tile.read), padding, mode="edge"))
        if len(waiting) == segmenter.batch_size:
            run()
    if waiting:
        run()
print(json.dumps({"seconds": seconds, "tiles": tiles, "batch": segmenter.batch_size}))
"""


_ONE_LAYER = """
<ir_version: 10, opset_import: ["": 18]>
one_layer (uint8[batch, 512, 512, 3] image) => (uint8[batch, 512, 512] classes)
<float[3, 3, 1, 1] weight = {1, 0, 0, 0, 1, 0, 0, 0, 1}>
{
    bytes = Cast <to = 1> (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (bytes)
    logits = Conv (planes, weight)
    index = ArgMax <axis = 1, keepdims = 0> (logits)
    classes = Cast <to = 2> (index)
}
"""


def write_one_layer(path: Path) -> None:
    """Write a model of one layer at 512 x 512: each pixel gets the index of its largest colour channel."""
    import onnx
    from onnx.parser import parse_model

    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    manifest = Manifest(
        name="one-layer",
        classes=ClassSet(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255))),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        backbone="none",
        hra_block=0,
        mca_blocks=1,
        fusion="product",
        aggregation="streamed",
        input_shape=(None, 512, 512),
        golden=GoldenTile.encode(picture, picture.argmax(axis=-1).astype(np.uint8), 0.0),
    )
    model = parse_model(_ONE_LAYER)
    onnx.helper.set_model_props(model, manifest.to_metadata())
    onnx.save_model(model, path)


def measure_throughput(
    model: Path, folder: Path, side: int, runs: int, *, backend: str = "auto", threads: int = 0, batch: int = 0
) -> dict[str, Any]:
    """`emra segment` on a GeoTIFF against the bare backend on the same tiles.

    Args:
        model: Model file.
        folder: For the raster and its map.
        side: Of the raster in pixels.
        runs: Fresh processes for each of the two, after one that is thrown away where there are several.
        backend: Of both; with ``"auto"`` the bare run takes the one that the command chose.
        threads: Threads of the backend; 0 is its own choice.
        batch: Tiles run at once; 0 is the default.
    """
    raster, labels = folder / f"{side}.tif", folder / f"{side}-labels.tif"
    sample_raster(raster, side)
    words = ["--threads", str(threads)] if threads else []
    words += ["--batch", str(batch)] if batch else []
    # Resampling is work of its own, and a bare backend would need it, too.
    command = emra(
        *("segment", raster, "-m", model, "-o", labels, "--backend", backend, "--gsd", "off"),
        *("--overwrite", "--json", *words),
    )
    reports: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}

    def run_pipeline() -> float:
        reports.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        return float(reports[-1]["seconds"]["segment"])

    def run_bare() -> float:
        chosen = reports[-1]["backend"]["backend"]
        bare = [sys.executable, "-c", _BARE, str(model), str(raster), chosen, str(threads), str(batch)]
        facts.update(json.loads(subprocess.run(bare, check=True, capture_output=True).stdout))
        return float(facts["seconds"])

    if runs > 1:
        times = interleaved({"pipeline": run_pipeline, "bare": run_bare}, runs)
    else:
        times = {"pipeline": [run_pipeline()], "bare": [run_bare()]}
    for path in folder.glob(f"{side}*"):
        path.unlink()
    return {
        "side": side,
        "tiles": facts["tiles"],
        "batch": facts["batch"],
        "backend": reports[-1]["backend"],
        "pipeline_seconds": summary(times["pipeline"]),
        "bare_seconds": summary(times["bare"]),
        # Of each turn, so that a slow minute falls on both.
        "ratio": round(
            statistics.median(b / p for b, p in zip(times["bare"], times["pipeline"], strict=True)),
            4,
        ),
    }


def measure(options: argparse.Namespace, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Both figures, as far as they are wanted.

    Raises:
        EmraError: Whatever is wrong with the model.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="emra-raster-", dir=options.scratch) as name:
        folder = Path(name)
        if options.side:
            model = shipped_model() if options.model is None else options.model
            part = measure_throughput(
                model,
                folder,
                options.side,
                options.runs,
                backend=options.backend,
                threads=options.threads,
                batch=options.batch,
            )
            found["throughput"] = {"model": describe_file(model), **part, "goal": THROUGHPUT_GOAL}
            say(
                f"{part['side']} x {part['side']}, {part['tiles']} tiles by {part['backend']['backend']}: bare "
                f"{part['bare_seconds']['median']:.1f} s, pipeline {part['pipeline_seconds']['median']:.1f} s: "
                f"{part['ratio']:.3f} x (goal >= {THROUGHPUT_GOAL:g})"
            )
        if options.memory_sizes:
            model = folder / "one-layer.onnx"
            write_one_layer(model)
            memory = measure_raster(model, folder, options.memory_sizes, options.threads, overlay=False)
            found["memory"] = {"model": describe_file(model), **memory, "goal": MEMORY_GOAL}
            for side, result in memory["sizes"].items():
                say(f"{side} x {side}: peak {result['peak_bytes'] / 2**20:.0f} MiB")
            say(f"largest over smallest peak: {memory['ratio']:.3f} x (goal <= {MEMORY_GOAL:g})")
    return found


def missed(found: dict[str, Any]) -> bool:
    """Whether a goal is missed."""
    slow = "throughput" in found and found["throughput"]["ratio"] < THROUGHPUT_GOAL
    return slow or ("memory" in found and found["memory"]["ratio"] > MEMORY_GOAL)


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the figures down. The exit status is 1 where a goal is missed."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="model of the throughput (the shipped one)")
    parser.add_argument("--side", type=int, default=10_000, help="raster of the throughput; 0 leaves it out (10000)")
    parser.add_argument("--runs", type=int, default=3, help="processes for each of pipeline and backend (3)")
    parser.add_argument("--backend", default="auto", help="backend of the throughput (auto)")
    parser.add_argument("--threads", type=int, default=0, help="threads of the backend (its choice)")
    parser.add_argument("--batch", type=int, default=0, help="tiles run at once (the default)")
    parser.add_argument("--memory-sizes", type=int, nargs="*", default=[], metavar="SIDE", help="rasters of the memory")
    parser.add_argument("--scratch", type=Path, default=None, metavar="FOLDER", help="for rasters and maps")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures there")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")
    options = parser.parse_args(words)
    try:
        need("raster", "rasterio", purpose="measuring rasters")
        need("bench", "psutil", purpose="measuring", code="bench-missing")
        check_all_outputs([options.json], overwrite=options.overwrite)
        found = measure(options, lambda line: print(line, flush=True))
        if options.json is not None:
            content = {**describe_run("raster.py", words), "machine": describe_machine(), **found}
            with atomic_output(options.json, overwrite=options.overwrite) as part:
                part.write_text(json.dumps(scrub(content), indent=1) + "\n", encoding="utf-8")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        print(f"error: a measured process ended with status {error.returncode}\n{said}".rstrip(), file=sys.stderr)
        return 2
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
