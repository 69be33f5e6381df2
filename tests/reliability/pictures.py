"""Damaged pictures and rasters, compared with a second decoder.

The right reading of a damaged picture is unknown: neither JPEG nor uncompressed TIFF has checksums. So an accepted
picture counts as wrong if an independent decoder reads other pixels from the same file (GDAL's libpng and libjpeg for
PNG and JPEG, tifffile for TIFF), or if the file was cut short and the reader invented the missing part. For JPEG only
the sizes are compared: decoders legitimately differ on out-of-range values. A second decoder that refuses the file or
warns, as tifffile does about checksums that GDAL ignores, has no opinion.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.host.extras import need
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.windows import Window
from tests.onnx_models import scene
from tests.reliability.cases import ACCEPTED, SAME, WRONG, Case, Subject
from tests.reliability.forms import JPEG, PNG, TIFF
from tests.reliability.mutate import Damage, mutate

Pixels = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]
"""H x W x 3 RGB, and H x W where there is data."""

_WINDOW = 64
_MOST_WINDOWS = 48
_SECOND_SIDE = 2000
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284
_CUTS = ("cut short", "end cut off")


class PictureSubject(Subject):
    """Files of one format.

    Args:
        name: Shown in the scoreboard.
        share: As in `Subject`.
        suffix: Of the files.
        form: Damage that knows the format.
        write: Gives the files by their names.
    """

    def __init__(
        self,
        name: str,
        share: float,
        suffix: str,
        form: tuple[tuple[str, Damage], ...],
        write: Callable[[], dict[str, bytes]],
    ) -> None:
        self.name, self.share = name, share
        self._suffix, self._form, self._write = suffix, form, write
        self._known: dict[str, Pixels] = {}

    def prepare(self, folder: Path) -> None:
        """Write the originals."""
        for name, data in self._write().items():
            (folder / f"{name}{self._suffix}").write_bytes(data)

    def load(self, folder: Path) -> None:
        """Decode the originals."""
        self._known = {path.name: _windows_of(path)[0] for path in sorted(folder.iterdir())}

    def make(self, originals: Path, folder: Path, chance: random.Random) -> Case:
        """Damage one of the originals."""
        original = originals / chance.choice(sorted(self._known))
        data, damage = mutate(original.read_bytes(), chance, self._form)
        path = folder / original.name
        path.write_bytes(data)
        return Case(path, path, original, damage, hostile=False)

    def read(self, case: Case) -> tuple[str, str]:
        """Read it as the runtime does, and compare with another decoder."""
        (image, valid), windows, size = _windows_of(case.path)
        known, known_valid = self._known[case.path.name]
        if known.shape == image.shape and np.array_equal(known, image) and np.array_equal(known_valid, valid):
            return SAME, case.damage
        if case.damage in _CUTS and not _only_less(image, valid, known):
            return WRONG, "the file was cut, and the missing part was invented"
        second = _second_opinion(case.path)
        if second is None:
            return ACCEPTED, "no second opinion"
        if second.shape[:2] != size:
            return WRONG, f"{size} here, {second.shape[:2]} by the other decoder"
        if self.name == "jpeg":
            return ACCEPTED, "as large as by the other decoder"
        wrong = _differ(image, valid, second, windows)
        return (WRONG, f"{wrong} pixels unlike the other decoder's") if wrong else (ACCEPTED, "as the other decoder")


def _only_less(image: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], known: npt.NDArray[np.uint8]) -> bool:
    """True if every valid pixel equals that of the whole file, so that lost ones are marked as no data."""
    return image.shape == known.shape and bool((image[valid] == known[valid]).all())


def _windows_of(path: Path) -> tuple[Pixels, list[Window], tuple[int, int]]:
    """The picture as the runtime reads it, by windows; of a large one a sample of these, one below the other."""
    source = open_input(path)
    try:
        height, width = source.height, source.width
        windows = [
            Window(top, left, min(_WINDOW, height - top), min(_WINDOW, width - left))
            for top in _starts(height)
            for left in _starts(width)
        ]
        image = np.zeros(
            (min(height, _WINDOW * len(_starts(height))), min(width, _WINDOW * len(_starts(width))), 3), np.uint8
        )
        valid = np.zeros(image.shape[:2], bool)
        rows = {top: index * _WINDOW for index, top in enumerate(_starts(height))}
        columns = {left: index * _WINDOW for index, left in enumerate(_starts(width))}
        for window in windows:
            top, left = rows[window.top], columns[window.left]
            place = np.s_[top : top + window.height, left : left + window.width]
            image[place] = source.read(window)
            mask = source.valid(window)
            valid[place] = True if mask is None else mask
    finally:
        if isinstance(source, RasterSource):
            source.close()
    # Pixels without data have no meaning.
    image[~valid] = 0
    return (image, valid), windows, (height, width)


def _starts(length: int) -> list[int]:
    """Starts of windows along a side: all of a small one, of a large one the first, the last and some between."""
    starts = list(range(0, length, _WINDOW))
    most = int(_MOST_WINDOWS**0.5)
    if len(starts) <= most:
        return starts
    return sorted({starts[index * (len(starts) - 1) // (most - 1)] for index in range(most)})


def _differ(
    image: npt.NDArray[np.uint8],
    valid: npt.NDArray[np.bool_],
    second: npt.NDArray[np.uint8],
    windows: list[Window],
) -> int:
    """The number of valid pixels that the other decoder reads differently."""
    tops, lefts = sorted({window.top for window in windows}), sorted({window.left for window in windows})
    other = np.zeros_like(image)
    for window in windows:
        top, left = tops.index(window.top) * _WINDOW, lefts.index(window.left) * _WINDOW
        other[top : top + window.height, left : left + window.width] = second[window.slices]
    return int(((image != other).any(axis=-1) & valid).sum())


def _second_opinion(path: Path) -> npt.NDArray[np.uint8] | None:
    """RGB by an implementation that the runtime does not use for this format; None where it does not read the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _by_gdal(path) if path.suffix in (".png", ".jpg") else _by_tifffile(path)
        except Exception:  # Any error means no opinion.
            return None


def _by_gdal(path: Path) -> npt.NDArray[np.uint8] | None:
    import rasterio

    # A decoder that reports guessing gives no second opinion.
    strict = rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING="TRUE")
    with strict, rasterio.open(path, driver="PNG" if path.suffix == ".png" else "JPEG") as dataset:
        if dataset.height * dataset.width > _SECOND_SIDE**2 or set(dataset.dtypes) != {"uint8"}:
            return None
        values = dataset.read()
        if dataset.colorinterp[0].name == "palette":
            table = np.zeros((256, 3), np.uint8)
            for index, colour in dataset.colormap(1).items():
                table[index] = colour[:3]
            found: npt.NDArray[np.uint8] = table[values[0]]
            return found
        bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        if bits is not None:
            values = (values * (255 // (2 ** int(bits) - 1))).astype(np.uint8)
    if len(values) in (1, 2):
        return np.repeat(values[0][..., None], 3, axis=2)
    return np.ascontiguousarray(values[:3].transpose(1, 2, 0)) if len(values) in (3, 4) else None


def _by_tifffile(path: Path) -> npt.NDArray[np.uint8] | None:
    import tifffile

    with _warnings_are_errors(tifffile.logger()), tifffile.TiffFile(path) as file:
        page = file.pages[0]
        tags = {tag.code: tag.value for tag in page.tags.values()}
        grey = tags.get(_PHOTOMETRIC) in (0, 1)
        if page.imagelength * page.imagewidth > _SECOND_SIDE**2 or page.dtype != np.uint8:
            return None
        if tags.get(_BITS) not in (8, (8, 8, 8)) or not (grey or tags.get(_PHOTOMETRIC) == 2):
            return None
        values = np.squeeze(page.asarray())
    if grey:
        values = 255 - values if tags[_PHOTOMETRIC] == 0 else values
        return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else None
    if tags.get(_PLANES) == 2:
        values = values.transpose(1, 2, 0)
    return values if values.shape[2:] == (3,) else None


class _Raiser(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError(record.getMessage())


@contextlib.contextmanager
def _warnings_are_errors(logger: logging.Logger) -> Iterator[None]:
    raiser = _Raiser(logging.WARNING)
    logger.addHandler(raiser)
    try:
        yield
    finally:
        logger.removeHandler(raiser)


def _encode(image: Any, kind: str, **options: Any) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def _pngs() -> dict[str, bytes]:
    from PIL import Image

    colours = scene(90, 130)
    alpha = np.full((90, 130, 1), 255, np.uint8)
    alpha[20:40, 30:60] = 0
    return {
        "rgb": _encode(colours, "PNG"),
        "rgba": _encode(np.concatenate([colours, alpha], axis=2), "PNG"),
        "palette": _encode(Image.fromarray(colours).quantize(16), "PNG"),
        "grey": _encode(colours[..., 0], "PNG"),
    }


def _jpegs() -> dict[str, bytes]:
    colours = scene(90, 130)
    return {
        "baseline": _encode(colours, "JPEG", quality=90),
        "progressive": _encode(colours, "JPEG", quality=80, progressive=True),
        "grey": _encode(colours[..., 1], "JPEG"),
        "restarts": _encode(colours, "JPEG", restart_marker_rows=1),
        "full-colour": _encode(colours, "JPEG", subsampling=0, optimize=True),
    }


def _tiffs() -> dict[str, bytes]:
    colours = scene(90, 130)
    return {
        "plain": _encode(colours, "TIFF"),
        "lzw": _encode(colours, "TIFF", compression="tiff_lzw"),
        "deflate": _encode(colours, "TIFF", compression="tiff_adobe_deflate"),
        "packbits": _encode(colours[..., 0], "TIFF", compression="packbits"),
    }


def _rasters() -> dict[str, bytes]:
    import rasterio

    from tests.emra_deploy.pictures.raster_files import UTM, write

    colours = scene(150, 200).transpose(2, 0, 1)
    empty = colours.copy()
    empty[:, 40:100, 50:120] = 0
    tiles = {"blockxsize": 64, "blockysize": 64}
    strips = {"tiled": False, "compress": "none"}
    kinds: dict[str, dict[str, Any]] = {
        "tiled-deflate": tiles,
        "tiled-lzw-predictor": {**tiles, "compress": "lzw", "predictor": 2},
        "strips": {**strips, "blockysize": 16},
        "planes": {**strips, "interleave": "band", "compress": "deflate"},
        "bigtiff": {**tiles, "compress": "zstd", "bigtiff": "YES"},
        "jpeg": {**tiles, "compress": "jpeg", "photometric": "YCBCR"},
        "nodata": {**tiles, "nodata": 0},
        "sparse": {**tiles, "sparse_ok": True, "nodata": 0},
    }
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in kinds.items():
            pixels = empty if name in ("nodata", "sparse") else colours
            path = write(Path(folder, f"{name}.tif"), pixels, **UTM, **options)
            if name == "tiled-deflate":
                with rasterio.open(path, "r+") as raster:
                    raster.build_overviews([2])
            made[name] = path.read_bytes()
    return made


def subjects() -> list[Subject]:
    """Pictures and rasters.

    Raises:
        EmraError: ``library-missing`` without the other decoders.
    """
    for library, extra in (("rasterio", "raster"), ("tifffile", "bench")):
        need(extra, library, purpose="a second decoder")
    return [
        PictureSubject("png", 1.0, ".png", PNG, _pngs),
        PictureSubject("jpeg", 1.0, ".jpg", JPEG, _jpegs),
        PictureSubject("tiff", 1.0, ".tif", TIFF, _tiffs),
        PictureSubject("geotiff", 2.0, ".tif", TIFF, _rasters),
    ]
