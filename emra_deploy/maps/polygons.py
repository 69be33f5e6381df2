"""Outlines of classes as vector features for GIS: GeoPackage or GeoJSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.raster import gdal_session, open_dataset

_AT_ONCE = 4096
"""Number of features that are transformed and written together."""

Ring = NDArray[np.float64]
"""Corners of a closed ring, n×2: column and row, or x and y; the last is the first again."""


@dataclass(frozen=True)
class Polygon:
    """One connected area of one class (pixels that share an edge).

    Attributes:
        label: Of the class.
        pixels: Its area.
        rings: The outline, then its holes, along the edges of pixels.
    """

    label: int
    pixels: int
    rings: tuple[Ring, ...]


def class_labels(classes: ClassSet, names: Sequence[str] | None) -> tuple[int, ...]:
    """Labels of the classes of these names, or of all for None.

    Raises:
        EmraError: ``polygon-class`` for a name that the model does not know, or for no name.
    """
    chosen = classes.names if names is None else names
    unknown = [name for name in chosen if name not in classes.names]
    if unknown or not chosen:
        raise EmraError(
            "polygon-class",
            f"no class {', '.join(unknown) or 'was named'}; the model has {', '.join(classes.names)}",
            "Correct --polygon-classes",
        )
    return tuple(sorted({classes.names.index(name) for name in chosen}))


def write_polygons(
    raster: Path,
    output: Path,
    classes: ClassSet,
    *,
    labels: Collection[int],
    least: float,
    georeference: GeoReference,
    pixel_area: float | None,
) -> int:
    """Trace a finished label raster.

    GDAL traces it row by row: the polygons have to fit into memory, the raster has not. A GeoPackage keeps the
    raster's coordinates. GeoJSON is in longitude and latitude (RFC 7946). Where the raster has no transform, both hold
    columns and rows.

    Args:
        raster: The label raster.
        output: File to write, ``.gpkg`` or ``.geojson``; give the temporary file of `atomic_output`.
        classes: Names of the labels.
        labels: Of the classes that are outlined.
        least: Smaller polygons are left out, in pixels.
        georeference: The raster's.
        pixel_area: Square metres of a pixel on the ground, or None.

    Returns:
        How many were written.

    Raises:
        EmraError: ``output-write``.
    """
    traced = (polygon for polygon in trace(raster) if polygon.label in labels and polygon.pixels >= least)
    writer = _write_geojson if output.suffix.lower() == ".geojson" else _write_geopackage
    with gdal_session():
        return writer(output, traced, classes, georeference, pixel_area)


def trace(raster: Path) -> Iterator[Polygon]:
    """The connected areas of a label raster, without no data, in columns and rows."""
    from rasterio.features import shapes

    with gdal_session() as rasterio, open_dataset(rasterio, raster) as dataset:
        # Of a dataset, unlike of an array, shapes come in its coordinates.
        a, b, c, d, e, f = (~dataset.transform)[:6]
        back, origin = np.array([[a, d], [b, e]]), np.array([c, f])
        for shape, value in shapes(rasterio.band(dataset, 1), connectivity=4):
            if int(value) != IGNORE:
                rings = tuple(np.rint(np.asarray(ring) @ back + origin) for ring in shape["coordinates"])
                # Corners lie on whole numbers, so the area by the shoelace formula is a count of pixels.
                pixels = abs(signed_area(rings[0])) - sum(abs(signed_area(ring)) for ring in rings[1:])
                yield Polygon(int(value), round(pixels), rings)


def signed_area(ring: Ring) -> float:
    """Area of a closed ring, positive when it runs counter-clockwise with y upwards (shoelace formula)."""
    x, y = (ring - ring[0]).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _placed(polygons: list[Polygon], georeference: GeoReference, crs: Any) -> list[tuple[Ring, ...]]:
    """The rings in coordinates, outlines counter-clockwise and holes clockwise."""
    rings = [ring for polygon in polygons for ring in polygon.rings]
    points = georeference.coordinates(np.concatenate(rings), crs)
    parts = iter(np.split(points, np.cumsum([len(ring) for ring in rings])[:-1]))
    placed = []
    for polygon in polygons:
        own = list(islice(parts, len(polygon.rings)))
        placed.append(
            tuple(ring if (signed_area(ring) > 0) == (index == 0) else ring[::-1] for index, ring in enumerate(own))
        )
    return placed


def _groups(polygons: Iterable[Polygon]) -> Iterator[list[Polygon]]:
    iterator = iter(polygons)
    while group := list(islice(iterator, _AT_ONCE)):
        yield group


def _write_geojson(
    output: Path, polygons: Iterable[Polygon], classes: ClassSet, georeference: GeoReference, pixel_area: float | None
) -> int:
    from rasterio.crs import CRS

    degrees = CRS.from_epsg(4326) if georeference.crs is not None and georeference.has_transform else None
    # About a centimetre in degrees, a thousandth of any other unit.
    digits = 7 if degrees is not None else 3
    count = 0
    with output.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for group in _groups(polygons):
            for polygon, rings in zip(group, _placed(group, georeference, degrees), strict=True):
                feature = {
                    "type": "Feature",
                    "properties": _properties(polygon, classes, pixel_area),
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [np.round(ring, digits).tolist() for ring in rings],
                    },
                }
                stream.write((",\n" if count else "\n") + json.dumps(feature, ensure_ascii=False))
                count += 1
        stream.write("\n]}\n")
    return count


def _write_geopackage(
    output: Path, polygons: Iterable[Polygon], classes: ClassSet, georeference: GeoReference, pixel_area: float | None
) -> int:
    pyogrio, shapely = load_geopackage_libraries()
    from pyogrio._err import CPLE_BaseError

    crs = georeference.crs.to_wkt() if georeference.crs is not None and georeference.has_transform else None
    # The library creates the file itself.
    output.unlink(missing_ok=True)
    count = 0
    for group in _groups_or_one_empty(polygons):
        placed = _placed(group, georeference, None) if group else []
        geometry = np.array([shapely.to_wkb(shapely.Polygon(rings[0], rings[1:])) for rings in placed], object)
        rows = [_properties(polygon, classes, pixel_area) for polygon in group]
        columns = [
            np.array([row["class"] for row in rows], object),
            np.array([row["label"] for row in rows], np.int32),
            np.array([row["pixels"] for row in rows], np.int64),
            np.array([np.nan if row["area_m2"] is None else row["area_m2"] for row in rows], np.float64),
        ]
        try:
            # A raster without a coordinate system needs no warning.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "'crs' was not provided")
                pyogrio.raw.write(
                    output,
                    geometry,
                    columns,
                    np.array(["class", "label", "pixels", "area_m2"], object),
                    layer="classes",
                    driver="GPKG",
                    geometry_type="Polygon",
                    crs=crs,
                    append=count > 0,
                )
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, CPLE_BaseError) as error:
            _drop_journals(output)
            raise _unwritten(output, str(error)) from error
        count += len(group)
    _check_geopackage(output, count)
    return count


def _check_geopackage(path: Path, count: int) -> None:
    """Read the file back: SQLite continues after some errors of the disk, and GDAL ignores them."""
    import sqlite3

    try:
        with closing(sqlite3.connect(path)) as database:
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
            held = database.execute("SELECT count(*) FROM classes").fetchone()[0]
    except sqlite3.Error as error:
        raise _unwritten(path, str(error)) from error
    finally:
        _drop_journals(path)
    if found != "ok" or held != count:
        raise _unwritten(path, f"{held} of {count} polygons are in the file, integrity: {found}"[:160])


def _drop_journals(path: Path) -> None:
    """Remove the files that SQLite leaves beside one that it could not complete."""
    for ending in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _unwritten(output: Path, reason: str) -> EmraError:
    return EmraError(
        "output-write",
        f"the polygons cannot be written ({' '.join(reason.split())[:160]})",
        "Make room on the disk or choose another",
        output.parent,
    )


def _groups_or_one_empty(polygons: Iterable[Polygon]) -> Iterator[list[Polygon]]:
    """As `_groups`, with one empty group for no polygons: a file without features has a layer, too."""
    first = True
    for group in _groups(polygons):
        first = False
        yield group
    if first:
        yield []


def _properties(polygon: Polygon, classes: ClassSet, pixel_area: float | None) -> dict[str, Any]:
    return {
        "class": classes.names[polygon.label],
        "label": polygon.label,
        "pixels": polygon.pixels,
        "area_m2": None if pixel_area is None else round(polygon.pixels * pixel_area, 4),
    }


def load_geopackage_libraries() -> tuple[Any, Any]:
    """The modules pyogrio and shapely.

    Raises:
        EmraError: ``library-missing`` when one is missing.
    """
    need("vector", "pyogrio", "shapely", purpose="a .gpkg, unlike a .geojson,")
    import pyogrio
    import pyogrio.raw
    import shapely

    return pyogrio, shapely
