"""Reports of an evaluation: tables on the terminal, and JSON."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from emra_deploy._version import __version__
from emra_deploy.evaluation.loop import Evaluation
from emra_deploy.host.files import atomic_output

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1


def describe(evaluation: Evaluation, model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The whole result as JSON values.

    Args:
        evaluation: The scores.
        model: Facts about the model: ``path``, ``sha256`` and others.
        data: Facts about the data: ``name``, ``split`` and others.
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
