"""``emra segment``: segments an image file; writes a label map and optionally an overlay, and prints areas."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emra_deploy.backends.options import LoadOptions
from emra_deploy.cli.flags import add_flags, read_flags
from emra_deploy.cli.model_options import add_model_arguments
from emra_deploy.maps.job import MapJob

if TYPE_CHECKING:
    from pathlib import Path

    from jsonargparse import ArgumentParser, Namespace

    from emra_deploy.maps.estimate import MapEstimate
    from emra_deploy.maps.report import MapReport
    from emra_deploy.maps.run import PreparedMap
    from emra_deploy.segmenting.segmenter import Segmenter

LINES_EVERY = 60.0
"""Seconds between two lines of progress without a terminal."""

HELP = "Segment a JPEG, PNG, TIFF or GeoTIFF into a label map."


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add = parser.add_argument
    add_flags(parser, MapJob)
    add("--dry-run", action="store_true", help="estimate tiles, memory and time; write nothing")
    add("--json", action="store_true", help="print one JSON object on stdout; progress stays on stderr")
    add("--model", "-m", type=str, default=None, help="model file (default: the one that comes with the package)")
    add_model_arguments(parser)
    add(
        "--blend",
        action="store_true",
        help="average tiles that overlap by half (--halo: by other amounts) instead of joining them; better and slower",
    )


def run(options: Namespace) -> int:
    """Segment the file and print the result."""
    job = read_flags(options, MapJob)
    from emra_deploy.cli.allocator import return_large_arrays
    from emra_deploy.maps.report import MapReport
    from emra_deploy.maps.run import PreparedMap
    from emra_deploy.models import shipped_model

    return_large_arrays()
    model = shipped_model() if options.model is None else options.model
    with _progress() as progress, PreparedMap(job, model) as prepared, _open(options, model, prepared) as segmenter:
        result = prepared.estimate(segmenter) if options.dry_run else prepared.make(segmenter, progress)
    if options.json:
        print(json.dumps(result.to_dict()))
    elif isinstance(result, MapReport):
        _show(result)
    else:
        _show_estimate(result)
    return 0


def _open(options: Namespace, model: str | Path, prepared: PreparedMap) -> Segmenter:
    from emra_deploy.maps.tiles import estimate_tiles
    from emra_deploy.segmenting.segmenter import Segmenter

    tiles = estimate_tiles(prepared.source, model, options.halo, options.blend)
    load = replace(read_flags(options, LoadOptions), tiles=tiles)
    return Segmenter.open(model, load, halo=options.halo, blend=options.blend)


def _show_estimate(estimate: MapEstimate) -> None:
    joined = "averaged" if estimate.blend else "joined"
    memory = estimate.memory_bytes
    height, width = estimate.tile
    model = estimate.model
    print(f"picture  {estimate.width:,} x {estimate.height:,} pixels")
    print(f"tiles    {estimate.tiles:,} of {width} x {height} pixels, overlapping by {2 * estimate.halo}, {joined}")
    print(f"model    {model['name']} ({model['precision']}), {1000 * estimate.seconds_per_tile:.1f} ms a tile")
    print(f"time     about {_duration(estimate.seconds)}, less for tiles without data")
    print(f"memory   {'unknown on this system' if memory is None else f'about {memory / 2**20:,.0f} MiB'}")
    print(f"disk     at most {estimate.output_bytes / 2**20:,.0f} MiB for the map, before compression")
    print("nothing was written")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    if not sys.stderr.isatty():
        yield _progress_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading and testing the model", total=None)
        yield lambda done, total: bar.update(task, description="segmenting", completed=done, total=total)


def _progress_lines() -> Callable[[int, int], None]:
    """Progress for a file or a pipe: one line at a time, at intervals."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINES_EVERY:
            last = time.monotonic()
            print(f"emra: {done:,} of {total:,} rows", file=sys.stderr, flush=True)

    return report


def _show(report: MapReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    job = report.job
    metres = any(area.square_metres is not None for area in report.areas)
    table = Table(title=None, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, justify in (("", "left"), ("class", "left"), ("pixels", "right"), ("per cent", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    if metres:
        table.add_column("m²", justify="right")
    for area, colour in zip(report.areas, report.classes.palette, strict=True):
        row: list[Any] = [Text("██", style="rgb({},{},{})".format(*colour)), Text(area.name)]
        row += [f"{area.pixels:,}", f"{100 * area.fraction:.2f}"]
        if area.square_metres is not None:
            row.append(f"{area.square_metres:,.1f}")
        table.add_row(*row)
    if report.no_data_pixels:
        table.add_row("", "no data", f"{report.no_data_pixels:,}")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if report.area_note is not None:
        console.print(f"no square metres: {report.area_note}; --gsd METRES gives the size of a pixel")
    console.print(f"map      {os.fspath(job.output)}  ({report.width} x {report.height} pixels)")
    if job.overlay is not None:
        reduced = f"  (reduced {report.overlay_factor} times)" if report.overlay_factor > 1 else ""
        console.print(f"overlay  {os.fspath(job.overlay)}{reduced}")
    if job.polygons is not None:
        console.print(f"polygons {os.fspath(job.polygons)}  ({report.polygon_count:,})")
    if report.scale_factor != 1:
        console.print(f"scale    the model saw the picture enlarged {report.scale_factor:.3g} times, to its own GSD")
    if report.resumed_rows:
        console.print(f"journal  {report.resumed_rows:,} of {report.height:,} rows were resumed from an earlier run")
    if report.throttled:
        console.print(f"slowed   by {', '.join(report.throttled)}")
    ran = f"{report.backend.get('backend', '')} {report.backend.get('version', '')}".strip()
    console.print(
        f"model    {report.model['name']} ({report.model['precision']}) on {ran}, {report.seconds['total']:.1f} s"
    )
