"""Label maps out: as a cloud-optimised GeoTIFF by rows, or as a palette PNG."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emra_deploy.classes import IGNORE, ClassSet
from emra_deploy.errors import EmraError
from emra_deploy.georeference import GeoReference
from emra_deploy.label_check import block_sums, check_content, facts
from emra_deploy.overlay import colour_table
from emra_deploy.raster import gdal_session, open_dataset

BLOCK = 512
"""Side of the blocks of a label raster in pixels."""

_PIECE = 8 * BLOCK
"""Columns written at once."""

_COPY_OPTIONS = {
    # A copy reads each block once and each overview's once more: a large cache holds what nobody asks for again.
    # 20,000 x 20,000 pixels peak 60 MB lower for it, in the same time.
    "GDAL_CACHEMAX": 16 * 2**20,
    "GDAL_OVR_CHUNK_MAX_SIZE": 10**6,
}


class LabelSink(Protocol):
    """What takes a label map, rows from the top."""

    def write(self, labels: NDArray[np.uint8]) -> None:
        """Take the next rows: h x W uint8."""
        ...

    def finish(self) -> None:
        """All rows were written: make the file whole."""
        ...

    def close(self) -> None:
        """Let go of the file, finished or not."""
        ...


class LabelWriter:
    """A label raster as cloud-optimised GeoTIFF (COG): uint8, nodata 255, palette, georeference, names, overviews.

    A COG has its overviews in front of the blocks, so rows go to a plain tiled GeoTIFF beside it first and are copied
    when all are there. They are gathered to whole rows of blocks: a compressed block that is written twice would leave
    a hole behind.

    Args:
        path: File to write; give the temporary file of `atomic_output`.
        height: Rows of the whole map.
        width: Columns of the whole map.
        classes: Names and colours, kept as tags ``EMRA_CLASSES`` (JSON) and ``CLASS_<label>``, and as palette.
        georeference: That of the picture, kept exactly, or None.
        tags: More tags of the file.

    Raises:
        EmraError: ``raster-extra`` without rasterio, ``output-write`` when the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        classes: ClassSet,
        georeference: GeoReference | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        self._path, self._height, self._width = path, height, width
        self._rows = path.with_name(f"{path.stem}.rows{path.suffix}")
        self._block_rows = np.empty((min(BLOCK, height), width), np.uint8)
        self._filled = self._top = 0
        self._sums: list[int] = []
        self._dataset: Any = None
        try:
            self._start(classes, georeference, tags or {})
        except BaseException:
            self.close()
            raise

    def _start(self, classes: ClassSet, georeference: GeoReference | None, tags: dict[str, str]) -> None:
        # Nothing beside the file: a side-car would keep the temporary name.
        with gdal_session() as rasterio, rasterio.Env(GDAL_PAM_ENABLED="NO"), _writing(self._path):
            self._dataset = open_dataset(
                rasterio,
                self._rows,
                "w",
                height=self._height,
                width=self._width,
                count=1,
                dtype="uint8",
                nodata=IGNORE,
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                compress="deflate",
                zlevel=1,
                photometric="palette",
                bigtiff="IF_SAFER",
            )
            self._describe(classes, georeference, tags)

    def _describe(self, classes: ClassSet, georeference: GeoReference | None, tags: dict[str, str]) -> None:
        table = colour_table(classes)
        alpha = np.full(256, 255)
        alpha[IGNORE] = 0
        colours = {value: (*map(int, table[value]), int(alpha[value])) for value in range(256)}
        self._dataset.write_colormap(1, colours)
        if georeference is not None:
            if georeference.area_or_point is not None:
                self._dataset.update_tags(AREA_OR_POINT=georeference.area_or_point)
            if georeference.gcps:
                self._dataset.gcps = (list(georeference.gcps), georeference.gcp_crs)
            elif not georeference.transform.is_identity:
                self._dataset.transform = georeference.transform
            if georeference.crs is not None:
                self._dataset.crs = georeference.crs
            if georeference.rpcs is not None:
                self._dataset.rpcs = georeference.rpcs
        names = {f"CLASS_{label}": name for label, name in enumerate(classes.names)}
        self._dataset.update_tags(EMRA_CLASSES=json.dumps(classes.names, ensure_ascii=False), **names, **tags)
        self._dataset.set_band_description(1, "classes")

    def write(self, labels: NDArray[np.uint8]) -> None:
        """Take the next rows: h x W uint8.

        Raises:
            EmraError: ``output-write``.
        """
        taken = 0
        while taken < labels.shape[0]:
            rows = min(len(self._block_rows) - self._filled, labels.shape[0] - taken)
            self._block_rows[self._filled : self._filled + rows] = labels[taken : taken + rows]
            self._filled += rows
            taken += rows
            if self._filled == len(self._block_rows) or self._top + self._filled == self._height:
                self._flush()

    def _flush(self) -> None:
        with gdal_session() as rasterio, _writing(self._path):
            # In pieces and with an axis of bands, because rasterio copies what it is given without one.
            for left in range(0, self._width, _PIECE):
                piece = self._block_rows[None, : self._filled, left : left + _PIECE]
                window = rasterio.windows.Window(left, self._top, piece.shape[2], self._filled)
                self._dataset.write(piece, [1], window=window)
        self._sums += block_sums(self._block_rows[: self._filled], BLOCK)
        self._top += self._filled
        self._filled = 0

    def finish(self) -> None:
        """Make the COG and see that every block of it is in the file as it was written.

        Raises:
            EmraError: ``output-write``.
        """
        if self._top != self._height:
            raise ValueError(f"{self._top} of {self._height} rows were written")
        with gdal_session() as rasterio, _writing(self._path):
            with rasterio.Env(GDAL_PAM_ENABLED="NO"):
                self._dataset.close()
                # GDAL's cache writes late, and an error then may reach nobody.
                self._check_blocks(rasterio, self._rows)
                expected = self._copy(rasterio)
            self._check_blocks(rasterio, self._path)
            with rasterio.Env(**_COPY_OPTIONS):
                check_content(rasterio, self._path, self._sums, BLOCK, expected)
        self._rows.unlink()

    def _copy(self, rasterio: Any) -> dict[str, Any]:
        """Make the COG: facts that it must have."""
        from rasterio import shutil

        self._block_rows = np.empty((0, 0), np.uint8)
        with rasterio.Env(**_COPY_OPTIONS), open_dataset(rasterio, self._rows) as rows:
            shutil.copy(
                rows,
                os.fspath(self._path),
                driver="COG",
                blocksize=BLOCK,
                compress="deflate",
                # The class that most of the pixels below have; a mean of labels is no label.
                overview_resampling="mode",
                bigtiff="IF_SAFER",
            )
            return facts(rows)

    def _check_blocks(self, rasterio: Any, path: Path) -> None:
        size = path.stat().st_size
        with open_dataset(rasterio, path) as written:
            for row in range(-(-self._height // BLOCK)):
                for column in range(-(-self._width // BLOCK)):
                    start = written.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1)
                    length = written.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
                    if start is None or length is None or int(start) + int(length) > size:
                        raise OSError(f"block {column}, {row} is not in the file")

    def close(self) -> None:
        """Let go of the file, finished or not."""
        try:
            if self._dataset is not None and not self._dataset.closed:
                with gdal_session() as rasterio, rasterio.Env(GDAL_PAM_ENABLED="NO"):
                    self._dataset.close()
        finally:
            for leftover in (self._rows, self._path.with_name(f"{self._path.name}.ovr.tmp")):
                leftover.unlink(missing_ok=True)


class PictureWriter:
    """A label map as a palette PNG, gathered in memory; 255, no data, is transparent.

    Args:
        path: File to write; give the temporary file of `atomic_output`.
        height: Rows of the whole map.
        width: Columns of the whole map.
        classes: Names and colours; the value of a pixel is its label.
    """

    def __init__(self, path: Path, height: int, width: int, classes: ClassSet) -> None:
        self._path, self._classes = path, classes
        self._labels = np.full((height, width), IGNORE, np.uint8)
        self._top = 0

    def write(self, labels: NDArray[np.uint8]) -> None:
        """Take the next rows: h x W uint8."""
        self._labels[self._top : self._top + labels.shape[0]] = labels
        self._top += labels.shape[0]

    def finish(self) -> None:
        """Encode the picture."""
        from PIL import Image, PngImagePlugin

        if self._top != self._labels.shape[0]:
            raise ValueError(f"{self._top} of {self._labels.shape[0]} rows were written")
        picture = Image.fromarray(self._labels, "L")
        picture.putpalette(colour_table(self._classes).tobytes())
        about = PngImagePlugin.PngInfo()
        about.add_itxt("EMRA_CLASSES", json.dumps(self._classes.names, ensure_ascii=False))
        picture.save(self._path, format="PNG", transparency=IGNORE, pnginfo=about)

    def close(self) -> None:
        """Let go of the pixels."""
        self._labels = np.empty((0, 0), np.uint8)


class _writing:
    """Turns the errors of GDAL's writing into ``output-write``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError

        # Copying lets GDAL's own errors through, and a SystemError where GDAL gives no reason.
        if isinstance(error, (RasterioError, CPLE_BaseError, SystemError, OSError)):
            deepest: BaseException = error
            while deepest.__cause__ is not None:
                deepest = deepest.__cause__
            reason = " ".join(str(deepest).split())[:160]
            raise EmraError(
                "output-write",
                f"the label raster cannot be written ({reason})",
                "Make room on the disk or choose another",
                self._path.parent,
            ) from error
