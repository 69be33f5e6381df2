"""Copies a label raster and its overviews into one cloud-optimised GeoTIFF (COG), by GDAL in a child process.

GDAL 3.10's COG driver crashes when the disk fails at a certain write, and a full disk must not end a drone's pipeline.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from emra_deploy.pictures.raster import gdal_message, gdal_session, open_dataset

COPY_CACHE_BYTES = 16 * 2**20
"""Size of GDAL's cache where each block is read once."""

_CODE = "import sys; sys.path[:] = {path!r}; from emra_deploy.maps.cog import main; sys.exit(main(*{words!r}))"


def copy_to_cog(raster: Path, path: Path, block: int) -> None:
    """Copy a GeoTIFF and its overviews into a COG.

    Where Python is embedded in another program, which cannot be started as an interpreter, this process copies.

    Args:
        raster: The GeoTIFF; its overviews are the files of its name with ``.ovr``, ``.ovr.ovr`` and so on.
        path: The COG to write.
        block: Side of its blocks in pixels.

    Raises:
        OSError: Copying failed, or GDAL crashed.
    """
    words = [os.fspath(raster), os.fspath(path), str(block)]
    if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")):
        copy_here(raster, path, block)
        return
    command = [sys.executable, "-c", _CODE.format(path=sys.path, words=words)]
    # The child ends with this process: its standard input closes.
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


def copy_here(raster: Path, path: Path, block: int) -> None:
    """As `copy_to_cog`, in this process.

    Raises:
        Exception: Whatever rasterio raises.
    """
    from rasterio import shutil

    # The overviews are found by their names beside the raster, whatever the user's environment says of reading folders.
    options = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": COPY_CACHE_BYTES, "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
    with gdal_session() as rasterio, rasterio.Env(**options), open_dataset(rasterio, raster) as pixels:
        shutil.copy(
            pixels,
            os.fspath(path),
            driver="COG",
            blocksize=block,
            compress="deflate",
            overviews="FORCE_USE_EXISTING",
            bigtiff="IF_SAFER",
        )


def main(raster: str, path: str, block: str) -> int:
    """Entry point of the child process; returns its exit status and prints one line on failure."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
    try:
        copy_here(Path(raster), Path(path), int(block))
    except Exception as error:
        sys.stderr.write(f"\n{gdal_message(error)}\n")
        return 2
    return 0
