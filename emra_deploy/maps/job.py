"""From an image file to a label map, an overlay and areas: the whole job, streamed row by row."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.options import DEFAULTS, LoadOptions
from emra_deploy.errors import EmraError
from emra_deploy.host.files import atomic_output, check_input, writing
from emra_deploy.host.slow_steps import step
from emra_deploy.host.throttling import ThrottleWatch
from emra_deploy.maps.journal import Journal, describe_job
from emra_deploy.maps.outputs import check_outputs, open_sink
from emra_deploy.maps.report import MapReport
from emra_deploy.maps.tiles import estimate_tiles
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.scaling import Scale
from emra_deploy.segmenting.areas import class_areas, count_labels

if TYPE_CHECKING:
    from emra_deploy.maps.label_files import LabelSink
    from emra_deploy.maps.plan import MapPlan
    from emra_deploy.maps.preview import Preview
    from emra_deploy.maps.resampling import ResampledSource
    from emra_deploy.pictures.georeference import GeoReference
    from emra_deploy.pictures.sources import ArraySource
    from emra_deploy.pictures.windows import Window
    from emra_deploy.segmenting.segmenter import Segmenter

JOURNAL_PIXELS = 2**26
"""From this many pixels on, minutes of work, an unfinished map is kept to be gone on with."""

JOURNAL_CHOICES = ("auto", "on", "off")

MAX_PNG_PIXELS = 2**26
"""Largest label map of a TIFF that is written as PNG, which has to be gathered in memory."""


def plan_file(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    overlay: str | os.PathLike[str] | None = None,
    polygons: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    options: LoadOptions = DEFAULTS,
    halo: int | None = None,
    blend: bool = False,
    gsd: float | str = "auto",
    bands: Sequence[int] | None = None,
    scale: Scale | None = None,
    **changes: Any,
) -> MapPlan:
    """What `segment_file` with the same arguments would cost; nothing is written.

    Raises:
        EmraError: What `segment_file` would raise before its work.
    """
    options = replace(options, **changes)
    model = _model_or_shipped(model)
    check_input(input)
    check_outputs(input, model, output, overlay, polygons, overwrite)
    from emra_deploy.maps.plan import plan_map
    from emra_deploy.segmenting.segmenter import Segmenter

    with ExitStack() as stack:
        source = open_input(input, bands=bands, scale=scale)
        if isinstance(source, RasterSource):
            stack.enter_context(source)
        segmenter = stack.enter_context(
            Segmenter.open(
                model,
                replace(options, tiles=estimate_tiles(source, model, halo, blend)),
                halo=halo,
                blend=blend,
            )
        )
        georeference = source.georeference if isinstance(source, RasterSource) else None
        return plan_map(_resampled(source, segmenter, gsd, georeference) or source, segmenter)


def segment_file(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    overlay: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    options: LoadOptions = DEFAULTS,
    halo: int | None = None,
    blend: bool = False,
    gsd: float | str = "auto",
    bands: Sequence[int] | None = None,
    scale: Scale | None = None,
    opacity: float = 0.5,
    polygons: str | os.PathLike[str] | None = None,
    polygon_classes: Sequence[str] | None = None,
    min_pixels: int = 1,
    min_area: float = 0.0,
    journal: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> MapReport:
    """Segment an image file into a label map.

    A TIFF is read and a ``.tif`` is written by windows, so memory does not grow with the picture. Nothing is read
    before the outputs are known to be possible, and no output appears before the whole job is done.

    Args:
        input: JPEG, PNG, TIFF or GeoTIFF.
        output: ``.tif`` for a label raster with the input's georeference, ``.png`` for a palette picture.
        model: Model file; None for the shipped one.
        overlay: ``.png`` of the classes over the picture with a legend, at most 4096 pixels a side, of a TIFF 2048.
        overwrite: Whether existing outputs may be replaced.
        options: How the model file is opened.
        halo: Overlap of tiles in pixels.
        blend: Average overlapping tiles instead of joining them; see `Segmenter`.
        gsd: Ground sample distance of the picture in metres a pixel, ``"auto"`` to take it from its georeference, or
            ``"off"``. Where it and the model's are known and differ, the model sees the picture resampled to its own;
            the map has the picture's grid all the same.
        bands: Band numbers of red, green and blue, for a TIFF.
        scale: Range of values to stretch to 8 bits.
        opacity: Of the overlay's colours, 0 to 1.
        polygons: ``.gpkg`` or ``.geojson`` for the outlines of classes; needs a ``.tif`` output.
        polygon_classes: Names of the classes that are outlined; None for all.
        min_pixels: Least area of a polygon in pixels.
        min_area: Likewise in square metres, for rasters whose pixels have a known size.
        journal: ``"on"`` keeps the finished rows of a run that is killed beside the output, for the same call to go on
            with, to the same bytes; ``"auto"`` does so for rasters of `JOURNAL_PIXELS` and more; ``"off"``.
        progress: Called with the rows done and the rows in all.
        **changes: Attributes of `LoadOptions` that differ from ``options``.

    Raises:
        EmraError: Whatever is wrong with files, model or arguments; then no output has changed.
    """
    start = time.perf_counter()
    options = replace(options, **changes)
    model = _model_or_shipped(model)
    check_input(input)
    as_raster = check_outputs(input, model, output, overlay, polygons, overwrite)
    if journal not in JOURNAL_CHOICES:
        raise EmraError("journal", f"journal {journal!r}, expected {', '.join(JOURNAL_CHOICES)}", "Correct it")
    if not 0.0 <= opacity <= 1.0:
        raise EmraError("opacity-range", f"opacity {opacity}, expected 0 to 1", "Correct it")
    with ExitStack() as kept, ExitStack() as stack:
        source = open_input(input, bands=bands, scale=scale)
        raster = source if isinstance(source, RasterSource) else None
        if raster is not None:
            stack.enter_context(raster)
            if not as_raster and raster.height * raster.width > MAX_PNG_PIXELS:
                raise EmraError(
                    "output-too-large",
                    f"{source.width} x {source.height} pixels are too many for a PNG, which is made in memory",
                    "Give an output that ends in .tif, and --overlay for a picture of it",
                    output,
                )
        georeference = None if raster is None else raster.georeference
        # Made before the model is loaded: a folder that takes no file shall not cost minutes.
        part, over, outlines = (
            None if path is None else stack.enter_context(atomic_output(path, overwrite=overwrite))
            for path in (output, overlay, polygons)
        )
        assert part is not None
        from emra_deploy.segmenting.segmenter import Segmenter

        segmenter = stack.enter_context(
            Segmenter.open(
                model,
                replace(options, tiles=estimate_tiles(source, model, halo, blend)),
                halo=halo,
                blend=blend,
            )
        )
        request = None
        if outlines is not None:
            from emra_deploy.maps.polygons import PolygonRequest

            request = PolygonRequest.of(segmenter.classes, polygon_classes, min_pixels, min_area)
            request.check(georeference)
        resampled = _resampled(source, segmenter, gsd, georeference)
        factor = 1.0 if resampled is None else resampled.factor
        loaded = time.perf_counter()
        record = None
        if raster is not None and as_raster and (journal == "on" or (_is_long(raster) and journal == "auto")):
            # It goes last, when the outputs have their names.
            job = describe_job(input, model, segmenter, bands, scale, factor)
            record = kept.enter_context(Journal(Path(output), job, raster.height, raster.width))
        resumed = 0 if record is None else record.rows
        sink = open_sink(part, as_raster, source, segmenter, georeference)
        stack.callback(sink.close)
        watch = ThrottleWatch()
        run = partial(segmenter.segment_rows, source) if resampled is None else partial(resampled.rows, segmenter)
        rows = run() if record is None else record.go_on(run)
        preview = None if over is None else _preview(source, segmenter, opacity)
        counts = _stream(rows, source.height, sink, preview, progress, watch)
        with step(f"finishing {os.fspath(output)}"), writing(output):
            sink.finish()
        if preview is not None and over is not None and overlay is not None:
            with writing(overlay):
                preview.save(over, class_areas(counts, segmenter.classes, _pixel_area(georeference)[0]))
        found = 0
        if outlines is not None and request is not None:
            from emra_deploy.maps.polygons import write_polygons

            with step(f"outlining classes for {os.fspath(polygons or '')}"):
                found = write_polygons(part, outlines, segmenter.classes, georeference, request)
        done = time.perf_counter()
        facts = segmenter.backend.describe()
    area, note = _pixel_area(georeference)
    return MapReport(
        input=os.fspath(input),
        output=os.fspath(output),
        overlay=None if overlay is None else os.fspath(overlay),
        overlay_factor=1 if preview is None else preview.factor,
        polygons=None if polygons is None else os.fspath(polygons),
        polygon_count=found,
        resumed_rows=resumed,
        scale_factor=factor,
        height=source.height,
        width=source.width,
        classes=segmenter.classes,
        areas=class_areas(counts, segmenter.classes, area),
        no_data_pixels=int(counts[IGNORE]),
        area_note=note,
        model={
            "path": os.fspath(model),
            "name": segmenter.manifest.name,
            "precision": segmenter.manifest.precision,
        },
        backend=facts,
        throttled=watch.seen,
        seconds={
            "load": round(loaded - start, 4),
            "segment": round(done - loaded, 4),
            "total": round(time.perf_counter() - start, 4),
        },
    )


def _model_or_shipped(model: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    if model is not None:
        return model
    from emra_deploy.models import shipped_model

    return shipped_model()


def _resampled(
    source: ArraySource | RasterSource, segmenter: Segmenter, gsd: float | str, georeference: GeoReference | None
) -> ResampledSource | None:
    """The picture at the model's ground sample distance, or None where it stays as it is."""
    from emra_deploy.maps.resampling import ResampledSource, parse_gsd, picture_gsd, scale_factor

    if gsd == "off":
        return None
    known = picture_gsd(georeference) if gsd == "auto" else parse_gsd(gsd)
    factor = scale_factor(known, segmenter.manifest.gsd)
    return None if factor == 1 else ResampledSource(source, factor)


def _is_long(raster: RasterSource) -> bool:
    return raster.height * raster.width >= JOURNAL_PIXELS


def _preview(source: ArraySource | RasterSource, segmenter: Segmenter, opacity: float) -> Preview:
    from emra_deploy.maps.preview import MAX_SIDE, STREAMED_SIDE, Preview

    side = STREAMED_SIDE if isinstance(source, RasterSource) else MAX_SIDE
    return Preview(source, segmenter.classes, opacity, side)


def _stream(
    rows: Iterator[tuple[Window, npt.NDArray[np.uint8]]],
    height: int,
    sink: LabelSink,
    preview: Preview | None,
    progress: Callable[[int, int], None] | None,
    watch: ThrottleWatch,
) -> npt.NDArray[np.int64]:
    """Bring rows to the sink: counts of the 256 label values."""
    counts = np.zeros(256, np.int64)

    def take(window: Window, labels: npt.NDArray[np.uint8]) -> int:
        sink.write(labels)
        counts[:] += count_labels(labels)
        if preview is not None:
            preview.add(window.top, labels)
        return window.bottom

    def report(bottom: int) -> None:
        watch.look()
        if progress is not None:
            progress(bottom, height)

    # One row of tiles is compressed and written while the model runs on the next; no more than one waits.
    with ThreadPoolExecutor(1, thread_name_prefix="emra-write") as writer:
        written: Future[int] | None = None
        for window, labels in rows:
            if written is not None:
                report(written.result())
            written = writer.submit(take, window, labels)
        if written is not None:
            report(written.result())
    return counts


def _pixel_area(georeference: GeoReference | None) -> tuple[float | None, str | None]:
    if georeference is None:
        return None, "the picture has no coordinate reference system"
    return georeference.pixel_area_m2()
