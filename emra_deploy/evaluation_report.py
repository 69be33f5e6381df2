"""An evaluation for people and programs: tables on the terminal, JSON, and a page of the worst pictures."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy._version import __version__
from emra_deploy.classes import IGNORE, ClassSet
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import Evaluation, LabelledTile
from emra_deploy.files import atomic_output
from emra_deploy.segmenter import Segmenter
from emra_deploy.windows import Window

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
PANEL = 480
"""Longest side of a picture on the page, in pixels; larger ones are thinned out."""

_Bytes = npt.NDArray[np.uint8]
_RIGHT, _WRONG = (46, 125, 80), (226, 60, 60)


def describe(evaluation: Evaluation, model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The whole result as JSON values.

    Args:
        evaluation: What was measured.
        model: What was evaluated: ``path``, ``sha256`` and what else is known.
        data: What it was evaluated on: ``name``, ``split`` and what else is known.
    """
    return {
        "schema": SCHEMA,
        "model_sha256": model.get("sha256"),
        "model": dict(model),
        "data": dict(data),
        **evaluation.to_dict(),
        "versions": {"emra-deploy": __version__, "numpy": np.__version__, "python": platform.python_version()},
    }


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write `describe`'s result, whole or not at all."""
    with atomic_output(path, overwrite=overwrite) as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def print_tables(evaluation: Evaluation, console: Console) -> None:
    """Scores per class, their means, and the confusion matrix in per cent of each true class."""
    from rich.table import Table

    scores = evaluation.scores
    table = Table("class", title=f"{len(evaluation.images)} pictures, {sum(scores.support)} labelled pixels")
    for column in ("IoU", "F1", "precision", "recall", "share"):
        table.add_column(column, justify="right")
    total = max(1, sum(scores.support))
    for index, name in enumerate(scores.names):
        values = (scores.iou[index], scores.f1[index], scores.precision[index], scores.recall[index])
        table.add_row(name, *map(percent, (*values, scores.support[index] / total)))
    console.print(table)

    confusion = Table("true class", title="Confusion, per cent of the true class")
    for name in scores.names:
        confusion.add_column(name, justify="right")
    for name, row in zip(scores.names, evaluation.matrix.counts, strict=True):
        whole = int(row.sum())
        confusion.add_row(name, *(percent(float(count) / whole) if whole else "-" for count in row))
    console.print(confusion)

    console.print(f"mIoU {scores.miou:.4f}   mF1 {scores.mf1:.4f}   OA {scores.accuracy:.4f}", highlight=False)
    without = evaluation.miou_without_clutter
    if without is not None:
        console.print(f"mIoU without clutter {without:.4f}", highlight=False)


def percent(value: float) -> str:
    """A fraction as per cent with one decimal; undefined is a dash."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


@dataclass(frozen=True)
class Panels:
    """One picture on the page, thinned out to `PANEL`: uint8 h×w×3 each."""

    image: _Bytes
    truth: _Bytes
    prediction: _Bytes
    errors: _Bytes


def make_panels(segmenter: Segmenter, tile: LabelledTile, classes: ClassSet) -> Panels:
    """Segment a picture again and draw it, reading by windows and keeping one pixel in so many."""
    from emra_deploy.overlay import colour_map

    source = tile.source()
    step = max(1, math.ceil(max(source.height, source.width) / PANEL))
    kept: list[tuple[_Bytes, _Bytes, _Bytes]] = []
    for window, prediction in segmenter.segment_rows(source):
        rows = np.arange(-window.top % step, window.height, step)
        if rows.size:
            pick = np.ix_(rows, np.arange(0, window.width, step))
            area = Window(window.top, window.left, window.height, window.width)
            kept.append((source.read(area)[pick], tile.read_labels(area)[pick], prediction[pick]))
    image, truth, prediction = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    errors = np.array([_WRONG, _RIGHT], np.uint8)[(truth == prediction).astype(np.uint8)]
    errors = (0.75 * errors + 0.25 * image.mean(axis=2, keepdims=True)).astype(np.uint8)
    errors[truth == IGNORE] = 0
    return Panels(image, colour_map(truth, classes), colour_map(prediction, classes), errors)


def write_page(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    segmenter: Segmenter,
    tiles: Iterable[LabelledTile],
    content: Mapping[str, Any],
    *,
    count: int = 8,
    overwrite: bool = False,
) -> None:
    """Write one self-contained HTML file: scores, and the worst pictures beside their truth.

    Args:
        path: The file to write.
        evaluation: What was measured.
        segmenter: The model, which is run once more on the pictures shown.
        tiles: Those that were evaluated.
        content: `describe`'s result.
        count: How many pictures.
        overwrite: Whether an existing file may be replaced.

    Raises:
        EmraError: ``report-missing`` without jinja2, and those of writing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise EmraError(
            "report-missing", "the page needs jinja2", "Install it: pip install 'emra-deploy[report]'"
        ) from error
    from emra_deploy.evaluation_page import TEMPLATE

    by_name = {tile.name: tile for tile in tiles}
    shown = []
    for image in evaluation.worst(count):
        panels = make_panels(segmenter, by_name[image.name], evaluation.classes)
        shown.append(
            {
                "score": image,
                "panels": [
                    ("Picture", _uri(panels.image, "JPEG")),
                    ("Truth", _uri(panels.truth, "PNG")),
                    ("Prediction", _uri(panels.prediction, "PNG")),
                    ("Right and wrong", _uri(panels.errors, "JPEG")),
                ],
            }
        )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = percent
    counts = evaluation.matrix.counts
    text = environment.from_string(TEMPLATE).render(
        content=content,
        scores=evaluation.scores,
        without=evaluation.miou_without_clutter,
        palette=["#{:02x}{:02x}{:02x}".format(*colour) for colour in evaluation.classes.palette],
        confusion=(counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist(),
        shown=shown,
        total=max(1, int(counts.sum())),
        images=evaluation.images,
    )
    with atomic_output(path, overwrite=overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _uri(pixels: _Bytes, form: str) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=form, **({"quality": 85} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
