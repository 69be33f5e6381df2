"""Orthomosaics: the cost of reading, stitching and writing compared with the model, and memory by raster size.

    python -m benchmarks.raster [--model FILE] [--side 10000] [--memory-sizes 10000 40000] [--json FILE]

Throughput: the bare backend's time over that of `emra segment` on the same tiles of one GeoTIFF, with journal and COG,
without loading; medians of fresh processes that take turns. Memory: peaks of `emra segment` with a model of one layer;
a larger model would hide the raster's share. A raster of 40,000 x 40,000 pixels takes 4.5 GB of disk.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting.command import make_parser, start
from benchmarks.reporting.provenance import describe_file
from benchmarks.reporting.results import make_result, write_result
from benchmarks.runtime import measure_raster, pipeline_and_bare, sample_raster, summary
from emra_deploy.host.extras import need
from emra_deploy.host.files import check_all_outputs
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.models import shipped_model

THROUGHPUT_GOAL, MEMORY_GOAL = 0.95, 1.05

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
        folder: Holds the raster and its map.
        side: Side of the raster in pixels.
        runs: Fresh processes of each.
        backend: Backend of both; with ``"auto"`` the bare run takes the command's choice.
        threads: Threads of the backend; 0 is its own choice.
        batch: Tiles run at once; 0 is the default.
    """
    raster, labels = folder / f"{side}.tif", folder / f"{side}-labels.tif"
    sample_raster(raster, side)
    # Resampling is separate work, and a bare backend would need it, too.
    words = ("--backend", backend, "--gsd", "off")
    times, reports, facts = pipeline_and_bare(model, raster, labels, runs, threads=threads, batch=batch, words=words)
    for path in folder.glob(f"{side}*"):
        path.unlink()
    # Ratios of one turn, so that a slow minute affects both.
    ratios = [bare / pipeline for bare, pipeline in zip(times["bare"], times["pipeline"], strict=True)]
    return {
        "side": side,
        "tiles": facts["tiles"],
        "batch": facts["batch"],
        "backend": reports[-1]["backend"],
        "pipeline_seconds": summary(times["pipeline"]),
        "bare_seconds": summary(times["bare"]),
        "ratio": round(statistics.median(ratios), 4),
    }


def measure(options: argparse.Namespace, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure the requested figures.

    Raises:
        EmraError: Those of loading a model, and ``probe-failed``.
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
    """True if a goal is missed."""
    slow = "throughput" in found and found["throughput"]["ratio"] < THROUGHPUT_GOAL
    return slow or ("memory" in found and found["memory"]["ratio"] > MEMORY_GOAL)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("raster.py", __doc__)
    add = made.add_argument
    add("--model", type=Path, help="model of the throughput (the shipped one)")
    add("--side", type=int, default=10_000, help="raster of the throughput; 0 leaves it out (10000)")
    add("--runs", type=int, default=3, help="processes for each of pipeline and backend (3)")
    add("--backend", default="auto", help="backend of the throughput (auto)")
    add("--threads", type=int, default=0, help="threads of the backend (its choice)")
    add("--batch", type=int, default=0, help="tiles run at once (the default)")
    add("--memory-sizes", type=int, nargs="*", default=[], metavar="SIDE", help="rasters of the memory")
    add("--scratch", type=Path, metavar="FOLDER", help="folder for rasters and maps")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--overwrite", action="store_true", help="replace an existing FILE")
    return made


def run(options: argparse.Namespace) -> int:
    """Measure, print and write; returns 1 if a goal is missed."""
    need("raster", "rasterio", purpose="measuring rasters")
    need("bench", "psutil", purpose="measuring")
    check_all_outputs([options.json], overwrite=options.overwrite)
    found = measure(options, lambda line: print(line, flush=True))
    if options.json is not None:
        models = [part["model"] for part in found.values()]
        result = make_result("raster", "raster.py", options.argv, found, models=models)
        write_result(options.json, result, overwrite=options.overwrite)
    return 1 if missed(found) else 0


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
