"""Copying a label raster and its overviews into one cloud-optimised GeoTIFF (COG), by GDAL in a process of its own.

GDAL 3.10's COG driver crashes when the disk fails at a certain write, and a full disk must not end a drone's pipeline.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from emra_deploy.pictures.raster import gdal_session, open_dataset

COPY_CACHE_BYTES = 16 * 2**20
"""GDAL's cache where each block is read once."""

_CODE = "import sys; sys.path[:] = {path!r}; from emra_deploy.maps.cog import main; sys.exit(main(*{words!r}))"


def copy_levels(levels: Sequence[Path], path: Path, block: int) -> None:
    """Copy GeoTIFFs into a COG that has the first as its pixels and the others as its overviews.

    Where Python is part of another program, which cannot be started as an interpreter, this process does it.

    Args:
        levels: From large to small.
        path: The COG to write.
        block: Side of its blocks in pixels.

    Raises:
        OSError: It failed, or GDAL crashed.
    """
    words = [str(block), os.fspath(path), *map(os.fspath, levels)]
    if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")):
        copy_here(levels, path, block)
        return
    command = [sys.executable, "-c", _CODE.format(path=sys.path, words=words)]
    # The other process ends when this one is gone, which its standard input tells.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        try:
            said = child.stderr.read().decode(errors="replace").strip() if child.stderr else ""
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if status < 0:
        raise OSError(f"GDAL was ended by signal {-status}")
    if status:
        raise OSError(said.splitlines()[-1] if said else f"GDAL ended with status {status}")


def copy_here(levels: Sequence[Path], path: Path, block: int) -> None:
    """As `copy_levels`, in this process.

    Raises:
        Exception: Whatever rasterio raises.
    """
    from rasterio import shutil
    from rasterio.io import MemoryFile

    with gdal_session() as rasterio, rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=COPY_CACHE_BYTES):
        with MemoryFile(ext=".vrt") as described, open_dataset(rasterio, levels[0]) as pixels:
            shutil.copy(pixels, described.name, driver="VRT")
            text = described.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            joined = rasterio.open(_joined(text, levels), driver="VRT")
        with joined:
            shutil.copy(
                joined,
                os.fspath(path),
                driver="COG",
                blocksize=block,
                compress="deflate",
                overviews="FORCE_USE_EXISTING",
                bigtiff="IF_SAFER",
            )


def _joined(text: bytes, levels: Sequence[Path]) -> str:
    """A virtual raster of the first level, as GDAL described it, with the others as its overviews."""
    root = ElementTree.fromstring(text)
    for name in root.iter("SourceFilename"):
        name.set("relativeToVRT", "0")
        name.text = os.fspath(levels[0].absolute())
    band = root.find("VRTRasterBand")
    if band is None:
        raise OSError(f"{levels[0].name} has no band")
    for level in levels[1:]:
        overview = ElementTree.SubElement(band, "Overview")
        ElementTree.SubElement(overview, "SourceFilename", relativeToVRT="0").text = os.fspath(level.absolute())
        ElementTree.SubElement(overview, "SourceBand").text = "1"
    return ElementTree.tostring(root, encoding="unicode")


def main(block: str, path: str, *levels: str) -> int:
    """The other process: an exit status, and a line on standard error where it is not 0."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
    try:
        copy_here([Path(level) for level in levels], Path(path), int(block))
    except Exception as error:
        deepest: BaseException = error
        while deepest.__cause__ is not None:
            deepest = deepest.__cause__
        sys.stderr.write(f"\n{' '.join(str(deepest).split())}\n")
        return 2
    return 0
