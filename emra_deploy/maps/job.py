"""The request for a map: which picture, which outputs and which settings, validated when it is made."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from emra_deploy.errors import EmraError
from emra_deploy.segmenting.palettes import PALETTES, check_palette

if TYPE_CHECKING:
    from emra_deploy.pictures.scaling import Scale

JOURNAL_CHOICES = ("auto", "on", "off")

_Path = str | os.PathLike[str]


def parse_bands(text: str) -> tuple[int, ...]:
    """Band numbers from text such as ``"3,2,1"``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise EmraError(
            "image-bands", f"bands {text!r}, expected three numbers such as 3,2,1", "Correct --bands"
        ) from error


def parse_names(text: str) -> tuple[str, ...]:
    """Names from text such as ``"building, water"``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_scale(limits: list[float]) -> Scale:
    """A `Scale` from its two limits."""
    from emra_deploy.pictures.scaling import Scale

    return Scale(*limits)


@dataclass(frozen=True)
class MapJob:
    """A request to segment an image file into a label map.

    Values are checked here; `emra_deploy.maps.run` checks the files. This module loads nothing heavy, because the
    command line builds its options from the fields, their descriptions here and their metadata.

    Attributes:
        input: JPEG, PNG, TIFF or GeoTIFF; EXIF rotation is applied, transparency is no data
        output: label map: .tif (GeoTIFF, nodata 255) or .png (palette)
        overlay: .png of the classes over the picture, with legend, of at most 4096 pixels a side (TIFF: 2048)
        polygons: .gpkg (in the raster's coordinates) or .geojson (in degrees) of the outlines of classes; needs a .tif
            output
        polygon_classes: classes to outline (default: all)
        min_area: least area of a polygon in square metres
        min_pixels: least area of a polygon in pixels
        opacity: weight of the overlay's colours, 0 to 1
        overwrite: replace existing outputs, which are kept otherwise
        scale: for 16-bit and float pictures: the values that become black and white
        bands: numbers, from 1, of the model's bands in the picture, such as 3,2,1 (default: by their names)
        gsd: size of a pixel on the ground in metres; where it and the model's are known (auto: from the georeference)
            and differ, the model sees the picture at its own
        journal: keep the finished rows of a .tif beside the output, so that the same job resumes after a kill
            (auto: for rasters of 64 megapixels and more)
        outlines: draw the rims of all regions of the overlay in opaque colours, which shows them on bright roofs
        palette: colours of map, overlay and legend: natural (water blue, vegetation green, ...) and safe are for every
            kind of colour vision, model is the model's own (auto: natural for models of public data sets)

    Raises:
        EmraError: ``output-suffix``, ``opacity-range``, ``palette``, ``polygon-area``, ``option-unused``, ``gsd``,
            ``journal``.
    """

    input: _Path = field(metadata={"positional": True})
    output: _Path = field(metadata={"short": "-o"})
    overlay: _Path | None = None
    polygons: _Path | None = None
    polygon_classes: tuple[str, ...] | None = field(
        default=None, metadata={"metavar": "NAME,NAME", "parse": parse_names}
    )
    min_area: float = field(default=0.0, metadata={"metavar": "M2"})
    min_pixels: int = field(default=1, metadata={"metavar": "N"})
    opacity: float = 0.5
    overwrite: bool = False
    scale: Scale | None = field(
        default=None, metadata={"metavar": ("MIN", "MAX"), "nargs": 2, "type": float, "parse": parse_scale}
    )
    bands: tuple[int, ...] | None = field(default=None, metadata={"metavar": "R,G,B", "parse": parse_bands})
    gsd: float | str = field(default="auto", metadata={"metavar": "METRES|auto|off"})
    journal: str = field(default="auto", metadata={"metavar": "|".join(JOURNAL_CHOICES)})
    outlines: bool = False
    palette: str = field(default="auto", metadata={"metavar": "|".join(PALETTES)})

    def __post_init__(self) -> None:
        self._check_suffixes()
        if not 0.0 <= self.opacity <= 1.0:
            raise EmraError("opacity-range", f"opacity {self.opacity}, expected 0 to 1", "Correct it")
        check_palette(self.palette)
        if self.min_pixels < 1 or not 0 <= self.min_area < math.inf:
            raise EmraError(
                "polygon-area",
                f"least area {self.min_area} m², {self.min_pixels} pixels; expected 0 or more, and 1 or more",
                "Correct --min-area or --min-pixels",
            )
        self._check_unused()
        if self.journal not in JOURNAL_CHOICES:
            raise EmraError("journal", f"journal {self.journal!r}, expected {', '.join(JOURNAL_CHOICES)}", "Correct it")
        if self.gsd not in ("auto", "off"):
            object.__setattr__(self, "gsd", _metres(self.gsd))

    def _check_unused(self) -> None:
        """Refuse settings of outputs that are not asked for: whoever gave them expects these."""
        for output, names in (("polygons", ("polygon_classes", "min_area", "min_pixels")), ("overlay", ("outlines",))):
            given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != getattr(MapJob, name)]
            if getattr(self, output) is None and given:
                raise EmraError(
                    "option-unused",
                    f"{', '.join(given)} is about the {output}, of which no file is named",
                    f"Give --{output} FILE, or leave it out",
                )

    @property
    def writes_raster(self) -> bool:
        """Whether the label map is a GeoTIFF, and not a PNG."""
        return Path(self.output).suffix.lower() != ".png"

    def _check_suffixes(self) -> None:
        suffix = Path(self.output).suffix.lower()
        if suffix not in (".tif", ".tiff", ".png"):
            raise EmraError(
                "output-suffix",
                f"the output ends in {_shown(suffix)}, expected .tif or .png",
                "Use .tif for a map with georeference, .png for a picture of the labels",
                self.output,
            )
        if self.overlay is not None and Path(self.overlay).suffix.lower() != ".png":
            raise EmraError("output-suffix", "the overlay does not end in .png", "Give it that suffix", self.overlay)
        if self.polygons is None:
            return
        ending = Path(self.polygons).suffix.lower()
        if ending not in (".gpkg", ".geojson"):
            raise EmraError(
                "output-suffix",
                f"the polygons' file ends in {_shown(ending)}, expected .gpkg or .geojson",
                "Use .gpkg (any coordinate system) or .geojson (degrees)",
                self.polygons,
            )
        if suffix == ".png":
            raise EmraError(
                "output-suffix",
                "polygons are traced from a label raster",
                "Give an output that ends in .tif",
                self.output,
            )


def _shown(suffix: str) -> str:
    return repr(suffix) if suffix else "no suffix"


def _metres(gsd: float | str) -> float:
    try:
        metres = float(gsd)
    except ValueError:
        metres = math.nan
    if not 0 < metres < math.inf:
        raise EmraError("gsd", f"GSD {gsd!r}, expected metres a pixel, auto or off", "Correct --gsd")
    return metres
