"""The files that a map is written to: which ones are possible, and what takes its rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import check_all_outputs

if TYPE_CHECKING:
    from emra_deploy.maps.label_files import LabelSink
    from emra_deploy.pictures.georeference import GeoReference
    from emra_deploy.pictures.raster import RasterSource
    from emra_deploy.pictures.sources import ArraySource
    from emra_deploy.segmenting.segmenter import Segmenter


def check_outputs(
    input: str | os.PathLike[str],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overlay: str | os.PathLike[str] | None,
    polygons: str | os.PathLike[str] | None,
    overwrite: bool,
) -> bool:
    """See that the outputs of a map can be written, and to none of its inputs.

    Returns:
        Whether the label map is a raster.

    Raises:
        EmraError: ``output-suffix``, ``output-is-input``, and ``raster-extra``, those of `check_all_outputs`.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in (".tif", ".tiff", ".png"):
        raise EmraError(
            "output-suffix",
            f"the output ends in {repr(suffix) if suffix else 'no suffix'}, expected .tif or .png",
            "Use .tif for a map with georeference, .png for a picture of the labels",
            output,
        )
    if suffix != ".png":
        need("raster", "rasterio", purpose="a .tif map, unlike a .png,", code="raster-extra")
    if overlay is not None and Path(overlay).suffix.lower() != ".png":
        raise EmraError("output-suffix", "the overlay does not end in .png", "Give it that suffix", overlay)
    if polygons is not None:
        from emra_deploy.maps.polygons import check_polygon_output

        check_polygon_output(Path(polygons))
        if suffix == ".png":
            raise EmraError(
                "output-suffix", "polygons are traced from a label raster", "Give an output that ends in .tif", output
            )
    check_all_outputs([output, overlay, polygons], overwrite=overwrite, inputs=[input, model])
    return suffix != ".png"


def open_sink(
    part: Path,
    as_raster: bool,
    source: ArraySource | RasterSource,
    segmenter: Segmenter,
    georeference: GeoReference | None,
) -> LabelSink:
    """What takes the rows of a label map, and writes it to a file.

    Args:
        part: The temporary file.
        as_raster: As `check_outputs` gave it.
        source: The picture.
        segmenter: Whose labels they are.
        georeference: Of the picture.

    Raises:
        EmraError: Those of `LabelWriter`.
    """
    from emra_deploy.maps.label_files import LabelWriter, PictureWriter

    if not as_raster:
        return PictureWriter(part, source.height, source.width, segmenter.classes)
    tags = {"EMRA_MODEL": segmenter.manifest.name, "EMRA_PRECISION": segmenter.manifest.precision}
    return LabelWriter(part, source.height, source.width, segmenter.classes, georeference, tags)
