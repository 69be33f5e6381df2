"""The cheapest INT8 graph within an accuracy budget, found by measuring, with the evidence in the file.

python -m export.optimize model.onnx --data DIR --max-drop 0.5 --target cpu --output model.opt.onnx --plot pareto.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile, check_bands, check_classes
from emra_deploy.host.command import command, tell
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import atomic_output, check_all_outputs
from emra_deploy.model_file.manifest import Manifest

with script_imports(__name__, "quant"):
    from export.compare.report import Report
    from export.compare.tiles import middle
    from export.int8.acceptance import DEFAULT_WINDOWS, Acceptance, read_windows
    from export.int8.calibration import DEFAULT_COUNT
    from export.int8.cost import DEVICES, GRAPH_PLAN, TARGETS, CostModel, Timing, Variant, open_cost_model
    from export.int8.file import HIGH_PRECISIONS, Recipe, Written, build, compare_with_parent, publish, read_parent
    from export.int8.ranges import METHODS, PERCENTILE, ranges_of
    from export.int8.search import KNAPSACKS, Budget, Found, Outcome, Point, pareto, search
    from export.int8.search_report import SearchReport, as_text, check_plot, write_plot
    from export.int8.sensitivity import Quantizer, count_variants, measure_sensitivity
    from export.to_int8 import (
        Calibrated,
        Progress,
        add_calibration_arguments,
        calibrate,
        check_arguments,
        describe_method,
    )

SENSITIVITY_TILES = 8
"""Calibration tiles on which each linear alone is quantised."""

TIMED_GRAPHS = 6
"""Points of the Pareto front that are timed as whole graphs; more would need their memory at once."""

CLASS_FACTOR = 4.0
"""The default budget of one class, in budgets of the mean: a rare class moves by more than the mean does."""


@dataclass(frozen=True)
class Settings:
    """Settings of the search.

    Attributes:
        budget: The accuracy that may be lost.
        target: One of `export.int8.cost.TARGETS`.
        high: Precision of the other parts, or None for the one that suits the target.
        split: Split of the data set that accuracy is measured on.
        windows: Number of labelled windows that the search compares choices on.
        count: Calibration tiles.
        method: Calibration method of the ranges.
        percentile: For the method of that name.
        curve: Points of the frontier that are evaluated in any case.
        tries: Linears that are tried on top of the frontier's point.
    """

    budget: Budget
    target: str = "cpu"
    high: str | None = None
    split: str = "val"
    windows: int = DEFAULT_WINDOWS
    count: int = DEFAULT_COUNT
    method: str = METHODS[0]
    percentile: float = PERCENTILE
    curve: int = 6
    tries: int = 8

    @property
    def high_precision(self) -> str:
        """Processors compute in FP32; GPUs in FP16."""
        return self.high or ("fp16" if self.target in DEVICES else "fp32")


def optimize(
    model: str | Path,
    data: str | Path,
    settings: Settings,
    *,
    calibration: str | Path | None = None,
    output: str | Path | None = None,
    table: str | Path | None = None,
    plot: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda text, done, total: None,
) -> tuple[SearchReport, Written | None]:
    """Search, and write the results.

    Args:
        model: The FP32 file that `export.to_onnx` wrote.
        data: Data set with labels.
        settings: Settings of the search.
        calibration: Images for calibration; None takes the data set's training pictures.
        output: File for the chosen graph, or None.
        table: Text file for the tables, or None.
        plot: PNG file for the plot, or None.
        overwrite: Whether existing outputs may be replaced.
        progress: See `export.to_int8.Progress`.

    Raises:
        EmraError: A bad argument or input; ``optimize-nothing`` when no linear can be INT8 within the budget; a check
            that failed. No file is left then.
    """
    check_all_outputs((output, table, plot), overwrite=overwrite, inputs=(model,))
    need("quant", "onnxruntime", purpose="measuring a model")
    check_arguments(Path(output or "none.onnx"), settings.method, settings.percentile, settings.high_precision)
    if plot is not None:
        check_plot(plot)
    manifest = read_parent(model).manifest
    pictures = open_labelled(data, settings.split, manifest)
    windows = read_windows(pictures, manifest.tile, settings.windows)
    tile = middle(windows[0].pixels(), *manifest.tile)
    costs = open_cost_model(settings.target, manifest, tile, settings.high_precision)

    base = calibrate(model, calibration or data, settings.count, progress)
    ranges = ranges_of(base.magnitudes, settings.method, settings.percentile)
    quantizer = Quantizer(base.parent.model, manifest, base.linears, ranges)
    savings = costs.savings(
        base.parent.model, base.linears, ranges, _counter(progress, "costing linears", len(base.linears))
    )
    sensitivity = measure_sensitivity(
        quantizer,
        base.calibration.tiles[:SENSITIVITY_TILES],
        _counter(progress, "quantising each linear alone", count_variants(base.linears)),
    )
    accept = Acceptance(quantizer, windows)
    step = _counter(progress, "evaluating choices of linears", _evaluations(len(base.linears), settings))

    def evaluate(names: frozenset[str]) -> Outcome:
        outcome = accept(names)
        step()
        return outcome

    divergences = {name: one.divergence for name, one in sensitivity.linears.items()}
    found = search(divergences, savings, evaluate, settings.budget, curve=settings.curve, tries=settings.tries)
    chosen, comparison = choose(base, settings, ranges, found, pictures, progress)
    timings = time_graphs(costs, quantizer, found, chosen, progress)
    report = SearchReport(
        manifest.name,
        settings.target,
        costs.description,
        costs.measured,
        settings.budget,
        sensitivity,
        savings,
        found,
        chosen,
        timings,
        comparison,
        len(windows),
    )
    written = None
    if output is not None:
        progress("checking the file in other libraries", 0, 0)
        recipe = make_recipe(base, settings, ranges, chosen)
        written = publish(
            base.parent,
            recipe,
            build(base.parent, recipe),
            comparison,
            output,
            evidence={"optimize": report.to_dict()},
            overwrite=overwrite,
        )
    if table is not None:
        with atomic_output(table, overwrite=overwrite) as part:
            part.write_text(as_text(report), encoding="utf-8")
    if plot is not None:
        write_plot(report, plot, overwrite=overwrite)
    return report, written


def open_labelled(root: str | Path, split: str, manifest: Manifest) -> Sequence[LabelledTile]:
    """Pictures with labels of the model's classes.

    Raises:
        EmraError: ``no-labels`` without labels, ``class-mismatch``, ``band-mismatch``, and those of the data set.
    """
    from training.data.catalogue import open_dataset

    data = open_dataset("auto", root, split)
    check_bands(manifest.bands, data.bands)
    check_classes(manifest.classes, data.classes)
    if not data.labelled:
        raise EmraError(
            "no-labels", f"split {split!r} has no labels to measure accuracy with", "Choose another --split", root
        )
    return data.tiles


def choose(
    base: Calibrated,
    settings: Settings,
    ranges: dict[str, float],
    found: Found,
    pictures: Sequence[LabelledTile],
    progress: Progress,
) -> tuple[Point, Report]:
    """The cheapest choice that keeps the budget on all pictures, in the precision it will be written in.

    Raises:
        EmraError: ``optimize-nothing``.
    """
    budget = settings.budget
    candidates = [point for point in found.within(budget) if point.linears]
    for number, point in enumerate(candidates):
        progress("comparing the choice on all pictures", number, len(candidates))
        recipe = make_recipe(base, settings, ranges, point)
        comparison = compare_with_parent(base.parent, build(base.parent, recipe), pictures, labelled=True)
        drops = [drop for drop in (comparison.iou_drop or {}).values() if not np.isnan(drop)]
        if (comparison.miou_drop or 0.0) <= budget.max_drop and max(drops, default=0.0) <= budget.max_class_drop:
            progress("comparing the choice on all pictures", len(candidates), len(candidates))
            return point, comparison
    tried = min((p for p in found.points if p.linears), key=lambda p: p.outcome.drop, default=None)
    least = "" if tried is None else f"; the best of {found.evaluations} choices lost {tried.outcome.drop:.3f}"
    raise EmraError(
        "optimize-nothing",
        f"no linear can be INT8 for {budget.max_drop:g} mIoU points and {budget.max_class_drop:g} of any class{least}",
        "Allow more with --max-drop and --max-class-drop, or deploy the FP32 or FP16 file",
    )


def make_recipe(base: Calibrated, settings: Settings, ranges: dict[str, float], point: Point) -> Recipe:
    """The recipe of a choice's file."""
    return Recipe(
        base.linears,
        tuple(linear for linear in base.linears if linear.name in point.linears),
        ranges,
        describe_method(settings.method, settings.percentile),
        base.calibration,
        settings.high_precision,
    )


def time_graphs(
    costs: CostModel, quantizer: Quantizer, found: Found, chosen: Point, progress: Progress
) -> dict[frozenset[str], Timing]:
    """Timings of whole graphs: FP32, the chosen one and some of the Pareto front."""
    points = found.points
    front = pareto([-point.saving for point in points], [point.outcome.drop for point in points])
    count = min(TIMED_GRAPHS, len(front))
    kept = [points[front[k * len(front) // count]].linears for k in range(count)]
    timed = list(dict.fromkeys([frozenset[str](), chosen.linears, *kept]))
    linears = tuple(quantizer.linears.values())
    variants = {str(number): Variant(quantizer.graph(names), linears, names) for number, names in enumerate(timed)}
    visits = len(timed) * (GRAPH_PLAN.rounds + 1)
    timings = costs.graphs(variants, _counter(progress, "timing whole graphs", visits))
    return {names: timings[str(number)] for number, names in enumerate(timed)}


def _counter(progress: Progress, text: str, total: int) -> Callable[[], None]:
    """A function that reports one step more at each call."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(text, done, max(total, done))

    return step


def _evaluations(linears: int, settings: Settings) -> int:
    """The most choices that the search evaluates."""
    return 1 + math.ceil(math.log2(linears + 1)) + KNAPSACKS + settings.tries + settings.curve


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="optimize.py", description="Find the cheapest INT8 graph that loses no more accuracy than allowed."
    )
    add = made.add_argument
    add("model", metavar="MODEL.onnx", help="FP32 file that to_onnx.py wrote")
    add("--data", required=True, metavar="DIR", help="labelled data set")
    add("--split", default="val", help="that accuracy is measured on (val)")
    add("--calibration", metavar="DIR", help="images for calibration (the data set's training pictures)")
    add("--max-drop", type=float, default=0.5, metavar="POINTS", help="mIoU points that may be lost (0.5)")
    add(
        "--max-class-drop",
        type=float,
        metavar="POINTS",
        help=f"IoU points that one class may lose ({CLASS_FACTOR:g} times --max-drop)",
    )
    add("--target", choices=TARGETS, default="cpu", help="cpu and openvino are measured, rtx and orin modelled (cpu)")
    add(
        "--high-precision",
        dest="high",
        choices=HIGH_PRECISIONS,
        help="of the other parts (fp16 for rtx and orin, fp32 else)",
    )
    add("--windows", type=int, default=DEFAULT_WINDOWS, metavar="N", help=f"to compare choices on ({DEFAULT_WINDOWS})")
    add("--output", metavar="FILE.onnx", help="write the chosen graph there")
    add("--table", metavar="FILE", help="write the tables there")
    add("--plot", metavar="FILE.png", help="draw cost against accuracy there")
    add("--json", action="store_true", help="print everything as JSON instead of tables")
    add_calibration_arguments(made)
    return made


@command("stopped; no output is left half-written")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = vars(parser().parse_args(argv))
    from export.int8.progress import progress_bars

    drop, most, as_json = (arguments.pop(name) for name in ("max_drop", "max_class_drop", "json"))
    budget = Budget(drop, CLASS_FACTOR * drop if most is None else most)
    chosen = ("target", "high", "split", "windows", "count", "method", "percentile")
    settings = Settings(budget, **{name: arguments.pop(name) for name in chosen})
    with progress_bars() as progress:
        report, written = optimize(settings=settings, **arguments, progress=progress)
    if as_json:
        print(json.dumps(report.to_dict(), indent=1, allow_nan=False))
        return 0
    print(as_text(report), end="")
    if written is not None:
        print(*written.checks, sep="\n")
        tell(f"wrote {written.path}: {written.size / 1e6:.1f} MB", written.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
