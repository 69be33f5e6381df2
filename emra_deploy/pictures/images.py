"""Plain pictures: JPEG, PNG and small TIFF, decoded strictly or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.host.files import check_input
from emra_deploy.pictures.masks import WITH_ALPHA, mask_of_picture, nodata_of_tiff
from emra_deploy.pictures.scaling import Scale, depth_error
from emra_deploy.pictures.units import in_stored_numbers

MAX_PIXELS = 178_956_970
"""Largest picture that is read whole: 512 MiB of RGB, and where Pillow sees a decompression bomb."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _COMPRESSION, _EXTRA_SAMPLES, _GEO_KEYS = 274, 259, 338, (33550, 33922, 34264, 34735)
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_ARITHMETIC = range(0xC9, 0xD0)
# Exceptions of Pillow's readers for damaged files, as observed.
_DECODING = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    struct.error,
)
_CODECS = {
    "JXL": "JPEG XL",
    "50002": "JPEG XL",
    "52546": "JPEG XL",
    "JP2000": "JPEG 2000",
    "34712": "JPEG 2000",
    "33003": "JPEG 2000 (Aperio)",
    "33005": "JPEG 2000 (Aperio)",
    "34887": "LERC",
    "50000": "ZSTD",
    "50001": "WebP",
    "34925": "LZMA",
    "34661": "JBIG",
}
"""Names of compressions, by GDAL's names and the numbers in TIFF's tag."""

_Decoded = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
# Neither zeros, which libjpeg would put there itself, nor the first byte of a marker.
_MORE_DATA = bytes(1 + step * 89 % 253 for step in range(4096))


def image_format(path: str | os.PathLike[str]) -> str:
    """``"jpeg"``, ``"png"`` or ``"tiff"``, by content rather than by name.

    Raises:
        EmraError: ``not-an-image``, ``image-empty``, and those of `check_input`.
    """
    with check_input(path).open("rb") as stream:
        start = stream.read(16)
    if not start:
        raise EmraError("image-empty", "the file has no bytes", "Copy or download it again", path)
    if start.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if start.startswith(_TIFF_STARTS):
        return "tiff"
    raise EmraError("not-an-image", "the content is not JPEG, PNG or TIFF", "Convert it to one of these", path)


@dataclass(frozen=True)
class TiffHeader:
    """What the first directory of a TIFF says.

    Attributes:
        georeferenced: Whether it has any tag of GeoTIFF.
        orientation: As in EXIF, 1 to 8; 1 is upright.
        extra_samples: What the bands beyond those of the colours are: 1 and 2 are alpha, multiplied in or not.
        compression: The number of its compression.
    """

    georeferenced: bool
    orientation: int
    extra_samples: tuple[int, ...]
    compression: int

    @property
    def known_codec(self) -> bool:
        """Whether Pillow has a name for the compression."""
        from PIL.TiffImagePlugin import COMPRESSION_INFO

        return self.compression in COMPRESSION_INFO


def tiff_header(path: str | os.PathLike[str]) -> TiffHeader:
    """Read the first directory of a TIFF without decoding it.

    Raises:
        EmraError: ``image-unreadable`` when there is none.
    """
    from PIL import TiffImagePlugin

    try:
        with Path(path).open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = stream.read(8)
            if start[2:3] == b"+" or start[3:4] == b"+":
                start += stream.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            stream.seek(tags.next)
            tags.load(stream)
            orientation, compression = tags.get(_ORIENTATION, 1), tags.get(_COMPRESSION, 1)
            extra = tags.get(_EXTRA_SAMPLES, ())
    except _DECODING as error:
        raise _unreadable(path, error) from error
    return TiffHeader(
        georeferenced=any(key in tags for key in _GEO_KEYS),
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        extra_samples=tuple(extra) if isinstance(extra, tuple) else (),
        compression=compression if isinstance(compression, int) else 1,
    )


def read_image(path: str | os.PathLike[str], scale: Scale | None = None) -> NDArray[np.uint8]:
    """The pixels of `read_picture`: H x W x 3 uint8 RGB."""
    return read_picture(path, scale)[0]


def read_picture(path: str | os.PathLike[str], scale: Scale | None = None, kind: str | None = None) -> _Decoded:
    """Decode a whole JPEG, PNG or TIFF.

    Grey is replicated, palettes are looked up, CMYK is converted, fully transparent pixels are no data and the EXIF
    orientation is applied, as a viewer does. Georeferencing is ignored: `RasterSource` reads it.

    Args:
        path: The file.
        scale: Range of values to stretch; pictures of more than 8 bits are refused without it.
        kind: Its `image_format`, where that is known.

    Returns:
        The picture as a viewer turns it, H x W x 3 uint8 RGB; and H x W bool, False where there is no data (transparent
        or not a number), or None when all is data.

    Raises:
        EmraError: ``not-an-image``, ``image-empty``, ``image-truncated``, ``image-unreadable``, ``image-too-large``,
            ``image-depth``, ``image-bands``, and those of `check_input`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    kind = kind or image_format(path)
    try:
        with _strict_decoding, Image.open(path, formats=("JPEG", "PNG", "TIFF")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_large(path, f"{picture.width} x {picture.height} pixels")
            depth = _check_png(path) if kind == "png" else 8
            picture.load()
            if kind == "jpeg":
                _check_jpeg_end(picture, path)
            key, nodata = picture.info.get("transparency"), nodata_of_tiff(picture)
            orientation = picture.getexif().get(_ORIENTATION, 1)
            if scale is not None and picture.mode.startswith(("I", "F")):
                scale = in_stored_numbers(scale, picture, os.fspath(path))
            if picture.mode == "L" and isinstance(key, int) and key < 2**depth:
                # Pillow stretches greys of 2 and 4 bits to 8, but not the one that is transparent.
                picture.info["transparency"] = key * 255 // (2**depth - 1)
            upright = ImageOps.exif_transpose(picture)
            image, valid = _convert(upright, scale, path)
            return image, mask_of_picture(path, upright, valid, nodata, orientation)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error).split(",")[0]) from error
    except UnidentifiedImageError as error:
        if kind == "tiff" and not tiff_header(path).known_codec:
            raise codec_error(path, str(tiff_header(path).compression)) from error
        raise EmraError(
            "image-unreadable",
            f"the header starts like a {kind.upper()} but is damaged, or of a kind this reader does not know",
            "Open and save it with an image program, or copy it again",
            path,
        ) from error
    except _DECODING as error:
        raise _unreadable(path, error) from error


def orientation_of(path: str | os.PathLike[str]) -> int:
    """The EXIF orientation of a picture, 1 to 8, by which `read_picture` turned it; 1 is upright."""
    from PIL import Image

    with Image.open(path, formats=("JPEG", "PNG", "TIFF")) as picture:
        found = picture.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


class _Strictness:
    """Context in which Pillow treats truncated data as an error, whatever ``LOAD_TRUNCATED_IMAGES`` says.

    That flag belongs to the whole process. It is cleared while any thread decodes here; the lock is held only to count
    these threads, so that they decode in parallel.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._load_truncated = False
        self._quiet = warnings.catch_warnings()

    def __enter__(self) -> None:
        from PIL import Image, ImageFile

        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._load_truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self._quiet = warnings.catch_warnings()
            self._quiet.__enter__()
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()

    def after_fork(self) -> None:
        """Reset in a forked child, where the threads that were decoding do not exist."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            # The fork may have come between two lines of `__enter__`.
            with contextlib.suppress(RuntimeError):
                self._restore()

    def _restore(self) -> None:
        from PIL import ImageFile

        ImageFile.LOAD_TRUNCATED_IMAGES = self._load_truncated
        self._quiet.__exit__(None, None, None)


_strict_decoding = _Strictness()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_strict_decoding.after_fork)


def _convert(picture: Any, scale: Scale | None, path: str | os.PathLike[str]) -> _Decoded:
    mode = picture.mode
    if mode.startswith(("I", "F")):
        return _convert_deep(picture, scale, path)
    valid = None
    if mode in WITH_ALPHA or "transparency" in picture.info:
        # Pillow has no way from the premultiplied grey to RGBA in one step.
        colours = np.asarray((picture.convert("LA") if mode == "La" else picture).convert("RGBA"))
        valid = colours[..., 3] > 0
        image = np.ascontiguousarray(colours[..., :3])
    elif mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        image = np.array(picture if mode == "RGB" else picture.convert("RGB"))
    else:
        raise EmraError(
            "image-bands", f"a picture of mode {mode}, expected grey, RGB or RGBA", "Convert it to RGB", path
        )
    if scale is not None:
        image = scale.apply(image)
    return image, None if valid is None or valid.all() else valid


def _convert_deep(picture: Any, scale: Scale | None, path: str | os.PathLike[str]) -> _Decoded:
    values = np.array(picture)
    what = {"I": "32-bit", "F": "float"}.get(picture.mode, "16-bit")
    if scale is None:
        raise depth_error(what, path)
    finite = np.isfinite(values) & (values != picture.info.get("transparency"))
    grey = scale.apply(values)
    return np.repeat(grey[..., None], 3, axis=2), None if finite.all() else finite


def _check_png(path: str | os.PathLike[str]) -> int:
    """Refuse what Pillow reads wrongly; return the bits of a value."""
    from PIL import Image

    # Decoding ends with the last row, before the checksums: a flipped bit would be a wrong picture without an error.
    with Image.open(path, formats=("PNG",)) as picture:
        picture.verify()
    # Pillow silently keeps only the high byte of 16-bit colour; only 16-bit grey keeps its depth.
    with Path(path).open("rb") as stream:
        header = stream.read(26)
    if len(header) == 26 and header[24] == 16 and header[25] != 0:
        raise EmraError(
            "image-depth",
            "the PNG holds 16-bit colours, expected 8-bit ones",
            "Save it with 8 bits, or as a 16-bit TIFF to be read with --scale MIN MAX",
            path,
        )
    return header[24] if len(header) == 26 else 8


def _check_jpeg_end(picture: Any, path: str | os.PathLike[str]) -> None:
    """Refuse a JPEG whose data stop before its rows do, though its end marker is there.

    libjpeg then paints the rest in middle grey, and Pillow ignores its warning. More data are inserted before the end
    marker: a whole picture stays as it is, one that was cut decodes them as the missing part.
    """
    from PIL import Image

    baseline = picture.mode in ("L", "RGB") and not picture.info.get("progressive")
    if baseline and picture.getpixel((picture.width - 1, picture.height - 1)) not in (128, (128, 128, 128)):
        return
    data = Path(path).read_bytes()
    end = _end_of_jpeg(data)
    if end is None:
        return
    longer = io.BytesIO(data[:end] + _MORE_DATA + data[end:])
    try:
        with Image.open(longer, formats=("JPEG",)) as other:
            # The picture of a cut file may fail to decode, which settles it, too.
            same = np.array_equal(np.asarray(other), np.asarray(picture))
    except (OSError, ValueError, SyntaxError):
        same = False
    if not same:
        raise _unreadable(path, ValueError("JPEG data are truncated before the end marker"))


def _end_of_jpeg(data: bytes) -> int | None:
    """Where the end marker of the first picture is; None when Huffman codes are not what precedes it."""
    place = 2
    while place + 4 <= len(data):
        # Markers of data and of restarts stand between segments, fill bytes before any.
        found = _MARKER.search(data, place)
        if found is None:
            return None
        marker, place = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return found.start()
        if marker in _ARITHMETIC:
            # The arithmetic decoder reads beyond the end of whole pictures, too.
            return None
        place += int.from_bytes(data[place : place + 2], "big")
    return None


def codec_error(path: str | os.PathLike[str], codec: str) -> EmraError:
    """The error for a TIFF that is whole but compressed by what the libraries here cannot read.

    Args:
        path: The file.
        codec: What they call it, or its number.
    """
    name = _CODECS.get(codec, f"the compression of number {codec}" if codec.isdecimal() else codec)
    return EmraError(
        "image-codec",
        f"the TIFF is compressed with {name}, which the libraries installed here cannot read",
        "Convert it where it can be read: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN.tif OUT.tif",
        path,
    )


def _too_large(path: str | os.PathLike[str], size: str) -> EmraError:
    return EmraError(
        "image-too-large",
        f"{size}, more than the {MAX_PIXELS} pixels that are read at once",
        "Convert it to a tiled GeoTIFF, which is read by windows: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE",
        path,
    )


def _unreadable(path: str | os.PathLike[str], error: BaseException) -> EmraError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    if "truncated" in reason or "Truncated" in reason or "not enough" in reason.lower():
        return EmraError("image-truncated", f"the file ends too early ({reason})", "Copy or download it again", path)
    return EmraError("image-unreadable", f"the image is damaged ({reason})", "Copy or download it again", path)
