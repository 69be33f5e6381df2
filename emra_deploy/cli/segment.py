"""``emra segment``: an image file in; a label map, an overlay and areas out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from emra_deploy.cli.model_options import add_model_arguments, load_options
from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from emra_deploy.maps.report import MapReport

LINES_EVERY = 60.0
"""Seconds from one line of progress to the next, where there is no terminal for a bar."""

HELP = "Segment a JPEG, PNG, TIFF or GeoTIFF into a label map."


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add = parser.add_argument
    add("input", type=str, help="JPEG, PNG, TIFF or GeoTIFF; EXIF rotation is applied, transparency is no data")
    add("--output", "-o", type=str, required=True, help="label map: .tif (GeoTIFF, nodata 255) or .png (palette)")
    add("--model", "-m", type=str, default=None, help="model file (default: the one that comes with the package)")
    add(
        "--overlay",
        type=str,
        default=None,
        help=".png of the classes over the picture, with legend, of at most 4096 pixels a side (TIFF: 2048)",
    )
    add(
        "--polygons",
        type=str,
        default=None,
        help=".gpkg (in the raster's coordinates) or .geojson (in degrees) of the outlines of classes",
    )
    add("--polygon-classes", type=str, metavar="NAME,NAME", default=None, help="classes to outline (default: all)")
    add("--min-area", type=float, metavar="M2", default=0.0, help="least area of a polygon in square metres")
    add("--min-pixels", type=int, metavar="N", default=1, help="least area of a polygon in pixels (default: 1)")
    add("--opacity", type=float, default=0.5, help="weight of the overlay's colours, 0 to 1 (default: 0.5)")
    add("--dry-run", action="store_true", help="say how many tiles, how much memory and how long; write nothing")
    add("--overwrite", action="store_true", help="replace existing outputs, which are kept otherwise")
    add("--json", action="store_true", help="print one JSON object on stdout; progress stays on stderr")
    add(
        "--scale",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        default=None,
        help="for 16-bit and float pictures: the values that become black and white",
    )
    add("--bands", type=str, metavar="R,G,B", default=None, help="band numbers of a TIFF, from 1, such as 3,2,1")
    add(
        "--gsd",
        type=str,
        metavar="METRES|auto|off",
        default="auto",
        help="size of a pixel on the ground; where it and the model's are known (auto: from the georeference) and "
        "differ, the model sees the picture at its own",
    )
    add(
        "--journal",
        type=str,
        choices=("auto", "on", "off"),
        default="auto",
        help="keep the finished rows of a .tif beside the output, so that the same command goes on after a kill "
        "(default: auto, for rasters of 64 megapixels and more)",
    )
    add_model_arguments(parser)
    add(
        "--blend",
        action="store_true",
        help="average tiles that overlap by half (--halo: by other amounts) instead of joining them; better and slower",
    )


def run(options: Namespace) -> int:
    """Do it and print the result."""
    bands = None if options.bands is None else _parse_bands(options.bands)
    if options.dry_run:
        return _dry_run(options, bands)
    from emra_deploy.cli.allocator import return_large_arrays
    from emra_deploy.maps.job import segment_file

    return_large_arrays()
    with _progress() as progress:
        report = segment_file(
            **_settings(options, bands),
            opacity=options.opacity,
            polygon_classes=_parse_names(options.polygon_classes),
            min_pixels=options.min_pixels,
            min_area=options.min_area,
            journal=options.journal,
            progress=progress,
        )
    if options.json:
        print(json.dumps(report.to_dict()))
    else:
        _show(report)
    return 0


def _settings(options: Namespace, bands: tuple[int, ...] | None) -> dict[str, Any]:
    """What a map and the plan of it are told alike."""
    from emra_deploy.pictures.scaling import Scale

    files = ("input", "output", "model", "overlay", "polygons", "overwrite")
    names = (*files, "halo", "blend", "gsd")
    scale = None if options.scale is None else Scale(*options.scale)
    chosen = {name: options[name] for name in names}
    return {**chosen, "options": load_options(options), "bands": bands, "scale": scale}


def _dry_run(options: Namespace, bands: tuple[int, ...] | None) -> int:
    from emra_deploy.maps.job import plan_file

    plan = plan_file(**_settings(options, bands))
    if options.json:
        print(json.dumps(plan.to_dict()))
        return 0
    how = "averaged" if plan.blend else "joined"
    memory = "unknown on this system" if plan.memory_bytes is None else f"about {plan.memory_bytes / 2**20:,.0f} MiB"
    print(f"picture  {plan.width:,} x {plan.height:,} pixels")
    print(f"tiles    {plan.tiles:,} of {plan.tile[1]} x {plan.tile[0]} pixels, overlapping by {2 * plan.halo}, {how}")
    print(f"model    {plan.model['name']} ({plan.model['precision']}), {1000 * plan.seconds_per_tile:.1f} ms a tile")
    print(f"time     about {_duration(plan.seconds)}, less for tiles without data")
    print(f"memory   {memory}")
    print(f"disk     at most {plan.output_bytes / 2**20:,.0f} MiB for the map, before compression")
    print("nothing was written")
    return 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _parse_bands(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise EmraError(
            "image-bands", f"bands {text!r}, expected three numbers such as 3,2,1", "Correct --bands"
        ) from error


def _parse_names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


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
    """Progress for a file or a pipe: a line now and then."""
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
        console.print(f"no square metres: {report.area_note}")
    console.print(f"map      {report.output}  ({report.width} x {report.height} pixels)")
    if report.overlay is not None:
        reduced = f"  (reduced {report.overlay_factor} times)" if report.overlay_factor > 1 else ""
        console.print(f"overlay  {report.overlay}{reduced}")
    if report.polygons is not None:
        console.print(f"polygons {report.polygons}  ({report.polygon_count:,})")
    if report.scale_factor != 1:
        console.print(f"scale    the model saw the picture enlarged {report.scale_factor:.3g} times, to its own GSD")
    if report.resumed_rows:
        console.print(f"journal  {report.resumed_rows:,} of {report.height:,} rows were done by an earlier run")
    if report.throttled:
        console.print(f"slowed   by {', '.join(report.throttled)}")
    ran = f"{report.backend.get('backend', '')} {report.backend.get('version', '')}".strip()
    console.print(
        f"model    {report.model['name']} ({report.model['precision']}) on {ran}, {report.seconds['total']:.1f} s"
    )
