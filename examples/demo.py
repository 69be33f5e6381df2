"""Segment a picture with the shipped model, or a generated scene with known labels, and score its map.

    python examples/demo.py [INPUT] [--output FOLDER] [--model FILE] [--side PIXELS]

Needs the runtime only: `pip install -e '.[runtime,raster]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emra_deploy.cli.main import main as emra
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need

SEED = 1_000_004
"""Seed of the scene. The model was trained on scenes of seeds below 1000."""

SIDE = 1024
"""Pixels; at 1.5 m each, a district of 2.4 square kilometres."""


def make_scene(folder: Path, side: int) -> tuple[Path, Path]:
    """Write the scene and its truth, ``side`` x ``side`` at 1.5 m, in UTM zone 40 N.

    Returns:
        The picture and the labels, both GeoTIFF.
    """
    from training.data.scenes import generate, write_geotiff

    image, truth = folder / "scene.tif", folder / "scene_truth.tif"
    write_geotiff(generate(SEED, side, side), image, truth)
    return image, truth


def show_score(prediction: Path, truth: Path) -> None:
    """Print the agreement of a label map with the truth.

    Raises:
        EmraError: ``class-mismatch`` when the map has other classes than the scene.
    """
    import rasterio

    from emra_deploy.evaluation.metrics import ConfusionMatrix
    from training.data.scenes import DUBAI_CLASSES

    with rasterio.open(prediction) as made, rasterio.open(truth) as true:
        names = tuple(json.loads(made.tags()["EMRA_CLASSES"]))
        if names != DUBAI_CLASSES.names:
            raise EmraError(
                "class-mismatch",
                f"the model has the classes {', '.join(names)}; the scene has {', '.join(DUBAI_CLASSES.names)}",
                "Give a picture of your own with this model, or leave out --model",
            )
        matrix = ConfusionMatrix(len(DUBAI_CLASSES))
        matrix.update(true.read(1), made.read(1))
    scores = matrix.scores(DUBAI_CLASSES)
    table = Table("class", "IoU", "F1", box=None)
    for name, iou, f1 in zip(scores.names, scores.iou, scores.f1, strict=True):
        table.add_row(name, f"{iou:.3f}", f"{f1:.3f}")
    console = Console()
    console.print("the map against the scene's truth:")
    console.print(table)
    console.print(f"mIoU {scores.miou:.3f}, overall accuracy {scores.accuracy:.3f}", highlight=False)


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 2 for a user error."""
    parser = argparse.ArgumentParser(description="Segment a picture, or a generated scene, with the shipped model.")
    parser.add_argument("input", nargs="?", type=Path, help="JPEG, PNG, TIFF or GeoTIFF (default: a generated scene)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the outputs (default: demo)")
    parser.add_argument("--model", type=Path, help="model file of the scene's five classes (default: the shipped one)")
    parser.add_argument("--side", type=int, default=SIDE, metavar="PIXELS", help=f"of the scene (default: {SIDE})")
    options = parser.parse_args(argv)
    folder: Path = options.output
    truth = None
    try:
        if options.input is None:
            need("raster", "rasterio", purpose="a scene")
        folder.mkdir(parents=True, exist_ok=True)
        picture = options.input
        if picture is None:
            picture, truth = make_scene(folder, options.side)
            sys.stdout.write(f"scene    {picture}\n")
    except (OSError, EmraError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    plain = picture.suffix.lower() not in (".tif", ".tiff")
    result = folder / f"{picture.stem}_map{'.png' if plain else '.tif'}"
    overlay = folder / f"{picture.stem}_overlay.png"
    sys.stdout.flush()
    words = ["segment", str(picture), "--output", str(result), "--overlay", str(overlay), "--overwrite"]
    status = emra(words if options.model is None else [*words, "--model", str(options.model)])
    if status == 0 and truth is not None:
        try:
            show_score(result, truth)
        except EmraError as error:
            sys.stderr.write(f"demo: {error}\n")
            return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
