"""Files made to do harm, each built on the spot: what it is, and what it would do to a reader that trusts it.

Two canaries show harm. Code that runs touches `Canary.trap`. `Canary.secret` lies outside the folder that a file may
refer to; its bytes must not find their way anywhere.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from PIL import Image

from tests.onnx_models import build_model, scene


@dataclass(frozen=True)
class Canary:
    """Places where an attack would leave traces.

    Attributes:
        folder: Where the attack may put files.
        trap: A path that exists once code has run.
        secret: A file outside the folder.
    """

    folder: Path
    trap: Path
    secret: Path


class Payload:
    """Touches a path when it is unpickled."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.trap,))


def _pickled(name: str) -> Callable[[Canary], Path]:
    def build(canary: Canary) -> Path:
        path = canary.folder / name
        path.write_bytes(pickle.dumps({"state_dict": Payload(canary.trap)}))
        return path

    return build


def _zipped_pickle(canary: Canary) -> Path:
    """The layout of torch.save."""
    path = canary.folder / "model.onnx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(canary.trap)))
        archive.writestr("archive/version", "3\n")
    return path


def _external(location: Callable[[Canary], str]) -> Callable[[Canary], Path]:
    """A model whose weights are said to lie at a place of the attacker's choice."""

    def build(canary: Canary) -> Path:
        path = canary.folder / "model.onnx"
        build_model(path)
        model = onnx.load(path)
        tensor = model.graph.initializer[0]
        size = numpy_helper.to_array(tensor).nbytes
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location(canary)), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())
        return path

    return build


def _symlink(canary: Canary) -> str:
    (canary.folder / "weights.bin").symlink_to(canary.secret)
    return "weights.bin"


def _hardlink(canary: Canary) -> str:
    (canary.folder / "weights.bin").hardlink_to(canary.secret)
    return "weights.bin"


def _symlinked_folder(canary: Canary) -> str:
    (canary.folder / "sub").symlink_to(canary.secret.parent)
    return f"sub/{canary.secret.name}"


def _through_a_folder(canary: Canary) -> str:
    (canary.folder / "sub").mkdir()
    return f"sub/../../{canary.secret.parent.name}/{canary.secret.name}"


MODELS: dict[str, Callable[[Canary], Path]] = {
    "pickle": _pickled("model.onnx"),
    "pickle-as-engine": _pickled("model.engine"),
    "torch-archive": _zipped_pickle,
    "external-parent": _external(lambda canary: f"../{canary.secret.parent.name}/{canary.secret.name}"),
    "external-absolute": _external(lambda canary: str(canary.secret)),
    "external-symlink": _external(_symlink),
    "external-hardlink": _external(_hardlink),
    "external-symlinked-folder": _external(_symlinked_folder),
    "external-through-a-folder": _external(_through_a_folder),
    "external-url": _external(lambda canary: f"file://{canary.secret}"),
    "external-device": _external(lambda canary: "/dev/zero"),
    "external-empty": _external(lambda canary: ""),
}
"""Posing as model files."""


def _vrt(body: str) -> Callable[[Canary], Path]:
    def build(canary: Canary) -> Path:
        path = canary.folder / "picture.tif"
        text = body.format(secret=canary.secret, trap=canary.trap)
        path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{text}</VRTDataset>')
        return path

    return build


_BAND = '<VRTRasterBand dataType="Byte" band="{}"{}>{}</VRTRasterBand>'
_READS_SECRET = "".join(
    _BAND.format(
        band,
        "",
        '<SimpleSource><SourceFilename relativeToVRT="0">{secret}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource>",
    )
    for band in (1, 2, 3)
)
_RUNS_CODE = "".join(
    _BAND.format(
        band,
        ' subClass="VRTDerivedRasterBand"',
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f</PixelFunctionType>"
        "<PixelFunctionCode><![CDATA[\nimport pathlib\ndef f(*a, **k):\n    pathlib.Path('{trap}').touch()\n]]>"
        "</PixelFunctionCode>",
    )
    for band in (1, 2, 3)
)


def _postscript(canary: Canary) -> Path:
    path = canary.folder / "picture.png"
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
        f"({canary.trap}) (w) file closefile\nshowpage\n%%EOF\n"
    )
    return path


def _png(width: int, height: int, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (1 + 3 * min(width, 100)) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _png_bomb(canary: Canary) -> Path:
    path = canary.folder / "picture.png"
    path.write_bytes(_png(60_000, 60_000))
    return path


def _text_bomb(canary: Canary) -> Path:
    """256 MB of text in a quarter of a megabyte."""
    data = b"Comment\0\0" + zlib.compress(b" " * (256 << 20), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    path = canary.folder / "picture.png"
    path.write_bytes(_png(8, 8, chunk))
    return path


def _tiff_loop(canary: Canary) -> Path:
    """A TIFF whose directory says that the next directory is itself."""
    buffer = io.BytesIO()
    Image.fromarray(scene(8, 8)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    path = canary.folder / "picture.tif"
    path.write_bytes(data)
    return path


def _tiff_of_many_entries(canary: Canary) -> Path:
    path = canary.folder / "picture.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + b"\xff" * 4000)
    return path


def _archive(canary: Canary) -> Path:
    """A tar that would unpack over the canary, by the name of a picture."""
    path = canary.folder / "picture.tif"
    with tarfile.open(path, "w") as archive:
        for name in (f"../{canary.trap.name}", str(canary.trap)):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


PICTURES: dict[str, Callable[[Canary], Path]] = {
    "pickle": _pickled("picture.png"),
    "vrt-reads-a-file": _vrt(_READS_SECRET),
    "vrt-runs-code": _vrt(_RUNS_CODE),
    "postscript": _postscript,
    "png-bomb": _png_bomb,
    "tiff-of-many-entries": _tiff_of_many_entries,
    "archive": _archive,
}
"""Posing as pictures; all must be refused."""

HARMLESS: dict[str, Callable[[Canary], Path]] = {"text-bomb": _text_bomb, "tiff-loop": _tiff_loop}
"""Pictures whose pixels are sound; they may be read or refused, in bounded time and memory."""

REMOTE = (
    "/vsicurl/http://127.0.0.1:{port}/picture.tif",
    "/vsicurl_streaming/http://127.0.0.1:{port}/picture.tif",
    "http://127.0.0.1:{port}/picture.tif",
    "/vsizip/vsicurl/http://127.0.0.1:{port}/a.zip/picture.tif",
    "zip+http://127.0.0.1:{port}/a.zip!picture.tif",
    "GTIFF_DIR:1:/vsicurl/http://127.0.0.1:{port}/picture.tif",
)
"""Names that GDAL would fetch."""


def secret_bytes() -> bytes:
    """A raster in form, so that a reader that follows the reference succeeds."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(buffer, "TIFF")
    return buffer.getvalue()
