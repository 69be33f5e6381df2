"""The report on a finished map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from emra_deploy.maps.job import MapJob
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.segmenting.areas import ClassArea


@dataclass(frozen=True)
class MapReport:
    """A finished map.

    Attributes:
        job: The request, with the names of all files.
        overlay_factor: Factor by which the overlay is reduced; 1 for full size.
        polygon_count: Polygons that were written.
        resumed_rows: Rows taken from the journal of an earlier, unfinished run.
        scale_factor: Factor by which the picture was enlarged for the model, to its ground sample distance; 1 for none.
        height: Rows of the map.
        width: Columns of the map.
        classes: Names and colours.
        areas: One per class, in label order.
        no_data_pixels: Pixels without data.
        area_note: Why there are no square metres, or None.
        model: Path, name and precision.
        backend: Facts about what ran the model.
        throttled: What slowed the machine down during the run, as kernel and driver call it.
        warnings: What the user should know, which was logged before the work.
        seconds: Of ``load`` (picture and model), ``segment`` (reading, running, writing rows) and ``total``.
    """

    job: MapJob
    overlay_factor: int
    polygon_count: int
    resumed_rows: int
    scale_factor: float
    height: int
    width: int
    classes: ClassSet
    areas: tuple[ClassArea, ...]
    no_data_pixels: int
    area_note: str | None
    model: dict[str, str]
    backend: dict[str, str]
    throttled: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        areas = [
            {
                "label": label,
                "name": area.name,
                "colour": list(self.classes.palette[label]),
                "pixels": area.pixels,
                "percent": 100 * area.fraction,
                "square_metres": area.square_metres,
            }
            for label, area in enumerate(self.areas)
        ]
        return {
            "input": os.fspath(self.job.input),
            "outputs": {
                "labels": os.fspath(self.job.output),
                "overlay": _text(self.job.overlay),
                "overlay_factor": self.overlay_factor,
                "polygons": _text(self.job.polygons),
                "polygon_count": self.polygon_count,
            },
            "resumed_rows": self.resumed_rows,
            "scale_factor": self.scale_factor,
            "height": self.height,
            "width": self.width,
            "areas": areas,
            "no_data_pixels": self.no_data_pixels,
            "area_note": self.area_note,
            "model": self.model,
            "backend": self.backend,
            "throttled": list(self.throttled),
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
