"""Jobs of `emra segment` to kill or to run on a failing disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.onnx_models import build_model, scene

# The journal is synced every five seconds. Here it is synced more often, so that more of the killed or failing
# operations belong to it.
_PROGRAM = (
    "import sys\n"
    "from emra_deploy.maps import journal\n"
    "journal.SYNC_SECONDS = float(sys.argv.pop(1))\n"
    "from emra_deploy.cli.main import main\n"
    "sys.exit(main())\n"
)


@dataclass(frozen=True)
class Job:
    """A call of ``emra segment`` in its own folder.

    Attributes:
        name: Shown in the scoreboard.
        source: The picture.
        model: The model file.
        outputs: Names of its output files, the map first.
        words: More arguments; ``{}`` stands for the folder.
        sync: Seconds between syncs of the journal.
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
        """The sha256 of each output that exists."""
        places = {name: folder / name for name in self.outputs}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in places.items() if path.exists()}


def sample_raster(path: Path, side: int) -> None:
    """A GeoTIFF of the tests' scene, repeated if it is large."""
    import numpy as np

    from tests.emra_deploy.pictures.raster_files import UTM, write

    repeats = -(-side // 512)
    pixels = np.tile(scene(512, 512), (repeats, repeats, 1))[:side, :side].transpose(2, 0, 1)
    write(path, pixels, blockxsize=256, blockysize=256, **UTM)


def map_job(folder: Path, side: int) -> Job:
    """A map with a journal, an overlay and polygons."""
    build_model(folder / "model.onnx", (128, 128))
    sample_raster(folder / "in.tif", side)
    return Job(
        "map",
        folder / "in.tif",
        folder / "model.onnx",
        ("map.tif", "over.png", "map.geojson"),
        ("--journal", "on", "--overlay", "{}/over.png", "--polygons", "{}/map.geojson", "--min-pixels", "400"),
    )
