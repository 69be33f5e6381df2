"""Writers of label maps: a cloud-optimised GeoTIFF, written by rows, or a palette PNG."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.host.unfinished import hold
from emra_deploy.maps.cog import COPY_CACHE_BYTES, copy_to_cog
from emra_deploy.maps.label_check import check_content, facts
from emra_deploy.maps.label_levels import BLOCK, LabelLevels
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.raster import gdal_message, gdal_session
from emra_deploy.segmenting.overlay import colour_table


class LabelWriter(Protocol):
    """A file that a label map is written to, by rows from the top."""

    def write(self, labels: NDArray[np.uint8]) -> None:
        """Write the next rows: h x W uint8."""
        ...

    def finish(self) -> None:
        """Complete the file, after the last row."""
        ...

    def close(self) -> None:
        """Close the file, complete or not, and remove what is beside it."""
        ...


class RasterWriter:
    """A label raster as cloud-optimised GeoTIFF (COG): uint8, nodata 255, palette, georeference, names, overviews.

    A COG has its overviews in front of the blocks, so rows go to plain GeoTIFFs beside it, which are copied in the end.

    Args:
        path: File to write; give the temporary file of `atomic_output`.
        height: Rows of the whole map.
        width: Columns of the whole map.
        classes: Names and colours, kept as tags ``EMRA_CLASSES`` (JSON) and ``CLASS_<label>``, and as palette.
        georeference: That of the picture, kept exactly.
        tags: More tags of the file.

    Raises:
        EmraError: ``library-missing`` without rasterio, ``output-write`` when the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        classes: ClassSet,
        georeference: GeoReference,
        tags: dict[str, str],
    ) -> None:
        self._path, self._height = path, height
        self._levels: LabelLevels | None = None
        # GDAL deletes the file before it makes the COG.
        hold(path)
        try:
            # No side-car files: they would keep the temporary name.
            with gdal_session() as rasterio, rasterio.Env(GDAL_PAM_ENABLED="NO"), _writing(path):
                self._levels = LabelLevels(rasterio, path.with_name(f"{path.stem}.rows{path.suffix}"), height, width)
                _describe(self._levels.dataset, classes, georeference, tags)
        except BaseException:
            self.close()
            raise

    def write(self, labels: NDArray[np.uint8]) -> None:
        """Write the next rows: h x W uint8.

        Raises:
            EmraError: ``output-write``.
        """
        with gdal_session() as rasterio, _writing(self._path):
            self._open_levels().write(rasterio, labels)

    def finish(self) -> None:
        """Make the COG, and check that every block of it reads back as it was written.

        Raises:
            EmraError: ``output-write``.
        """
        levels = self._open_levels()
        if levels.rows != self._height:
            raise ValueError(f"{levels.rows} of {self._height} rows were written")
        with gdal_session() as rasterio, _writing(self._path):
            with rasterio.Env(GDAL_PAM_ENABLED="NO"):
                expected = facts(levels.dataset)
                levels.finish()
            copy_to_cog(levels.paths[0], self._path, BLOCK)
            # Each block is read once: a large cache would be useless.
            with rasterio.Env(GDAL_CACHEMAX=COPY_CACHE_BYTES):
                check_content(rasterio, self._path, levels.sums, BLOCK, expected)

    def _open_levels(self) -> LabelLevels:
        if self._levels is None:
            raise ValueError("the label raster is closed")
        return self._levels

    def close(self) -> None:
        """Close the file, complete or not, and remove what is beside it."""
        if self._levels is not None:
            with gdal_session() as rasterio, rasterio.Env(GDAL_PAM_ENABLED="NO"):
                self._levels.close()


class PngWriter:
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
        """Write the next rows: h x W uint8."""
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
        """Free the pixels."""
        self._labels = np.empty((0, 0), np.uint8)


def _describe(dataset: Any, classes: ClassSet, georeference: GeoReference, tags: dict[str, str]) -> None:
    table = colour_table(classes)
    alpha = np.full(256, 255)
    alpha[IGNORE] = 0
    colours = {value: (*map(int, table[value]), int(alpha[value])) for value in range(256)}
    dataset.write_colormap(1, colours)
    georeference.write_to(dataset)
    names = {f"CLASS_{label}": name for label, name in enumerate(classes.names)}
    dataset.update_tags(EMRA_CLASSES=json.dumps(classes.names, ensure_ascii=False), **names, **tags)
    dataset.set_band_description(1, "classes")


class _writing:
    """Turns errors of GDAL while writing into ``output-write``."""

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
            raise EmraError(
                "output-write",
                f"the label raster cannot be written ({gdal_message(error)})",
                "Make room on the disk or choose another",
                self._path.parent,
            ) from error
