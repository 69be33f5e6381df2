"""``python -m training.data.scenes``: write a generated scene and its truth as GeoTIFFs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emra_deploy.host.command import command, tell
from emra_deploy.host.extras import need
from emra_deploy.host.files import make_folder
from training.data.scenes import DEFAULT_GSD, generate, write_geotiff


@command()
def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 2 for a bad argument."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data.scenes", description="Write a generated aerial scene and its truth."
    )
    parser.add_argument("--seed", type=int, default=2, help="which scene (default 2)")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1024), metavar=("HEIGHT", "WIDTH"), help="pixels")
    parser.add_argument("--gsd", type=float, default=DEFAULT_GSD, help=f"metres per pixel (default {DEFAULT_GSD})")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the two files")
    options = parser.parse_args(arguments)
    need("raster", "rasterio", purpose="writing a GeoTIFF")
    scene = generate(options.seed, options.size[0], options.size[1], options.gsd)
    make_folder(options.output)
    image, labels = options.output / "scene.tif", options.output / "scene_labels.tif"
    write_geotiff(scene, image, labels)
    tell(f"{image}\n{labels}", image, labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
