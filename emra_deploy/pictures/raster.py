"""GeoTIFFs of any size, read by windows."""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.pictures.bands import RGB, alpha_bands, band_names, choose_bands
from emra_deploy.pictures.block_sums import DeflateSums
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.images import codec_error, tiff_header
from emra_deploy.pictures.masks import DataMask
from emra_deploy.pictures.scaling import Scale
from emra_deploy.pictures.values import PixelValues, check_depth
from emra_deploy.pictures.windows import Window

CACHE_BYTES = 64 * 2**20
"""Size of GDAL's cache of decoded blocks; its default of 5 % of the memory is too much for a drone's computer."""

# GDAL's words at opening, and libtiff's and libjpeg's at reading.
_CODEC = re.compile(
    r"missing codec (?:of code )?(\w+)|(\w+) compression support is not configured"
    r"|(?:Unsupported|unsupported) (JPEG (?:process|data precision)[^)]*)"
)
_MAX_BLOCK_BYTES = 256 * 2**20
_MAX_ROWS_BYTES = 512 * 2**20
_IMPLAUSIBLE_BYTES, _IMPLAUSIBLE_RATIO = 2**30, 5000
_ASSOCIATED = 1
"""Value of TIFF's ExtraSamples for alpha that has been multiplied into the colours."""
_OPTIONS = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    # libjpeg fills in missing data with only a warning.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
}


@contextmanager
def gdal_session() -> Iterator[Any]:
    """Environment of GDAL with bounded memory and strict decoding; yields the rasterio module.

    Raises:
        EmraError: ``library-missing`` when rasterio is not installed.
    """
    need("raster", "rasterio", purpose="reading and writing GeoTIFF")
    import rasterio

    with rasterio.Env(**_OPTIONS):
        yield rasterio


def open_dataset(rasterio: Any, path: Path, *options: Any, driver: str = "GTiff", **more: Any) -> Any:
    """``rasterio.open`` of one format, for files with any name, with or without a georeference.

    Raises:
        EmraError: ``raster-name`` for names that are not text.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise EmraError(
            "raster-name", "GDAL takes only file names that are UTF-8", "Rename the file or its folder", path
        ) from error
    # Filters of warnings belong to the whole process, so they are changed here, not while threads read.
    with warnings.catch_warnings():
        # A TIFF without georeference needs no warning.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        # A Path, not text: text may name archives, sub-datasets and servers.
        return rasterio.open(path, *options, driver=driver, **more)


def read_place(path: str | os.PathLike[str], kind: str, orientation: int) -> GeoReference:
    """Where GDAL puts a plain picture: by files beside it, such as ``.jgw``, ``.wld``, ``.aux.xml`` and ``.tab``.

    Args:
        path: The picture.
        kind: Its `image_format`.
        orientation: As in EXIF, which GDAL ignores and the reader of the pixels applies.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    driver = {"jpeg": "JPEG", "png": "PNG", "tiff": "GTiff"}[kind]
    place = Path(path).absolute()
    with gdal_session() as rasterio:
        try:
            with open_dataset(rasterio, place, driver=driver) as dataset:
                return GeoReference.of(dataset).turned(orientation, dataset.height, dataset.width)
        except (RasterioError, CPLE_BaseError):
            # GDAL reads fewer of these files than Pillow.
            return GeoReference()


def gdal_message(error: BaseException) -> str:
    """What GDAL said, on one line: rasterio's own errors only say "read failed", and have GDAL's as causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:160]


class RasterSource:
    """A GeoTIFF read by windows; an `ImageSource`.

    `DataMask` says which pixels are valid; those of blocks that were never written are not. Colours that were
    multiplied by their opacity (associated alpha) are divided by it.

    Args:
        path: A local TIFF. `open_input` checks names that users give, and refuses other formats and remote names.
        bands: Three band numbers from 1 for the bands that are wanted; by default those the file calls so.
        scale: Range of values to stretch; rasters of other than 8 bits are refused without it.
        wanted: Names of the model's bands, in its order.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        dataset: The open rasterio dataset.
        georeference: Where the raster lies on the earth.
        identity: Real path, size in bytes and time of change, by which a journal knows the file.

    Raises:
        EmraError: ``library-missing``, ``raster-name``, ``raster-implausible``, ``raster-layout``,
            ``image-depth``, ``image-bands``, ``image-codec``, ``image-unreadable``, ``image-truncated``.
    """

    in_memory = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        bands: Sequence[int] | None = None,
        scale: Scale | None = None,
        wanted: Sequence[str] = RGB,
    ) -> None:
        # Links are not followed: GDAL looks for world files and .aux.xml beside the name that was given.
        place = Path(path).absolute()
        self.path = os.fspath(path)
        self._lock, self._rows_lock = threading.Lock(), threading.Lock()
        self._rows: dict[tuple[int, ...], list[tuple[Window, NDArray[Any]]]] = {}
        with gdal_session() as rasterio, self._errors():
            self.dataset: Any = open_dataset(rasterio, place)
        try:
            state = place.stat()
            self.identity = (os.path.realpath(place), state.st_size, state.st_mtime_ns)
            self.height, self.width = int(self.dataset.height), int(self.dataset.width)
            # GDAL reads parts of a damaged header only on demand, and rasterio may raise its error at a later call.
            with self._errors():
                self._check_size(state.st_size)
                self._find_split()
                # This reads further directories; where one is damaged, the call after it raises.
                flags = self.dataset.mask_flag_enums
                names = band_names(self.dataset)
                bits = check_depth(self.dataset, scale, self.path)
                self._bands = choose_bands(names, bands, self.path, wanted)
                self._values = PixelValues(self.dataset, scale, self._bands, bits, self.path)
                # A band that the user chose is read as a colour, whatever the file calls it.
                self._alpha = tuple(band for band in alpha_bands(names) if band not in self._bands)
                self._multiplied = self._alpha[:1] if self._has_associated_alpha(place) else ()
                self._mask = DataMask(self.dataset, flags, self._bands, self._alpha, self._values.may_be_colour)
                self._sums = self._open_sums(place)
                # Last: GDAL's copies, of which one is made for it, swallow errors that the others raise.
                self.georeference = GeoReference.of(self.dataset)
        except BaseException:
            self.dataset.close()
            raise

    def __enter__(self) -> RasterSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.dataset.close()
            if self._sums is not None:
                self._sums.close()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """The pixels of a window inside the raster: h x w x 3 uint8, the model's bands.

        Raises:
            EmraError: ``image-truncated`` when blocks of the window cannot be decoded.
        """
        opacity = self._by_rows(self._multiplied, window)[0] if self._multiplied else None
        return self._values.to_rgb(self._by_rows(self._bands, window), opacity)

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Which pixels of a window hold data: h x w bool, or None when all do."""
        valid = np.ones((window.height, window.width), bool)
        if self._mask.in_file:
            valid &= (self._by_rows((), window) > 0).all(axis=0)
        self._mask.of(lambda bands: self._by_rows(tuple(bands), window), valid)
        self._clear_missing_blocks(window, valid)
        return None if valid.all() else valid

    def _by_rows(self, bands: tuple[int, ...], window: Window) -> NDArray[Any]:
        """`_read`, by way of whole rows where strips are too wide for GDAL to keep those of one window.

        Each window would decode all of them again: 2.6 s for 512 x 512 pixels of a raster 60,000 pixels wide. Two sets
        of rows are kept, because the overlay is drawn from the set before.
        """
        if not CACHE_BYTES // 2 < self._row_bytes * window.height <= _MAX_ROWS_BYTES:
            return self._read(bands, window)
        with self._rows_lock:
            kept = self._rows.setdefault(bands, [])
            held = [one for one in kept if one[0].top <= window.top and window.bottom <= one[0].bottom]
            if not held:
                del kept[:-1]
                whole = Window(window.top, 0, window.height, self.width)
                held = [(whole, self._read(bands, whole))]
                kept += held
            rows, values = held[0]
        down, across = window.within(rows)
        return values[..., down, across]

    def _read(self, bands: tuple[int, ...], window: Window) -> NDArray[Any]:
        """Stored values of bands, n x h x w; without any, the file's masks of those that are read as colours."""
        with self._lock, gdal_session() as rasterio, self._errors(), _jpeg_warnings_are_errors():
            read = self.dataset.read if bands else self.dataset.read_masks
            values: NDArray[Any] = read(list(bands or self._bands), window=_rasterio_window(rasterio, window))
            return values

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError

        try:
            yield
        # Some functions of rasterio let GDAL's own errors through.
        except (RasterioError, CPLE_BaseError, OSError) as error:
            missing = _CODEC.search(gdal_message(error))
            if missing is not None:
                raise codec_error(self.path, next(filter(None, missing.groups()))) from error
            opened = hasattr(self, "dataset")
            damage = "truncated or damaged" if opened else "damaged or not readable"
            raise EmraError(
                "image-truncated" if opened else "image-unreadable",
                f"the TIFF is {damage} ({gdal_message(error)})",
                "Copy or download it again",
                self.path,
            ) from error

    def _check_size(self, file_size: int) -> None:
        item = max(np.dtype(kind).itemsize for kind in self.dataset.dtypes)
        declared = self.height * self.width * self.dataset.count * item
        if declared > _IMPLAUSIBLE_BYTES and declared > _IMPLAUSIBLE_RATIO * file_size:
            raise EmraError(
                "raster-implausible",
                f"{file_size} bytes that declare {self.width} x {self.height} pixels, {declared / 1e9:.0f} GB",
                "Copy it again; if most of it is truly empty, crop it with gdal_translate -projwin",
                self.path,
            )
        rows, columns = self.dataset.block_shapes[0]
        self._row_bytes = 0 if self.dataset.profile["tiled"] else self.width * self.dataset.count * item
        if rows * columns * item * self.dataset.count > _MAX_BLOCK_BYTES:
            raise EmraError(
                "raster-layout",
                f"the TIFF is stored in blocks of {columns} x {rows} pixels, too large to read by windows",
                "Tile it: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE",
                self.path,
            )

    def _has_associated_alpha(self, place: Path) -> bool:
        """Whether the first alpha band has been multiplied into the colours, which GDAL does not report."""
        if not self._alpha:
            return False
        try:
            extra = tiff_header(place).extra_samples
        except EmraError:
            # GDAL reads more kinds of TIFF.
            return False
        index = self._alpha[0] - 1 - (int(self.dataset.count) - len(extra))
        return index >= 0 and bool(extra[index] == _ASSOCIATED)

    def _find_split(self) -> None:
        # GDAL presents a huge strip as blocks of one row, which then have no offsets of their own in the file.
        rows = self.dataset.block_shapes[0][0]
        strips = -(-self.height // rows)
        last = self.dataset.get_tag_item(f"BLOCK_OFFSET_0_{strips - 1}", "TIFF", bidx=1)
        self._split = not self.dataset.profile["tiled"] and rows == 1 and strips > 1 and last is None

    def _open_sums(self, place: Path) -> DeflateSums | None:
        if self.dataset.profile.get("compress") != "deflate" or self._split:
            return None
        rows, columns = self.dataset.block_shapes[0]
        self._planes = self.dataset.count if self.dataset.profile.get("interleave") == "band" else 1
        item = max(np.dtype(kind).itemsize for kind in self.dataset.dtypes)
        block = rows * columns * item * (1 if self._planes > 1 else self.dataset.count)
        across, down = -(-self.width // columns), -(-self.height // rows)
        return DeflateSums(place, across, down, self._planes, block)

    def _clear_missing_blocks(self, window: Window, valid: NDArray[np.bool_]) -> None:
        """Mark blocks that were never written, which GDAL reads as zeros, as no data.

        An interrupted writer leaves such blocks, too, so half a picture would pass for a whole one.
        """
        rows, columns = self.dataset.block_shapes[0]
        if self._split:
            return
        with self._lock, gdal_session(), self._errors():
            for row in range(window.top // rows, (window.bottom - 1) // rows + 1):
                for column in range(window.left // columns, (window.right - 1) // columns + 1):
                    if self._block_place(column, row, self._bands[0]) is not None:
                        self._check_sums(column, row)
                    else:
                        top, left = max(row * rows - window.top, 0), max(column * columns - window.left, 0)
                        bottom, right = (row + 1) * rows - window.top, (column + 1) * columns - window.left
                        valid[top:bottom, left:right] = False

    def _block_place(self, column: int, row: int, band: int) -> tuple[int, int] | None:
        """Where in the file a block lies, and its bytes; None for one that was never written."""
        start, size = (
            self.dataset.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")
        )
        return None if start is None or size is None else (int(start), int(size))

    def _check_sums(self, column: int, row: int) -> None:
        """Compare the checksums of a block, of all planes that are read."""
        if self._sums is None:
            return
        for plane in {band - 1 for band in self._bands + self._alpha} if self._planes > 1 else {0}:
            if not self._sums.done(column, row, plane):
                place = self._block_place(column, row, plane + 1)
                if place is not None:
                    self._sums.check(column, row, plane, *place)


_jpeg_warning = threading.local()


class _JpegFilter(logging.Filter):
    """Removes libjpeg's warnings from rasterio's log, and keeps the last one."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "JPEGLib" not in message:
            return True
        _jpeg_warning.text = message
        return False


_jpeg_filter = _JpegFilter()


@contextmanager
def _jpeg_warnings_are_errors() -> Iterator[None]:
    """Raise libjpeg's warnings: GDAL fills a JPEG block that ends early with grey, and has no option to fail."""
    logging.getLogger("rasterio._err").addFilter(_jpeg_filter)
    _jpeg_warning.text = None
    yield
    if _jpeg_warning.text is not None:
        raise OSError(_jpeg_warning.text)


def _rasterio_window(rasterio: Any, window: Window) -> Any:
    return rasterio.windows.Window(window.left, window.top, window.width, window.height)
