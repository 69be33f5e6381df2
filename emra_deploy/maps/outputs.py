"""The output files of a map: the checks before the work, and the writing."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output, check_all_outputs, writing
from emra_deploy.host.slow_steps import step
from emra_deploy.maps.job import MapJob
from emra_deploy.maps.label_files import LabelWriter, PngWriter, RasterWriter
from emra_deploy.maps.polygons import check_place, class_labels, load_geopackage_libraries, write_polygons
from emra_deploy.maps.preview import MAX_SIDE, STREAMED_SIDE, Preview
from emra_deploy.maps.side_car import SUFFIX
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.ground import PixelAreas
from emra_deploy.pictures.inputs import OpenPicture
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.areas import ClassArea, class_areas, count_labels
from emra_deploy.segmenting.palettes import drawn_classes

MAX_PNG_PIXELS = 2**26
"""Largest label map of a TIFF that is written as PNG, which has to be gathered in memory."""


def check_files(job: MapJob, model: str | os.PathLike[str] | None) -> None:
    """Check that the outputs can be written, and replace neither the input nor the model.

    Raises:
        EmraError: ``library-missing``, ``output-unwritable``, and
            those of `check_all_outputs`.
    """
    if job.writes_raster:
        need("raster", "rasterio", purpose="a .tif map, unlike a .png,")
    if job.polygons is not None and Path(job.polygons).suffix.lower() == ".gpkg":
        load_geopackage_libraries()
    outputs = [path for path in (job.output, job.overlay, job.polygons, *_files_beside(job)) if path is not None]
    inputs = [job.input] if model is None else [job.input, model]
    check_all_outputs(outputs, overwrite=job.overwrite, inputs=inputs)
    for path in outputs:
        folder = Path(os.path.realpath(path)).parent
        try:
            # Permissions are not the whole truth, and a model may take minutes to load before the first write.
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise EmraError(
                "output-unwritable",
                f"no file can be made in {folder} ({error.strerror})",
                "Choose a folder that you may write to",
                path,
            ) from error


def check_map(job: MapJob, source: OpenPicture, area_note: str | None) -> str | None:
    """Check that the outputs can hold the map of a picture.

    Args:
        job: The outputs.
        source: The picture.
        area_note: Why its pixels have no known area on the ground, or None.

    Returns:
        What the user should know of the polygons, or None.

    Raises:
        EmraError: ``output-too-large``, ``polygon-area``, ``polygon-place``.
    """
    if not job.writes_raster and not source.in_memory and source.height * source.width > MAX_PNG_PIXELS:
        raise EmraError(
            "output-too-large",
            f"{source.width} x {source.height} pixels are too many for a PNG, which is made in memory",
            "Give an output that ends in .tif, and --overlay for a picture of it",
            job.output,
        )
    if job.polygons is not None and job.min_area and area_note is not None:
        raise EmraError("polygon-area", f"no square metres: {area_note}", "Use --min-pixels instead of --min-area")
    if job.polygons is None:
        return None
    return check_place(Path(job.polygons), source.georeference, source.height, source.width)


def _files_beside(job: MapJob) -> list[Path]:
    """Existing files that GDAL takes for parts of the map: they belong to the map that it replaces."""
    if not job.writes_raster:
        return []
    # Links are not followed: GDAL looks beside the name that it is given.
    place = os.fspath(job.output)
    return [path for path in (Path(place + suffix) for suffix in (SUFFIX, ".msk", ".ovr")) if path.exists()]


class MapOutputs:
    """The output files of a map in the making; a context manager that publishes them unless its block fails.

    Args:
        job: Which outputs.
        source: The picture.
        manifest: Of the model.
        ground: Square metres of the pixels on the ground, or None.
        place: As `split_place` gives it.

    Attributes:
        counts: How often each of the 256 label values occurs so far.
        preview: The overlay, or None.
        polygon_count: Polygons that were written.

    Raises:
        EmraError: ``polygon-class`` for a class that the model does not have.
    """

    def __init__(
        self,
        job: MapJob,
        source: OpenPicture,
        manifest: Manifest,
        ground: PixelAreas | None,
        place: tuple[GeoReference, str | None],
    ) -> None:
        self._job, self._source, self._manifest, self._ground = job, source, manifest, ground
        self._place, self._side_car = place
        self._outlined = class_labels(manifest.classes, job.polygon_classes) if job.polygons is not None else ()
        self._drawn = drawn_classes(manifest.classes, job.palette)
        self._stack = ExitStack()
        self.counts = np.zeros(256, np.int64)
        self._metres = np.zeros(256)
        self.preview: Preview | None = None
        self.polygon_count = 0

    def __enter__(self) -> MapOutputs:
        job, source = self._job, self._source
        with ExitStack() as stack:
            self._map, self._overlay, self._polygons = (
                None if path is None else stack.enter_context(atomic_output(path, overwrite=job.overwrite))
                for path in (job.output, job.overlay, job.polygons)
            )
            assert self._map is not None
            if self._side_car is not None:
                beside = os.fspath(job.output) + SUFFIX
                stack.enter_context(atomic_output(beside, overwrite=job.overwrite)).write_text(self._side_car, "utf-8")
            self._writer: LabelWriter = stack.enter_context(closing(self._open_writer(self._map)))
            if job.overlay is not None:
                side = MAX_SIDE if source.in_memory else STREAMED_SIDE
                self.preview = Preview(source, self._drawn, job.opacity, side, job.outlines)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            for path in _files_beside(self._job):
                if self._side_car is None or not path.name.endswith(SUFFIX):
                    path.unlink()

    def add(self, window: Window, labels: npt.NDArray[np.uint8]) -> int:
        """Write the next rows, uint8 h×W, to all files; return the row after their last."""
        self._writer.write(labels)
        self.counts += count_labels(labels)
        if self._ground is not None and self._ground.uniform is None:
            self._metres += self._ground.of_labels(window.top, labels)
        if self.preview is not None:
            self.preview.add(window.top, labels)
        return window.bottom

    def areas(self) -> tuple[ClassArea, ...]:
        """Areas of the classes in the rows so far."""
        pixel = None if self._ground is None else self._ground.uniform or self._metres / np.maximum(self.counts, 1)
        return class_areas(self.counts, self._manifest.classes, pixel)

    def finish(self) -> None:
        """Complete all files, after the last row."""
        job = self._job
        with step(f"finishing {os.fspath(job.output)}"), writing(job.output):
            self._writer.finish()
        if self.preview is not None and self._overlay is not None and job.overlay is not None:
            with writing(job.overlay):
                self.preview.save(self._overlay, self.areas())
        if self._polygons is not None and self._map is not None and job.polygons is not None:
            with step(f"outlining classes for {os.fspath(job.polygons)}"):
                self.polygon_count = write_polygons(
                    self._map,
                    self._polygons,
                    self._manifest.classes,
                    labels=self._outlined,
                    least=(job.min_pixels, job.min_area),
                    georeference=self._source.georeference,
                    ground=self._ground,
                )

    def _open_writer(self, path: Path) -> LabelWriter:
        source, manifest = self._source, self._manifest
        if not self._job.writes_raster:
            return PngWriter(path, source.height, source.width, self._drawn)
        tags = {"EMRA_MODEL": manifest.name, "EMRA_PRECISION": manifest.precision}
        return RasterWriter(path, source.height, source.width, self._drawn, self._place, tags)
