"""Outlines of classes as vector features for GIS: GeoPackage or GeoJSON."""

from __future__ import annotations

import json
import math
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
from emra_deploy.host.unfinished import hold
from emra_deploy.maps.longitudes import crosses_180, cut_at_180, load_shapely
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.ground import PixelAreas
from emra_deploy.pictures.raster import gdal_session, open_dataset

_RADIUS = 6.371e6
"""Of the earth, in metres."""

_AT_ONCE = 4096
"""Number of features that are transformed and written together."""

_BEYOND = 90 + 1e-6
"""No latitude is larger."""

_STRAIGHT = 64
"""Pixels of an edge that are taken for straight in degrees, but for rasters near a pole or of large pixels."""

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
    """Labels of the classes of these names, in any case of letters, or of all for None.

    Raises:
        EmraError: ``polygon-class`` for a name that the model does not know, or has twice but for the case, or for no
            name.
    """
    chosen = classes.names if names is None else names
    folded = [name.casefold() for name in classes.names]
    labels, unknown = set(), []
    for name in chosen:
        if name in classes.names:
            labels.add(classes.names.index(name))
        elif folded.count(name.casefold()) == 1:
            labels.add(folded.index(name.casefold()))
        else:
            unknown.append(name)
    if unknown or not chosen:
        raise EmraError(
            "polygon-class",
            f"no class {', '.join(unknown) or 'was named'}; the model has {', '.join(classes.names)}",
            "Correct --polygon-classes",
        )
    return tuple(sorted(labels))


def write_polygons(
    raster: Path,
    output: Path,
    classes: ClassSet,
    *,
    labels: Collection[int],
    least: tuple[float, float],
    georeference: GeoReference,
    ground: PixelAreas | None,
) -> int:
    """Trace a finished label raster.

    GDAL traces it row by row: the polygons have to fit into memory, the raster has not. A GeoPackage keeps the
    raster's coordinates. GeoJSON is in longitude and latitude (RFC 7946). Where the raster is not placed, both hold
    columns and rows; `check_place` refuses what would be neither.

    Args:
        raster: The label raster.
        output: File to write, ``.gpkg`` or ``.geojson``; give the temporary file of `atomic_output`.
        classes: Names of the labels.
        labels: Of the classes that are outlined.
        least: Pixels and square metres; polygons of less are left out.
        georeference: The raster's.
        ground: Square metres of its pixels on the ground, or None.

    Returns:
        How many were written.

    Raises:
        EmraError: ``output-write``.
    """
    # Rounding may not leave out a polygon of exactly the least area.
    pixels, metres = least[0], least[1] * (1 - 1e-9)
    traced = (
        polygon
        for polygon in trace(raster)
        if polygon.label in labels
        and polygon.pixels >= pixels
        and (ground is None or _square_metres(polygon, ground) >= metres)
    )
    writer = _write_geojson if output.suffix.lower() == ".geojson" else _write_geopackage
    with gdal_session():
        return writer(output, traced, classes, georeference, ground)


def check_place(output: Path, georeference: GeoReference, height: int, width: int) -> str | None:
    """Check that polygons of a raster can be placed, before the work.

    Args:
        output: The file that will be written.
        georeference: The raster's.
        height: Of the raster.
        width: Of the raster.

    Returns:
        What the user should know of the coordinates, or None.

    Raises:
        EmraError: ``polygon-place``; ``library-missing`` without shapely where polygons have to be cut.
    """
    geojson = output.suffix.lower() == ".geojson"
    if not georeference.is_placed:
        if geojson and (georeference.gcps or georeference.rpcs is not None):
            raise _unplaced(
                "the picture has no transform to coordinates", "Give it one: gdalwarp -rpc, or -tps", output
            )
        return f"the picture has no transform to coordinates: {output} gets columns and rows"
    if geojson and georeference.placed_crs is None:
        raise _unplaced("the picture has no coordinate reference system", "Give a .gpkg, or gdal_edit -a_srs", output)
    remedy = "Correct its georeference" + (", or give a .gpkg" if geojson else "")
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height], [0, 0]], np.float64)
    try:
        border = georeference.coordinates(_with_stops(corners, _STRAIGHT), 4326 if geojson else None)
        misfit = georeference.misfit()
    except ValueError as error:
        raise _unplaced(f"the picture's coordinates cannot be used ({error})", remedy, output) from error
    if geojson and np.abs(border[:, 1]).max() > _BEYOND:
        return f"the picture's coordinates are no degrees, or reach beyond a pole: {output} gets them as they are"
    if geojson and crosses_180(border):
        load_shapely()
    if misfit is None:
        return None
    return f"{len(georeference.gcps)} ground control points place the polygons, which miss them by up to {misfit:.2g} m"


def _unplaced(cause: str, remedy: str, output: Path) -> EmraError:
    return EmraError("polygon-place", f"no polygons in coordinates: {cause}", remedy, output)


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


def _placed(
    polygons: list[Polygon], georeference: GeoReference, crs: Any, side: float | None = None
) -> list[tuple[Ring, ...]]:
    """The rings in coordinates, outlines counter-clockwise and holes clockwise.

    Straight lines of columns and rows are curves in degrees. Where their middle would be off by more than a twentieth
    of a pixel, whose side is given in metres, edges get more points.
    """
    rings = [ring for polygon in polygons for ring in polygon.rings]
    points = georeference.coordinates(np.concatenate(rings), crs)
    if side is not None:
        # A line of n pixels bends by (n side)² tan(latitude) / 8 radii.
        cosine = math.cos(math.radians(min(float(np.abs(points[:, 1]).max()), 90.0)))
        step = max(1, min(_STRAIGHT, int(math.sqrt(0.4 * _RADIUS * cosine / side))))
        rings = [_with_stops(ring, step) for ring in rings]
        points = georeference.coordinates(np.concatenate(rings), crs)
    parts = iter(np.split(points, np.cumsum([len(ring) for ring in rings])[:-1]))
    placed = []
    for polygon in polygons:
        placed.append(_turned(list(islice(parts, len(polygon.rings)))))
    return placed


def _turned(rings: Sequence[Ring]) -> tuple[Ring, ...]:
    """The outline counter-clockwise, the holes clockwise."""
    return tuple(ring if (signed_area(ring) > 0) == (index == 0) else ring[::-1] for index, ring in enumerate(rings))


def _with_stops(ring: Ring, step: int) -> Ring:
    """A ring whose edges have a point every ``step`` pixels at least."""
    lengths = np.abs(np.diff(ring, axis=0)).max(axis=1)
    if lengths.max() <= step:
        return ring
    counts = np.maximum(1, np.ceil(lengths / step)).astype(int)
    parts = [
        np.linspace(start, end, count, endpoint=False)
        for start, end, count in zip(ring[:-1], ring[1:], counts, strict=True)
    ]
    return np.concatenate([*parts, ring[-1:]])


def _groups(polygons: Iterable[Polygon]) -> Iterator[list[Polygon]]:
    iterator = iter(polygons)
    while group := list(islice(iterator, _AT_ONCE)):
        yield group


def _write_geojson(
    output: Path, polygons: Iterable[Polygon], classes: ClassSet, georeference: GeoReference, ground: PixelAreas | None
) -> int:
    from rasterio.crs import CRS

    degrees = None if georeference.placed_crs is None else CRS.from_epsg(4326)
    # A thousandth of a pixel of columns and rows, and a hundredth of one in degrees, but no less than a centimetre.
    digits, side = 3, None
    if degrees is not None:
        side = 1.0 if ground is None else math.sqrt(ground.mean)
        digits = min(max(7, 2 - math.floor(math.log10(math.degrees(side / _RADIUS)))), 12)
    count = 0
    with output.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for group in _groups(polygons):
            for polygon, rings in zip(group, _placed(group, georeference, degrees, side), strict=True):
                parts = [rings]
                if degrees is not None and crosses_180(rings[0]) and np.abs(rings[0][:, 1]).max() <= _BEYOND:
                    parts = [_turned(part) for part in cut_at_180(rings)]
                lists = [[np.round(ring, digits).tolist() for ring in part] for part in parts]
                single = {"type": "Polygon", "coordinates": lists[0]}
                feature = {
                    "type": "Feature",
                    "properties": _properties(polygon, classes, ground),
                    "geometry": single if len(lists) == 1 else {"type": "MultiPolygon", "coordinates": lists},
                }
                stream.write((",\n" if count else "\n") + json.dumps(feature, ensure_ascii=False))
                count += 1
        stream.write("\n]}\n")
    return count


def _write_geopackage(
    output: Path, polygons: Iterable[Polygon], classes: ClassSet, georeference: GeoReference, ground: PixelAreas | None
) -> int:
    pyogrio, shapely = load_geopackage_libraries()
    from pyogrio._err import CPLE_BaseError

    crs = None if georeference.placed_crs is None else georeference.placed_crs.to_wkt()
    # The library creates the file itself.
    hold(output)
    output.unlink(missing_ok=True)
    count = 0
    for group in _groups_or_one_empty(polygons):
        placed = _placed(group, georeference, None) if group else []
        geometry = np.array([shapely.to_wkb(shapely.Polygon(rings[0], rings[1:])) for rings in placed], object)
        rows = [_properties(polygon, classes, ground) for polygon in group]
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


def _square_metres(polygon: Polygon, ground: PixelAreas) -> float:
    return ground.of_rings(polygon.rings) if ground.uniform is None else polygon.pixels * ground.uniform


def _properties(polygon: Polygon, classes: ClassSet, ground: PixelAreas | None) -> dict[str, Any]:
    return {
        "class": classes.names[polygon.label],
        "label": polygon.label,
        "pixels": polygon.pixels,
        "area_m2": None if ground is None else round(_square_metres(polygon, ground), 4),
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
