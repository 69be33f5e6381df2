"""Comparison of two forms of one model: numbers, a verdict, and the worst picture.

python -m export.check model.onnx model.fp16.onnx --data DIR --split val --worst worst.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy import __version__
from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile, check_bands, check_classes
from emra_deploy.host.command import command
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import atomic_output, check_output
from training.data.scenes import generate

with script_imports(__name__, "quant"):
    from export.compare.comparison import compare
    from export.compare.report import LIMITS, Limits, PictureReport, Report
    from export.compare.runners import open_pair
    from export.compare.tiles import PlainTile, images_below
    from export.compare.worst_picture import draw_difference
    from training.data import KINDS, open_dataset

if TYPE_CHECKING:
    from rich.console import Console

PASS, FAIL = 0, 1
"""Exit statuses."""

SCENES = range(30, 36)
"""Seeds of the generated scenes that models are compared on when there are no data."""


@dataclass(frozen=True)
class TileSet:
    """The pictures that two models are compared on.

    Attributes:
        description: One phrase for the report.
        tiles: The pictures.
        labelled: Whether there is ground truth.
    """

    description: str
    tiles: tuple[LabelledTile, ...]
    labelled: bool


@dataclass(frozen=True)
class Verdict:
    """The result of `check`.

    Attributes:
        report: The numbers.
        limits: The limits they are compared with.
        failures: Violations of the limits, in words.
        pictures: One phrase about the pictures.
    """

    report: Report
    limits: Limits
    failures: tuple[str, ...]
    pictures: str

    @property
    def passed(self) -> bool:
        """Whether everything is within the limits."""
        return not self.failures


def check(
    a: str | Path,
    b: str | Path,
    *,
    data: str | Path | None = None,
    kind: str = "auto",
    split: str = "val",
    tolerance: str | None = None,
    min_agreement: float | None = None,
    max_miou_drop: float | None = None,
    backends: tuple[str, str] = ("auto", "auto"),
    threads: int | None = None,
    limit: int | None = None,
    worst: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[PictureReport], None] | None = None,
) -> Verdict:
    """Compare two models and hold the differences to limits.

    Args:
        a: The reference: a model file or a checkpoint folder.
        b: The model that is compared with it.
        data: A data set of a layout that `training.data` knows, or a folder of images; None compares on the golden
            tile and generated scenes.
        kind: The layout of the data set.
        split: The split of the data set.
        tolerance: Limits by name: ``"fp32"``, ``"fp16"`` or ``"int8"``; None takes those of the precision of ``b``.
        min_agreement: Minimum share of equal labels, instead of the named limit.
        max_miou_drop: Maximum mIoU points lost, instead of the named limit.
        backends: Names of the backends of ``a`` and ``b``.
        threads: Threads of one run; None leaves the choice to the library.
        limit: Maximum number of pictures to compare on.
        worst: PNG file for the picture with the least agreement, or None.
        overwrite: Whether an existing picture may be replaced.
        progress: Called with each picture's result.

    Raises:
        EmraError: Any fault of models, data or arguments.
    """
    if worst is not None:
        check_output(worst, overwrite=overwrite, inputs=(a, b))
    if limit is not None and limit < 1:
        raise EmraError("limit", f"{limit} pictures, expected at least 1", "Correct --limit, or leave it out")
    first, second = open_pair(a, b, backends=backends, threads=threads)
    allowed = LIMITS[tolerance or second.manifest.precision]
    given = {"agreement": min_agreement, "miou_drop": max_miou_drop}
    allowed = replace(allowed, **{name: value for name, value in given.items() if value is not None})
    pictures = find_pictures(first, data, kind, split)
    tiles = pictures.tiles[:limit]
    report = compare(first, second, tiles, labelled=pictures.labelled, progress=progress)
    if worst is not None:
        tile = next(tile for tile in tiles if tile.name == report.worst.name)
        names = [f"{Path(path).name} ({one.manifest.precision})" for path, one in ((a, first), (b, second))]
        drawn = draw_difference(first, second, tile.source(), (names[0], names[1]), title=tile.name)
        _write_png(worst, drawn, overwrite)
    description = pictures.description if limit is None else f"{pictures.description}, the first {len(tiles)}"
    return Verdict(report, allowed, tuple(report.failures(allowed)), description)


def find_pictures(model: Backend, data: str | Path | None, kind: str, split: str) -> TileSet:
    """The pictures to compare on.

    Args:
        model: The reference.
        data: Data set or folder of images, or None; see `check`.
        kind: The layout of the data set.
        split: The split of the data set.

    Raises:
        EmraError: The data cannot be used, or do not have the model's classes and bands.
    """
    manifest = model.manifest
    if data is None:
        height, width = manifest.tile
        golden = () if manifest.golden is None else (PlainTile("golden tile", manifest.golden.image()),)
        scenes = tuple(PlainTile(f"scene {seed}", generate(seed, height, width).image) for seed in SCENES)
        return TileSet("the golden tile and generated scenes", (*golden, *scenes), False)
    root = Path(data)
    try:
        found = open_dataset(kind, root, split)
    except EmraError as error:
        if error.code != "dataset-unrecognised":
            raise
        paths = images_below(root)
        if not paths:
            raise
        plain = tuple(PlainTile(str(path.relative_to(root)), path) for path in paths)
        return TileSet(f"{len(plain)} images of {root}, without labels", plain, False)
    check_bands(manifest.bands, found.bands)
    if found.labelled:
        check_classes(manifest.classes, found.classes)
    labels = "" if found.labelled else ", without labels"
    return TileSet(
        f"{found.name}, split {split}, {len(found.tiles)} pictures{labels}", tuple(found.tiles), found.labelled
    )


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print the numbers and the verdict."""
    from rich.table import Table

    report = verdict.report
    scores, drops = report.scores, report.iou_drop
    console.print(f"compared on {verdict.pictures}", highlight=False)
    if scores is not None and drops is not None:
        table = Table("class")
        for column in ("IoU of A", "IoU of B", "points lost"):
            table.add_column(column, justify="right")
        rows = zip(report.classes.names, scores[0].iou, scores[1].iou, strict=True)
        for name, ours, theirs in (*rows, ("mean", scores[0].miou, scores[1].miou)):
            table.add_row(name, _number(100 * ours, 2), _number(100 * theirs, 2), _number(100 * (ours - theirs), 3))
        console.print(table)
    else:
        console.print("no ground truth: mIoU not measured")
    worst, logits = report.worst, report.logits
    console.print(
        f"labels that agree: {report.agreement:.4%} of {report.pixels} pixels;"
        f" worst picture {worst.name}: {worst.agreement:.4%}",
        highlight=False,
    )
    if logits is not None:
        console.print(
            f"logits: off by {logits.max:.2e} at most and {logits.mean:.2e} on average,"
            " of the largest logit of the picture",
            highlight=False,
        )
        differing = report.pixels - sum(one.agreeing for one in report.pictures)
        console.print(f"near ties: {logits.near_ties} of the {differing} labels that differ", highlight=False)
    else:
        console.print("logits: not available from both models")
    for failure in verdict.failures:
        console.print(f"FAIL: {failure}", highlight=False)
    if verdict.passed:
        allowed = verdict.limits
        console.print(
            f"PASS: at least {allowed.agreement:.2%} agree"
            + ("" if scores is None else f", at most {allowed.miou_drop:g} mIoU points lost"),
            highlight=False,
        )


def describe(verdict: Verdict, a: str | Path, b: str | Path) -> dict[str, Any]:
    """The whole result as JSON values."""
    return {
        "passed": verdict.passed,
        "failures": list(verdict.failures),
        "tolerance": {
            "min_agreement": verdict.limits.agreement,
            "max_miou_drop_points": verdict.limits.miou_drop,
        },
        "pictures": verdict.pictures,
        "models": [
            {"path": str(path), "sha256": None if Path(path).is_dir() else file_sha256(path)} for path in (a, b)
        ],
        **verdict.report.to_dict(),
        "versions": {"emra-deploy": __version__, "numpy": np.__version__},
    }


def _write_png(path: str | Path, image: npt.NDArray[np.uint8], overwrite: bool) -> None:
    from PIL import Image

    with atomic_output(path, overwrite=overwrite) as part:
        Image.fromarray(image).save(part, format="PNG")


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="check.py",
        description="Compare two forms of one model. Exit status: 0 within the tolerance, 1 not, 2 bad input.",
    )
    add = made.add_argument
    add("a", metavar="A", help="the reference: a model file, or a folder that training wrote")
    add("b", metavar="B", help="the model to compare with it")
    add("--data", metavar="DIR", help="data set or folder of images (the golden tile and generated scenes)")
    add("--kind", default="auto", choices=KINDS, help="layout of the data set (auto)")
    add("--split", default="val", help="of the data set (val)")
    add("--limit", type=int, metavar="N", help="compare on the first N pictures (all)")
    add("--tolerance", choices=tuple(LIMITS), help="limits by name (that of B's precision)")
    add("--min-agreement", type=float, metavar="SHARE", help="minimum share of equal labels, such as 0.999")
    add("--max-miou-drop", type=float, metavar="POINTS", help="maximum mIoU points lost, such as 0.1")
    add("--backend-a", default="auto", metavar="NAME", help="backend of A (auto)")
    add("--backend-b", default="auto", metavar="NAME", help="backend of B (auto)")
    add("--threads", type=int, metavar="N", help="threads of one run (the library's choice)")
    add("--worst", metavar="FILE.png", help="PNG file for the picture with the least agreement: A, B, difference")
    add("--json", metavar="FILE", help="write all numbers there")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    from rich.console import Console

    arguments = vars(parser().parse_args(argv))
    a, b, overwrite, report = arguments["a"], arguments["b"], arguments["overwrite"], arguments.pop("json")
    if report is not None:
        check_output(report, overwrite=overwrite, inputs=(a, b))
    with Console(stderr=True).status("comparing") as status:
        verdict = check(
            backends=(arguments.pop("backend_a"), arguments.pop("backend_b")),
            **arguments,
            progress=lambda tile: status.update(f"{tile.name}: {tile.agreement:.3%}"),
        )
    if report is not None:
        with atomic_output(report, overwrite=overwrite) as part:
            text = json.dumps(describe(verdict, a, b), indent=1, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
    print_verdict(verdict, Console())
    return PASS if verdict.passed else FAIL


if __name__ == "__main__":
    sys.exit(main())
