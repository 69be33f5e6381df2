"""Headers and pixels of picture and mask files.

TIFFs are read by windows and never whole: a Potsdam tile is 108 MB. PNG and JPEG have no random access, so
they are decoded whole and kept, up to a number of bytes per process: training reads many windows of the same
few files.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from emra_deploy.errors import EmraError
from emra_deploy.pictures.images import read_image
from emra_deploy.pictures.raster import gdal_session
from emra_deploy.pictures.windows import Window
from training.data.codecs import Codec, ColourCodec, decode_labels

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"}) | TIFF_SUFFIXES
MASK_SUFFIXES = frozenset({".png"}) | TIFF_SUFFIXES

_EXIF_ORIENTATION = 0x0112
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class ByteCache:
    """Least recently used arrays, up to a number of bytes. Shared by threads; each process has its own."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._arrays: OrderedDict[Any, npt.NDArray[np.uint8]] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    @property
    def budget(self) -> int:
        """Bytes held at most."""
        return self._budget

    def set_budget(self, budget: int) -> None:
        """Hold at most `budget` bytes from now on; 0 keeps nothing."""
        with self._lock:
            self._budget = budget
            self._shrink()

    def get(self, key: Any, make: Callable[[], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """Return the array of `key`, made if it is not held. Do not write to it."""
        with self._lock:
            found = self._arrays.get(key)
            if found is not None:
                self._arrays.move_to_end(key)
                return found
        # Outside the lock: two threads may decode one file, but none waits for another's file.
        array = make()
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = array
                self._used += array.nbytes
                self._shrink()
        return array

    def renew_lock(self) -> None:
        """Replace the lock in a forked child, where the thread that held it no longer exists."""
        self._lock = threading.Lock()

    def _shrink(self) -> None:
        while self._used > self._budget and self._arrays:
            _, old = self._arrays.popitem(last=False)
            self._used -= old.nbytes


cache = ByteCache(512 * 1024 * 1024)
"""Decoded PNG and JPEG files of this process; 512 MiB unless `cache.set_budget` changes it."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=cache.renew_lock)


def is_tiff(path: Path) -> bool:
    """Whether the file is read by windows."""
    return path.suffix.lower() in TIFF_SUFFIXES


def unreadable(path: Path, error: BaseException) -> EmraError:
    """The error for a file that cannot be opened or decoded."""
    if isinstance(error, FileNotFoundError):
        return EmraError("input-missing", "there is no such file", "Restore it from the original data", path)
    if isinstance(error, PermissionError):
        return EmraError("input-unreadable", "reading it is not permitted", "Correct its permissions", path)
    if isinstance(error, UnidentifiedImageError):
        cause = "the file is not a picture of a known format"
    else:
        cause = f"the file cannot be decoded ({' '.join(str(error).split())})"
    return EmraError("input-unreadable", cause, "Restore it from the original data", path)


@contextmanager
def _open_tiff(path: Path) -> Iterator[Any]:
    with gdal_session() as rasterio:
        try:
            with warnings.catch_warnings():
                # Training needs no georeference, and many public TIFFs have none.
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(path, driver="GTiff") as raster:
                    yield raster
        except (rasterio.errors.RasterioError, OSError) as error:
            # GDAL words a missing file differently.
            raise unreadable(path, error if path.exists() else FileNotFoundError(path)) from error


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture or mask as it is read, turned by its EXIF orientation, from its header alone.

    Raises:
        EmraError: ``input-missing`` or ``input-unreadable``.
    """
    if is_tiff(path):
        with _open_tiff(path) as raster:
            return raster.height, raster.width
    try:
        with Image.open(path) as image:
            # Without this condition Pillow decodes a whole PNG to look for EXIF behind its pixels.
            turned = "exif" in image.info and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size
    except _PILLOW_ERRORS as error:
        raise unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def read_picture(path: Path, window: Window, bands: tuple[int, int, int] = (1, 2, 3)) -> npt.NDArray[np.uint8]:
    """One window of a picture.

    Args:
        path: TIFF, PNG or JPEG.
        window: Inside the picture.
        bands: Bands of a TIFF that become the three channels, counted from 1.

    Returns:
        uint8 height×width×3; writable, not shared.

    Raises:
        EmraError: ``input-missing``, ``input-unreadable``, ``image-bands``, ``image-depth`` or what
            `emra_deploy.pictures.images.read_image` raises, naming the file.
    """
    if not is_tiff(path):
        whole = cache.get((path, "picture"), lambda: read_image(path))
        return _cut(whole, window, path)
    with _open_tiff(path) as raster:
        if raster.count < max(bands):
            raise EmraError(
                "image-bands",
                f"the picture has {raster.count} bands, expected at least {max(bands)}",
                "Give the product of this data set that has these bands",
                path,
            )
        if any(raster.dtypes[band - 1] != "uint8" for band in bands):
            raise EmraError(
                "image-depth",
                f"the picture holds {raster.dtypes[0]}, expected uint8",
                "Scale it to 8 bits once, in the same way for every tile (gdal_translate -ot Byte -scale)",
                path,
            )
        pixels = raster.read(list(bands), window=_rasterio_window(window))
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def read_mask(path: Path, codec: Codec, window: Window) -> npt.NDArray[np.uint8]:
    """One window of a mask, as labels.

    Args:
        path: TIFF or PNG.
        codec: Encoding of the labels.
        window: Inside the mask.

    Returns:
        uint8 height×width, labels and 255; writable, not shared.

    Raises:
        EmraError: ``input-missing``, ``input-unreadable``, ``mask-format`` or ``unknown-label``.
    """
    if not is_tiff(path):
        return _cut(
            cache.get((path, codec), lambda: decode_labels(codec, _read_png_mask(path, codec), path)), window, path
        )
    return decode_labels(codec, _read_tiff_mask(path, codec, window), path, window.top, window.left)


def read_stored(path: Path, codec: Codec, window: Window) -> npt.NDArray[Any]:
    """One window of a mask as it is stored, for `Codec.decode`.

    Args:
        path: TIFF or PNG; a PNG is decoded whole each time.
        codec: How the data set stores labels.
        window: Inside the mask.

    Returns:
        Numbers, height×width, or colours, height×width×3.
    """
    if is_tiff(path):
        return _read_tiff_mask(path, codec, window)
    return _cut(_read_png_mask(path, codec), window, path)


def mask_palette(path: Path) -> npt.NDArray[Any] | None:
    """The colours that a viewer shows for the numbers of a mask: uint8 256×3, or None for a mask without a palette."""
    if is_tiff(path):
        with _open_tiff(path) as raster:
            return _tiff_palette(raster)
    with Image.open(path) as image:
        if image.mode != "P":
            return None
        stored = image.getpalette("RGB") or []
    return np.array([*stored, *[0] * (768 - len(stored))], np.uint8).reshape(256, 3)


def _tiff_palette(raster: Any) -> npt.NDArray[Any] | None:
    if raster.count != 1 or raster.colorinterp[0].name != "palette":
        return None
    palette = raster.colormap(1)
    return np.array([palette.get(value, (0, 0, 0, 0))[:3] for value in range(256)], np.uint8)


def _read_tiff_mask(path: Path, codec: Codec, window: Window) -> npt.NDArray[Any]:
    area = _rasterio_window(window)
    with _open_tiff(path) as raster:
        if not isinstance(codec, ColourCodec):
            pixels: npt.NDArray[Any] = raster.read(1, window=area) if raster.count == 1 else _interleaved(raster, area)
        elif (table := _tiff_palette(raster)) is not None:
            pixels = table[raster.read(1, window=area)]
        elif raster.count == 1:
            # As for PNG: grey is a colour, and a set bit is white.
            grey = raster.read(1, window=area)
            if raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "1":
                grey *= 255
            pixels = np.repeat(grey[..., None], 3, axis=-1)
        else:
            pixels = _interleaved(raster, area)[..., :3]
    return pixels


def _interleaved(raster: Any, area: Any) -> npt.NDArray[Any]:
    pixels: npt.NDArray[Any] = raster.read(window=area).transpose(1, 2, 0)
    return pixels


def _cut(whole: npt.NDArray[np.uint8], window: Window, path: Path) -> npt.NDArray[np.uint8]:
    if window.bottom > whole.shape[0] or window.right > whole.shape[1]:
        raise EmraError(
            "size-changed",
            f"the file has {whole.shape[0]} rows and {whole.shape[1]} columns, fewer than its header said before",
            "Leave the data set alone while it is used, and save the file without EXIF data behind its pixels",
            path,
        )
    cut: npt.NDArray[np.uint8] = whole[window.slices].copy()
    return cut


def _read_png_mask(path: Path, codec: Codec) -> npt.NDArray[np.uint8]:
    if isinstance(codec, ColourCodec):
        return read_image(path)
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image))
    except _PILLOW_ERRORS as error:
        raise unreadable(path, error) from error


def _rasterio_window(window: Window) -> Any:
    from rasterio.windows import Window as RasterioWindow

    return RasterioWindow(window.left, window.top, window.width, window.height)
