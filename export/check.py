"""Do two forms of one model still segment the same way? Numbers, a verdict, and the worst picture.

python -m export.check model.onnx model.fp16.onnx --data DIR --split val --worst worst.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emra_deploy import __version__
from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile, check_bands, check_classes
from emra_deploy.host.command import command
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.sources import ArraySource, ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.scenes import generate

with script_imports(__name__, "quant"):
    from export.compare.comparison import TOLERANCES, Comparison, Tolerance, compare
    from export.compare.runners import open_pair
    from export.compare.tiles import images_below
    from export.compare.worst_picture import draw_difference
    from training.data import KINDS, open_dataset

if TYPE_CHECKING:
    from rich.console import Console

PASS, FAIL = 0, 1
"""Exit statuses."""

SCENES = range(30, 36)
"""Seeds of the generated scenes that models are compared on when there are no data."""


@dataclass(frozen=True)
class Picture:
    """A picture without labels, as `compare` takes it.

    Attributes:
        name: Distinct among those compared.
        path: Its file, or None for one in memory.
        image: uint8 H x W x 3, when there is no file.
    """

    name: str
    path: Path | None = None
    image: np.ndarray | None = None

    def source(self) -> ImageSource:
        """The picture."""
        if self.path is not None:
            return open_input(self.path)
        assert self.image is not None
        return ArraySource(self.image)

    def read_labels(self, window: Window | None = None) -> np.ndarray:
        """There are none.

        Raises:
            EmraError: ``no-labels``.
        """
        raise EmraError("no-labels", "the picture has no labels", "Compare without them", self.path)


@dataclass(frozen=True)
class Pictures:
    """What two models are compared on.

    Attributes:
        what: In words, for the report.
        tiles: The pictures.
        labelled: Whether there is ground truth.
    """

    what: str
    tiles: tuple[LabelledTile, ...]
    labelled: bool


@dataclass(frozen=True)
class Verdict:
    """What `check` found.

    Attributes:
        comparison: The numbers.
        tolerance: What they are held against.
        failures: Where they do not meet it, in words.
        pictures: What was compared on, in words.
    """

    comparison: Comparison
    tolerance: Tolerance
    failures: tuple[str, ...]
    pictures: str

    @property
    def passed(self) -> bool:
        """Whether everything is within the tolerance."""
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
    progress: Any = None,
) -> Verdict:
    """Compare two models and hold the difference against a tolerance.

    Args:
        a: The reference: a model file or a checkpoint folder.
        b: What is compared with it.
        data: A data set of a layout that `training.data` knows, or a folder of images; None compares on the golden
            tile and generated scenes.
        kind: The layout of the data set.
        split: Of the data set.
        tolerance: ``"fp32"``, ``"fp16"`` or ``"int8"``; None takes what the Manifest of ``b`` says.
        min_agreement: Least share of equal labels, in place of the tolerance's.
        max_miou_drop: Most mIoU points lost, in place of the tolerance's.
        backends: What runs ``a`` and ``b``.
        threads: Of one run; None leaves the choice to the library.
        limit: Compare on so many pictures at most.
        worst: PNG file for the picture with the least agreement, or None.
        overwrite: Whether an existing picture may be replaced.
        progress: Called with each picture's result.

    Raises:
        EmraError: Whatever is wrong with models, data or arguments.
    """
    if worst is not None:
        check_output(worst, overwrite=overwrite, inputs=(a, b))
    if limit is not None and limit < 1:
        raise EmraError("limit", f"{limit} pictures, expected at least 1", "Correct --limit, or leave it out")
    first, second = open_pair(a, b, backends=backends, threads=threads)
    allowed = _tolerance(tolerance or second.manifest.precision, min_agreement, max_miou_drop)
    pictures = find_pictures(first, data, kind, split)
    tiles = pictures.tiles[:limit]
    comparison = compare(first, second, tiles, labelled=pictures.labelled, progress=progress)
    if worst is not None:
        tile = next(tile for tile in tiles if tile.name == comparison.worst.name)
        names = [f"{Path(path).name} ({runner.manifest.precision})" for path, runner in ((a, first), (b, second))]
        drawn = draw_difference(first, second, tile.source(), (names[0], names[1]), title=tile.name)
        _write_png(worst, drawn, overwrite)
    what = pictures.what if limit is None else f"{pictures.what}, the first {len(tiles)}"
    return Verdict(comparison, allowed, tuple(comparison.failures(allowed)), what)


def find_pictures(model: Backend, data: str | Path | None, kind: str, split: str) -> Pictures:
    """What to compare on.

    Args:
        model: The reference.
        data: As in `check`.
        kind: Likewise.
        split: Likewise.

    Raises:
        EmraError: The data cannot be used, or do not have the model's classes and bands.
    """
    manifest = model.manifest
    if data is None:
        height, width = manifest.tile
        golden = () if manifest.golden is None else (Picture("golden tile", image=manifest.golden.image()),)
        scenes = tuple(Picture(f"scene {seed}", image=generate(seed, height, width).image) for seed in SCENES)
        return Pictures("the golden tile and generated scenes", (*golden, *scenes), False)
    root = Path(data)
    try:
        found = open_dataset(kind, root, split)
    except EmraError as error:
        if error.code != "dataset-unrecognised":
            raise
        paths = images_below(root)
        if not paths:
            raise
        plain = tuple(Picture(str(path.relative_to(root)), path=path) for path in paths)
        return Pictures(f"{len(plain)} images of {root}, without labels", plain, False)
    check_bands(manifest.bands, found.bands)
    if found.labelled:
        check_classes(manifest.classes, found.classes)
    labels = "" if found.labelled else ", without labels"
    return Pictures(
        f"{found.name}, split {split}, {len(found.tiles)} pictures{labels}", tuple(found.tiles), found.labelled
    )


def report(verdict: Verdict, console: Console) -> None:
    """Print what was found."""
    from rich.table import Table

    comparison = verdict.comparison
    scores, drops = comparison.scores, comparison.iou_drop
    console.print(f"compared on {verdict.pictures}", highlight=False)
    if scores is not None and drops is not None:
        table = Table("class")
        for column in ("IoU of A", "IoU of B", "points lost"):
            table.add_column(column, justify="right")
        rows = [
            (name, *pair) for name, *pair in zip(comparison.classes.names, scores[0].iou, scores[1].iou, strict=True)
        ]
        for name, ours, theirs in (*rows, ("mean", scores[0].miou, scores[1].miou)):
            table.add_row(name, _number(100 * ours, 2), _number(100 * theirs, 2), _number(100 * (ours - theirs), 3))
        console.print(table)
    else:
        console.print("no ground truth: mIoU not measured")
    worst = comparison.worst
    console.print(
        f"labels that agree: {comparison.agreement:.4%} of {comparison.pixels} pixels;"
        f" worst picture {worst.name}: {worst.agreement:.4%}",
        highlight=False,
    )
    if comparison.logit_max is not None and comparison.logit_mean is not None:
        console.print(
            f"logits: off by {comparison.logit_max:.2e} at most and {comparison.logit_mean:.2e} on average,"
            " of the largest logit of the picture",
            highlight=False,
        )
    else:
        console.print("logits: not to be had from both")
    for failure in verdict.failures:
        console.print(f"FAIL: {failure}", highlight=False)
    if verdict.passed:
        allowed = verdict.tolerance
        console.print(
            f"PASS: at least {allowed.min_agreement:.2%} agree"
            + ("" if scores is None else f", at most {allowed.max_miou_drop:g} mIoU points lost"),
            highlight=False,
        )


def describe(verdict: Verdict, a: str | Path, b: str | Path) -> dict[str, Any]:
    """The whole result as JSON values."""
    return {
        "passed": verdict.passed,
        "failures": list(verdict.failures),
        "tolerance": {
            "min_agreement": verdict.tolerance.min_agreement,
            "max_miou_drop_points": verdict.tolerance.max_miou_drop,
        },
        "pictures": verdict.pictures,
        "models": [
            {"path": str(path), "sha256": None if Path(path).is_dir() else file_sha256(path)} for path in (a, b)
        ],
        **verdict.comparison.to_dict(),
        "versions": {"emra-deploy": __version__, "numpy": np.__version__},
    }


def _tolerance(precision: str, min_agreement: float | None, max_miou_drop: float | None) -> Tolerance:
    base = TOLERANCES[precision]
    return Tolerance(
        base.min_agreement if min_agreement is None else min_agreement,
        base.max_miou_drop if max_miou_drop is None else max_miou_drop,
    )


def _write_png(path: str | Path, image: np.ndarray, overwrite: bool) -> None:
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
    add("b", metavar="B", help="what is compared with it")
    add("--data", metavar="DIR", help="data set or folder of images (the golden tile and generated scenes)")
    add("--kind", default="auto", choices=KINDS, help="layout of the data set (auto)")
    add("--split", default="val", help="of the data set (val)")
    add("--limit", type=int, metavar="N", help="compare on the first N pictures (all)")
    add("--tolerance", choices=tuple(TOLERANCES), help="by name (that of B's precision)")
    add("--min-agreement", type=float, metavar="SHARE", help="least share of equal labels, such as 0.999")
    add("--max-miou-drop", type=float, metavar="POINTS", help="most mIoU points lost, such as 0.1")
    add("--backend-a", default="auto", metavar="NAME", help="what runs A (auto)")
    add("--backend-b", default="auto", metavar="NAME", help="what runs B (auto)")
    add("--threads", type=int, metavar="N", help="threads of one run (the library's choice)")
    add("--worst", metavar="FILE.png", help="draw the picture with the least agreement there: A, B, difference")
    add("--json", metavar="FILE", help="write all numbers there")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    from rich.console import Console

    arguments = parser().parse_args(argv)
    a, b = arguments.a, arguments.b
    if arguments.json is not None:
        check_output(arguments.json, overwrite=arguments.overwrite, inputs=(a, b))
    with Console(stderr=True).status("comparing") as status:
        verdict = check(
            a,
            b,
            data=arguments.data,
            kind=arguments.kind,
            split=arguments.split,
            tolerance=arguments.tolerance,
            min_agreement=arguments.min_agreement,
            max_miou_drop=arguments.max_miou_drop,
            backends=(arguments.backend_a, arguments.backend_b),
            threads=arguments.threads,
            limit=arguments.limit,
            worst=arguments.worst,
            overwrite=arguments.overwrite,
            progress=lambda tile: status.update(f"{tile.name}: {tile.agreement:.3%}"),
        )
    if arguments.json is not None:
        with atomic_output(arguments.json, overwrite=arguments.overwrite) as part:
            text = json.dumps(describe(verdict, a, b), indent=1, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
    report(verdict, Console())
    return PASS if verdict.passed else FAIL


if __name__ == "__main__":
    sys.exit(main())
