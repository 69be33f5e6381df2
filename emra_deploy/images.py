"""Plain pictures: JPEG, PNG and small TIFF, decoded strictly or not at all."""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.files import check_input
from emra_deploy.scaling import Scale, depth_error

MAX_PIXELS = 178_956_970
"""Largest picture that is read whole: 512 MiB of RGB, and where Pillow sees a decompression bomb."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _GEO_KEYS = 274, (33550, 33922, 34264, 34735)
_strict = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: H x W x 3 uint8 RGB, turned the way a viewer shows it.
        valid: H x W bool, False where there is no data (transparent or not a number), or None when all is data.
    """

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None


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
    """

    georeferenced: bool
    orientation: int


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
            orientation = tags.get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, OverflowError, struct.error) as error:
        raise _unreadable(path, error) from error
    georeferenced = any(key in tags for key in _GEO_KEYS)
    return TiffHeader(georeferenced, orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1)


def read_image(path: str | os.PathLike[str], scale: Scale | None = None) -> NDArray[np.uint8]:
    """The pixels of `read_picture`: H x W x 3 uint8 RGB."""
    return read_picture(path, scale).image


def read_picture(path: str | os.PathLike[str], scale: Scale | None = None) -> Picture:
    """Decode a whole JPEG, PNG or TIFF.

    Grey is replicated, palettes are looked up, CMYK is converted, fully transparent pixels are no data and the EXIF
    orientation is applied, as a viewer does. Georeferencing is not looked at: see `RasterSource` for that.

    Args:
        path: The file.
        scale: Range of values to stretch; pictures of more than 8 bits are refused without it.

    Raises:
        EmraError: ``not-an-image``, ``image-empty``, ``image-truncated``, ``image-unreadable``, ``image-too-large``,
            ``image-depth``, ``image-bands``, and those of `check_input`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    kind = image_format(path)
    try:
        with _strict_decoding(), Image.open(path, formats=("JPEG", "PNG", "TIFF")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_large(path, f"{picture.width} x {picture.height} pixels")
            if kind == "png":
                _check_png(path)
            picture.load()
            if kind == "jpeg":
                _check_jpeg_end(picture, path)
            return _convert(ImageOps.exif_transpose(picture), scale, path)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error).split(",")[0]) from error
    except UnidentifiedImageError as error:
        raise EmraError(
            "image-unreadable",
            f"the header starts like a {kind.upper()} but is damaged, or of a kind this reader does not know",
            "Open and save it with an image program, or copy it again",
            path,
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, OverflowError, MemoryError, struct.error) as error:
        raise _unreadable(path, error) from error


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Pillow fills up what is missing when a program around us has asked it to; here a missing part is an error."""
    from PIL import Image, ImageFile

    with _strict, warnings.catch_warnings():
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _convert(picture: Any, scale: Scale | None, path: str | os.PathLike[str]) -> Picture:
    mode = picture.mode
    if mode.startswith(("I", "F")):
        return _convert_deep(picture, scale, path)
    valid = None
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
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
    return Picture(image, None if valid is None or valid.all() else valid)


def _convert_deep(picture: Any, scale: Scale | None, path: str | os.PathLike[str]) -> Picture:
    values = np.array(picture)
    what = {"I": "32-bit", "F": "float"}.get(picture.mode, "16-bit")
    if scale is None:
        raise depth_error(what, path)
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    grey = scale.apply(values)
    return Picture(np.repeat(grey[..., None], 3, axis=2), None if finite.all() else finite)


def _check_png(path: str | os.PathLike[str]) -> None:
    from PIL import Image

    # Decoding ends with the last row, before the checksums; a flipped bit would only be a wrong picture.
    with Image.open(path, formats=("PNG",)) as picture:
        picture.verify()
    # Pillow cuts 16-bit colour down to its high byte without a word; only 16-bit grey reaches us whole.
    with Path(path).open("rb") as stream:
        header = stream.read(26)
    if len(header) == 26 and header[24] == 16 and header[25] != 0:
        raise EmraError(
            "image-depth",
            "the PNG holds 16-bit colours, expected 8-bit ones",
            "Save it with 8 bits, or as a 16-bit TIFF to be read with --scale MIN MAX",
            path,
        )


def _check_jpeg_end(picture: Any, path: str | os.PathLike[str]) -> None:
    """Refuse a JPEG whose data stop before its rows do, though its end marker is there.

    libjpeg then paints the rest in middle grey, and Pillow passes its warning over. Of a picture that really is grey
    down there, the last bytes repeat one code; of one that was cut, they do not.
    """
    if picture.info.get("progressive"):
        # Progressive data spend no bits on grey; cut off, they leave a coarse picture rather than a grey one.
        return
    mode, (width, height) = picture.mode, picture.size
    if mode not in ("L", "RGB") or picture.getpixel((width - 1, height - 1)) not in (128, (128, 128, 128)):
        return
    image = np.asarray(picture).reshape(height, -1)
    coloured = np.flatnonzero((image != 128).any(axis=1))
    grey_rows = height - (int(coloured[-1]) + 1 if coloured.size else 0)
    # At least one bit for each of the two codes of a block, and four blocks in 16 x 16 pixels.
    repeated = min(max(grey_rows // 16 - 1, 0) * (width // 16), 4096)
    data = Path(path).read_bytes()
    end = data.rfind(b"\xff\xd9")
    # The last byte may be filled up with ones.
    tail = data[max(end - 2 - repeated, 0) : end - 2]
    if len(tail) >= 32 and not any(tail[step:] == tail[:-step] for step in range(1, len(tail) * 3 // 4)):
        raise _unreadable(path, ValueError("JPEG data are truncated before the end marker"))


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
