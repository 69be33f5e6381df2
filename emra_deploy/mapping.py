"""From an image file to a label map, an overlay and areas: the whole job, streamed row by row."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emra_deploy.areas import ClassArea, class_areas, count_labels
from emra_deploy.classes import IGNORE, ClassSet
from emra_deploy.errors import EmraError
from emra_deploy.files import atomic_output, check_input, check_output
from emra_deploy.inputs import open_input
from emra_deploy.raster import RasterSource
from emra_deploy.scaling import Scale

if TYPE_CHECKING:
    from emra_deploy.georeference import GeoReference
    from emra_deploy.label_files import LabelSink
    from emra_deploy.segmenter import Segmenter
    from emra_deploy.sources import ArraySource

MAX_PNG_PIXELS = 2**26
"""Largest label map of a TIFF that is written as PNG, which has to be gathered in memory."""


@dataclass(frozen=True)
class MapReport:
    """What `segment_file` made.

    Attributes:
        input: The picture.
        output: The label map.
        overlay: The overlay, or None.
        overlay_factor: By how much the overlay is reduced; 1 is not at all.
        height: Rows of the map.
        width: Columns of the map.
        classes: Names and colours.
        areas: One per class, in label order.
        no_data_pixels: Pixels without data.
        area_note: Why there are no square metres, or None.
        model: Path, name and precision.
        backend: What ran the model.
        seconds: Of ``load`` (model and self-test), ``segment`` (reading, running, writing rows) and ``total``.
    """

    input: str
    output: str
    overlay: str | None
    overlay_factor: int
    height: int
    width: int
    classes: ClassSet
    areas: tuple[ClassArea, ...]
    no_data_pixels: int
    area_note: str | None
    model: dict[str, str]
    backend: dict[str, str]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        areas = [
            {
                "label": label,
                "name": area.name,
                "colour": list(self.classes.palette[label]),
                "pixels": area.pixels,
                "percent": 100 * area.fraction,
                "square_metres": area.square_metres,
            }
            for label, area in enumerate(self.areas)
        ]
        return {
            "input": self.input,
            "outputs": {"labels": self.output, "overlay": self.overlay, "overlay_factor": self.overlay_factor},
            "height": self.height,
            "width": self.width,
            "areas": areas,
            "no_data_pixels": self.no_data_pixels,
            "area_note": self.area_note,
            "model": self.model,
            "backend": self.backend,
            "seconds": self.seconds,
        }


def segment_file(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    overlay: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    backend: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    halo: int | None = None,
    blend: bool = False,
    bands: Sequence[int] | None = None,
    scale: Scale | None = None,
    opacity: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
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
        backend: As in `Segmenter.open`.
        threads: Threads of one run of the model.
        batch: Tiles run at once.
        halo: Overlap of tiles in pixels.
        blend: Average overlapping tiles instead of joining them; see `Segmenter`.
        bands: Band numbers of red, green and blue, for a TIFF.
        scale: Range of values to stretch to 8 bits.
        opacity: Of the overlay's colours, 0 to 1.
        progress: Called with the rows done and the rows in all.

    Raises:
        EmraError: Whatever is wrong with files, model or arguments; then no output has changed.
    """
    start = time.perf_counter()
    if model is None:
        from emra_deploy.models import shipped_model

        model = shipped_model()
    check_input(input)
    as_raster = _check_outputs(input, model, output, overlay, overwrite)
    if not 0.0 <= opacity <= 1.0:
        raise EmraError("opacity-range", f"opacity {opacity}, expected 0 to 1", "Correct it")
    with ExitStack() as stack:
        source = open_input(input, bands=bands, scale=scale)
        if isinstance(source, RasterSource):
            stack.enter_context(source)
            if not as_raster and source.height * source.width > MAX_PNG_PIXELS:
                raise EmraError(
                    "output-too-large",
                    f"{source.width} x {source.height} pixels are too many for a PNG, which is made in memory",
                    "Give an output that ends in .tif, and --overlay for a picture of it",
                    output,
                )
        # Made before the model is loaded: a folder that takes no file shall not cost minutes.
        part = stack.enter_context(atomic_output(output, overwrite=overwrite))
        over = None if overlay is None else stack.enter_context(atomic_output(overlay, overwrite=overwrite))
        from emra_deploy.segmenter import Segmenter

        segmenter = stack.enter_context(
            Segmenter.open(model, backend=backend, threads=threads, batch_size=batch, halo=halo, blend=blend)
        )
        loaded = time.perf_counter()
        georeference = source.georeference if isinstance(source, RasterSource) else None
        sink = _open_sink(part, as_raster, source, segmenter, georeference)
        stack.callback(sink.close)
        counts, factor = _stream(source, segmenter, sink, over, opacity, georeference, progress)
        done = time.perf_counter()
        facts = segmenter.backend.describe()
    area, note = _pixel_area(georeference)
    return MapReport(
        input=os.fspath(input),
        output=os.fspath(output),
        overlay=None if overlay is None else os.fspath(overlay),
        overlay_factor=factor,
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
        seconds={
            "load": round(loaded - start, 4),
            "segment": round(done - loaded, 4),
            "total": round(time.perf_counter() - start, 4),
        },
    )


def _check_outputs(
    input: str | os.PathLike[str],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overlay: str | os.PathLike[str] | None,
    overwrite: bool,
) -> bool:
    """Whether the output is a raster."""
    suffix = Path(output).suffix.lower()
    if suffix not in (".tif", ".tiff", ".png"):
        raise EmraError(
            "output-suffix",
            f"the output ends in {suffix or 'nothing'!r}, expected .tif or .png",
            "Use .tif for a map with georeference, .png for a picture of the labels",
            output,
        )
    place = check_output(output, overwrite=overwrite, inputs=[input, model])
    if overlay is not None:
        if Path(overlay).suffix.lower() != ".png":
            raise EmraError("output-suffix", "the overlay does not end in .png", "Give it that suffix", overlay)
        if check_output(overlay, overwrite=overwrite, inputs=[input, model]) == place:
            raise EmraError("output-is-input", "output and overlay are the same file", "Give two names", overlay)
    return suffix != ".png"


def _open_sink(
    part: Path,
    as_raster: bool,
    source: ArraySource | RasterSource,
    segmenter: Segmenter,
    georeference: GeoReference | None,
) -> LabelSink:
    from emra_deploy.label_files import LabelWriter, PictureWriter

    if not as_raster:
        return PictureWriter(part, source.height, source.width, segmenter.classes)
    tags = {"EMRA_MODEL": segmenter.manifest.name, "EMRA_PRECISION": segmenter.manifest.precision}
    return LabelWriter(part, source.height, source.width, segmenter.classes, georeference, tags)


def _stream(
    source: ArraySource | RasterSource,
    segmenter: Segmenter,
    sink: LabelSink,
    over: Path | None,
    opacity: float,
    georeference: GeoReference | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Any, int]:
    """Counts of the 256 label values, and the factor of the overlay."""
    preview = None
    if over is not None:
        from emra_deploy.preview import MAX_SIDE, STREAMED_SIDE, Preview

        side = STREAMED_SIDE if isinstance(source, RasterSource) else MAX_SIDE
        preview = Preview(source, segmenter.classes, opacity, side)
    counts = np.zeros(256, np.int64)
    for window, labels in segmenter.segment_rows(source):
        sink.write(labels)
        counts += count_labels(labels)
        if preview is not None:
            preview.add(window.top, labels)
        if progress is not None:
            progress(window.bottom, source.height)
    sink.finish()
    if preview is None or over is None:
        return counts, 1
    preview.save(over, class_areas(counts, segmenter.classes, _pixel_area(georeference)[0]))
    return counts, preview.factor


def _pixel_area(georeference: GeoReference | None) -> tuple[float | None, str | None]:
    if georeference is None:
        return None, "the picture has no coordinate reference system"
    return georeference.pixel_area_m2()
