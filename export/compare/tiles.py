"""Pictures that a converted model is compared on: the golden tile, real images, noise."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.pictures.images import read_image
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.sources import ArraySource, ImageSource
from emra_deploy.pictures.windows import Window
from training.data.scenes import generate

GOLDEN_SEED = 20
"""A generated scene with all five kinds of cover in its middle."""

GOLDEN_BYTES = 150_000
"""Size limit of the golden tile, which every file contains; its colours are reduced if necessary."""

MAX_REAL_TILES = 4

SCENES = (21, 22, 23)
"""Seeds of the generated scenes that every conversion is checked on."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})


@dataclass(frozen=True)
class PlainTile:
    """A picture in memory or in a file outside a data set, for `export.compare.comparison.compare`.

    Attributes:
        name: Distinct among those compared.
        content: uint8 H x W x 3, or the path of an image file.
        labels: uint8 H x W, 255 where there is none; None without any.
    """

    name: str
    content: npt.NDArray[np.uint8] | Path
    labels: npt.NDArray[np.uint8] | None = None

    def source(self) -> ImageSource:
        """The pixels."""
        return open_input(self.content) if isinstance(self.content, Path) else ArraySource(self.content)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The whole picture, uint8 H x W x 3."""
        source = self.source()
        return source.read(Window(0, 0, source.height, source.width))

    def read_labels(self, window: Window | None = None) -> npt.NDArray[np.uint8]:
        """Labels of a window, or of the whole picture.

        Raises:
            EmraError: ``no-labels`` where there are none.
        """
        if self.labels is None:
            raise EmraError("no-labels", f"{self.name} has no labels", "Compare without them")
        return self.labels if window is None else self.labels[window.slices]


def golden_image(path: str | Path | None, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The input of the golden tile, in few enough colours to be small as a PNG.

    Args:
        path: A picture whose middle is used, or None for a generated scene.
        height: Height of the model's input.
        width: Width of the model's input.

    Returns:
        uint8 height x width x 3.
    """
    from PIL import Image

    image = generate(GOLDEN_SEED, height, width).image if path is None else middle(read_image(path), height, width)
    reduced = image
    for colours in (64, 32, 16, 8):
        picture = Image.fromarray(image).quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        reduced = np.asarray(picture.convert("RGB"))
        stream = io.BytesIO()
        Image.fromarray(reduced).save(stream, format="PNG", optimize=True)
        if stream.tell() <= GOLDEN_BYTES:
            break
    # A copy: Pillow's pixels are read-only, and PyTorch warns about read-only arrays.
    return np.array(reduced)


def real_tiles(folder: str | Path | None, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Middles of up to `MAX_REAL_TILES` images, spread over a folder and those below it.

    Returns:
        uint8 K x height x width x 3; K is 0 without a folder.

    Raises:
        EmraError: The folder is absent or has no images, or one cannot be read.
    """
    if folder is None:
        return np.empty((0, height, width, 3), np.uint8)
    folder = Path(folder)
    found = images_below(folder)
    if not found:
        raise EmraError("dataset-empty", "no JPEG, PNG or TIFF images here", "Give a folder with images", folder)
    chosen = found[:: -(-len(found) // MAX_REAL_TILES)]
    return np.stack([middle(read_image(path), height, width) for path in chosen])


def conversion_tiles(manifest: Manifest, folder: str | Path | None) -> npt.NDArray[np.uint8]:
    """Tiles to compare a converted file with its source file on: the golden tile, real tiles, and scenes.

    Args:
        manifest: The Manifest of both.
        folder: Folder of images, or None; see `real_tiles`.

    Returns:
        uint8 K x height x width x 3, the golden tile first where there is one.

    Raises:
        EmraError: Those of `real_tiles`.
    """
    height, width = manifest.tile
    golden = [] if manifest.golden is None else [manifest.golden.image()]
    scenes = [generate(seed, height, width).image for seed in SCENES]
    return np.stack([*golden, *real_tiles(folder, height, width), *scenes])


def images_below(folder: Path) -> list[Path]:
    """The images of a folder and those below it, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def random_tiles(count: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Noise of every frequency, uint8 count x height x width x 3: blocks of random colours, then random bytes."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    coarse = random.integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    noise[0] = coarse.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
    return noise


def middle(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The central height x width pixels of a picture; a smaller picture is extended by reflection."""
    missing = [max(0, want - have) for want, have in zip((height, width), image.shape[:2], strict=True)]
    image = np.pad(image, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="symmetric")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])
