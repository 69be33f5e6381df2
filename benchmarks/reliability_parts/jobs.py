"""Jobs of `emra segment` that are killed or whose disk fails, and what they leave."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability_parts.farm import REPOSITORY
from benchmarks.reliability_parts.model import picture, write_model

# Rows count as done when they are on the disk, every five seconds; more often here, so that more of what is killed or
# fails is the journal's own writing.
_PROGRAM = (
    "import sys\n"
    "from emra_deploy.maps import journal\n"
    "journal.SYNC_SECONDS = float(sys.argv.pop(1))\n"
    "from emra_deploy.cli.main import main\n"
    "sys.exit(main())\n"
)


@dataclass(frozen=True)
class Job:
    """A call of ``emra segment`` in a folder of its own.

    Attributes:
        name: For people.
        source: The picture.
        model: The model file.
        outputs: Names of the files it makes, the map first.
        words: More arguments; ``{}`` is the folder.
        sync: Seconds after which rows are brought to the disk.
    """

    name: str
    source: Path
    model: Path
    outputs: tuple[str, ...]
    words: tuple[str, ...]
    sync: float = 0.05

    def command(self, folder: Path) -> list[str]:
        """The command line that writes into a folder."""
        words = [word.replace("{}", str(folder)) for word in self.words]
        return [
            *(sys.executable, "-c", _PROGRAM, str(self.sync), "segment", str(self.source), "-m", str(self.model)),
            *("-o", str(folder / self.outputs[0]), "--threads", "1", *words),
        ]

    def start(self, folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            self.command(folder),
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def digests(self, folder: Path) -> dict[str, str]:
        """The sha256 of the outputs that are there."""
        places = {name: folder / name for name in self.outputs}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in places.items() if path.exists()}


def sample_raster(path: Path, side: int) -> None:
    """A GeoTIFF of the trials' scene, repeated where it is large."""
    import numpy as np
    import rasterio

    scene = picture(512, 512)
    repeats = -(-side // 512)
    pixels = np.tile(scene, (repeats, repeats, 1))[:side, :side].transpose(2, 0, 1)
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.3, 0, 300_000, 0, -0.3, 2_780_000)}
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", **place, **options
    ) as raster:
        raster.write(pixels)


def map_job(folder: Path, side: int) -> Job:
    """A map with a journal, an overlay and polygons."""
    write_model(folder / "model.onnx", 128)
    sample_raster(folder / "in.tif", side)
    return Job(
        "map",
        folder / "in.tif",
        folder / "model.onnx",
        ("map.tif", "over.png", "map.geojson"),
        ("--journal", "on", "--overlay", "{}/over.png", "--polygons", "{}/map.geojson", "--min-pixels", "400"),
    )
