"""From a `MapJob` to a label map, an overlay, polygons and areas: the whole job, streamed row by row."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emra_deploy._version import __version__
from emra_deploy.backends.opening import stated_manifest
from emra_deploy.errors import EmraError
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.throttling import ThrottleWatch
from emra_deploy.maps.estimate import MapEstimate, estimate
from emra_deploy.maps.job import MapJob
from emra_deploy.maps.journal import Journal
from emra_deploy.maps.outputs import MapOutputs, check_files, check_map
from emra_deploy.maps.report import MapReport
from emra_deploy.maps.resampling import TOLERANCE, ResampledSource, scale_factor, scale_warning
from emra_deploy.maps.side_car import SUFFIX, name_of, split_place
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.models import gsd_of
from emra_deploy.pictures.bands import RGB
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.ground import PixelAreas
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.palettes import drawn_classes
from emra_deploy.segmenting.segmenter import Segmenter

_log = logging.getLogger(__name__)

JOURNAL_PIXELS = 2**26
"""From this many pixels on, minutes of work, the rows of an unfinished map are kept."""


def make_map(job: MapJob, segmenter: Segmenter, progress: Callable[[int, int], None] | None = None) -> MapReport:
    """Segment the picture of a job and write its outputs.

    A TIFF is read and a ``.tif`` is written by windows, so memory does not grow with the picture. No output appears
    before all of them are complete.

    Args:
        job: What to do.
        segmenter: The model. Any number of jobs may use it.
        progress: Called with the rows done and the rows in all.

    Raises:
        EmraError: Whatever is wrong with files or settings; then no output has changed.
    """
    with PreparedMap(job, segmenter.path, segmenter.manifest) as prepared:
        return prepared.make(segmenter, progress)


def estimate_map(job: MapJob, segmenter: Segmenter) -> MapEstimate:
    """Estimate the time and memory of `make_map` from a few tiles of the picture; nothing is written.

    Raises:
        EmraError: What `make_map` would raise before its work.
    """
    with PreparedMap(job, segmenter.path, segmenter.manifest) as prepared:
        return prepared.estimate(segmenter)


class PreparedMap:
    """A map job whose picture is open and whose outputs are possible. Nothing is written before `make`.

    For a model that is loaded for one job alone: mistakes are found before it is loaded, and the number of tiles helps
    to choose its backend.

    Args:
        job: What to do.
        model: File of the model, which no output may replace.
        manifest: Of the model; by default what the file says.

    Attributes:
        source: The picture.
        ground: Square metres of the pixels on the ground, or None.
        area_note: Why there are none, or None.
        warnings: What the user should know before the work, which is logged too.

    Raises:
        EmraError: Whatever is wrong with the picture or the outputs.
    """

    def __init__(
        self, job: MapJob, model: str | os.PathLike[str] | None = None, manifest: Manifest | None = None
    ) -> None:
        self._start = time.perf_counter()
        self.job = job
        check_files(job, model)
        self.warnings: list[str] = []
        if manifest is None and model is not None:
            manifest = stated_manifest(Path(model))
        self._bands = RGB if manifest is None else manifest.bands
        self.source = open_input(job.input, bands=job.bands, scale=job.scale, wanted=self._bands)
        try:
            shape = self.source.height, self.source.width
            self.ground, self.area_note = self.source.georeference.pixel_areas(*shape)
            if isinstance(job.gsd, float):
                found = None if self.ground is None else math.sqrt(self.ground.mean)
                if found is not None and abs(found / job.gsd - 1) > TOLERANCE:
                    self._warn(
                        f"a pixel is {found:.3g} m by the georeference; --gsd {job.gsd:.3g} is used, for areas too"
                    )
                self.ground, self.area_note = PixelAreas.alike(job.gsd**2, *shape), None
            said = check_map(job, self.source, self.area_note)
            if said is not None:
                self._warn(said)
            self._place: tuple[GeoReference, str | None] = self.source.georeference, None
            if job.writes_raster:
                self._place = split_place(self.source.georeference, job.input)
            if self._place[1] is not None:
                name = name_of(self.source.georeference)
                self._warn(f"no GeoTIFF holds {name}: keep {os.fspath(job.output)}{SUFFIX}, which does, beside the map")
        except BaseException:
            self.source.close()
            raise

    def __enter__(self) -> PreparedMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def _warn(self, text: str, level: int = logging.WARNING) -> None:
        self.warnings.append(text)
        _log.log(level, "%s", text)

    def estimate(self, segmenter: Segmenter) -> MapEstimate:
        """As `estimate_map`."""
        # Refuses classes that the model does not have, as `make` does.
        MapOutputs(self.job, self.source, segmenter.manifest, self.ground, self._place)
        found = estimate(self._resampled(segmenter) or self.source, segmenter)
        return replace(found, warnings=tuple(self.warnings))

    def make(self, segmenter: Segmenter, progress: Callable[[int, int], None] | None = None) -> MapReport:
        """As `make_map`."""
        job, source = self.job, self.source
        loaded = time.perf_counter()
        resampled = self._resampled(segmenter)
        factor = 1.0 if resampled is None else resampled.factor
        rows = partial(segmenter.segment_rows, source) if resampled is None else partial(resampled.rows, segmenter)
        watch = ThrottleWatch()
        outputs = MapOutputs(job, source, segmenter.manifest, self.ground, self._place)
        # The journal goes last, when the outputs have their names.
        with self._journal(segmenter, factor) as journal, outputs:
            resumed = 0 if journal is None else journal.rows
            _write(rows() if journal is None else journal.resume(rows), outputs, source.height, progress, watch)
            outputs.finish()
            done = time.perf_counter()
        return MapReport(
            job=job,
            overlay_factor=1 if outputs.preview is None else outputs.preview.factor,
            polygon_count=outputs.polygon_count,
            resumed_rows=resumed,
            scale_factor=factor,
            height=source.height,
            width=source.width,
            classes=drawn_classes(segmenter.classes, job.palette),
            areas=outputs.areas(),
            no_data_pixels=int(outputs.counts[IGNORE]),
            area_note=self.area_note,
            model={
                "path": os.fspath(segmenter.path or ""),
                "name": segmenter.manifest.name,
                "precision": segmenter.manifest.precision,
            },
            backend=segmenter.backend.describe(),
            throttled=watch.seen,
            warnings=tuple(self.warnings),
            seconds={
                "load": round(loaded - self._start, 4),
                "segment": round(done - loaded, 4),
                "total": round(time.perf_counter() - self._start, 4),
            },
        )

    def _resampled(self, segmenter: Segmenter) -> ResampledSource | None:
        """The picture at the model's ground sample distance, or None where it stays as it is.

        Raises:
            EmraError: ``image-bands`` for a model of other bands than were chosen before it was loaded.
        """
        if self.job.bands is None and segmenter.manifest.bands != self._bands:
            raise EmraError(
                "image-bands",
                f"the model reads {', '.join(segmenter.manifest.bands)}, which was not known before it was loaded",
                "Give the numbers of these bands with --bands, such as --bands 3,2,1",
                self.job.input,
            )
        if self.job.gsd == "off":
            return None
        picture = None if self.ground is None else math.sqrt(self.ground.mean)
        model = gsd_of(segmenter.manifest)
        factor = scale_factor(picture, model)
        said = scale_warning(picture, model)
        if said is not None:
            # Of a plain picture nobody expects a size: whoever asks is told, and no line appears at every run.
            plain = picture is None and not self.source.georeference.is_placed
            self._warn(said, logging.INFO if plain else logging.WARNING)
        return None if factor == 1 else ResampledSource(self.source, factor)

    def _journal(self, segmenter: Segmenter, factor: float) -> AbstractContextManager[Journal | None]:
        job, source = self.job, self.source
        pixels = source.height * source.width
        wanted = job.journal == "on" or (job.journal == "auto" and pixels >= JOURNAL_PIXELS)
        # A model without a file cannot be identified by a later run.
        if not wanted or source.in_memory or not job.writes_raster or segmenter.path is None:
            return nullcontext()
        settings = {
            "input": source.identity,
            "model": file_sha256(segmenter.path),
            "backend": segmenter.backend.describe(),
            "batch": segmenter.batch_size,
            "halo": segmenter.halo,
            "blend": segmenter.blend,
            "bands": job.bands,
            "scale": None if job.scale is None else [job.scale.low, job.scale.high],
            "factor": factor,
            "emra-deploy": __version__,
        }
        return Journal(Path(job.output), settings, source.height, source.width)


def _write(
    rows: Iterator[tuple[Window, npt.NDArray[np.uint8]]],
    outputs: MapOutputs,
    height: int,
    progress: Callable[[int, int], None] | None,
    watch: ThrottleWatch,
) -> None:
    """Write all rows to the outputs."""

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
            written = writer.submit(outputs.add, window, labels)
        if written is not None:
            report(written.result())
