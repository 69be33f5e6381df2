"""Results of `export.optimize` as tables, a plot and JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output
from export.compare.report import Report
from export.int8.cost import Timing
from export.int8.search import Budget, Found, Point, pareto
from export.int8.sensitivity import Degradation, Sensitivity
from export.measure import Ratio

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
PLOT_FORMATS = (".svg", ".png", ".pdf")
WORST = 10
"""Linears that the table lists."""


@dataclass(frozen=True)
class SearchReport:
    """All measurements of one search.

    Attributes:
        model: Name of the FP32 file.
        target: One of `export.int8.cost.TARGETS`.
        cost: Source of the costs, in words.
        measured: Whether they were measured on the target.
        budget: The accuracy that may be lost.
        sensitivity: Sensitivity of the linears and blocks.
        savings: Seconds a picture that INT8 saves in each linear.
        found: The search's result.
        chosen: The choice in the file: the search's, or a more careful one that all pictures demanded.
        timings: Times of whole graphs, by the linears that are quantised; some of the points, and always FP32.
        comparison: Comparison of the chosen graph with FP32 on all pictures, or None when there is no such graph.
        windows: Number of windows that the search compared choices on.
    """

    model: str
    target: str
    cost: str
    measured: bool
    budget: Budget
    sensitivity: Sensitivity
    savings: Mapping[str, float]
    found: Found
    chosen: Point
    timings: Mapping[frozenset[str], Timing]
    comparison: Report | None
    windows: int

    def cost_of(self, point: Point) -> tuple[float, bool]:
        """Seconds a picture, and whether they are the whole graph's rather than FP32's less the savings.

        Savings of linears alone are scaled to what the chosen graph saves as a whole, so that both kinds compare.
        """
        if point.linears in self.timings:
            return self.timings[point.linears].seconds, True
        base, chosen = self.timings[frozenset()].seconds, self.chosen
        share = 1.0
        if chosen.saving > 0 and chosen.linears in self.timings:
            share = max(0.0, (base - self.timings[chosen.linears].seconds) / chosen.saving)
        return base - share * point.saving, False

    def ratio_of(self, point: Point) -> Ratio | None:
        """Cost over that of FP32, with its interval, where it was measured."""
        return self.timings[point.linears].ratio if point.linears in self.timings else None

    def best(self) -> list[Point]:
        """Points that no other point beats in cost and accuracy, the cheapest first."""
        points = self.found.points
        costs = [self.cost_of(point)[0] for point in points]
        return [points[index] for index in pareto(costs, [point.outcome.drop for point in points])]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        best = {point.linears for point in self.best()}
        return {
            "schema": SCHEMA,
            "model": self.model,
            "target": self.target,
            "cost": {"how": self.cost, "measured": self.measured},
            "budget": asdict(self.budget),
            "sensitivity": {
                "tiles": self.sensitivity.tiles,
                "additivity": self.sensitivity.additivity,
                "whole": asdict(self.sensitivity.whole),
                "blocks": {name: asdict(one) for name, one in self.sensitivity.blocks.items()},
                "linears": {
                    name: {**asdict(one), "saving_ms": 1e3 * self.savings[name]}
                    for name, one in self.sensitivity.linears.items()
                },
            },
            "order": list(self.found.order),
            "no_saving": list(self.found.useless),
            "evaluations": self.found.evaluations,
            "windows": self.windows,
            "points": [self._point(point, point.linears in best) for point in self.found.points],
            "chosen": self._point(self.chosen, self.chosen.linears in best),
            "all_pictures": None if self.comparison is None else self.comparison.summary(),
        }

    def _point(self, point: Point, best: bool) -> dict[str, Any]:
        seconds, whole = self.cost_of(point)
        ratio = self.ratio_of(point)
        return {
            "int8": len(point.linears),
            "kept_high": sorted(set(self.savings) - point.linears),
            "cost_ms": 1e3 * seconds,
            "cost_of_whole_graph": whole,
            "cost_over_fp32": None if ratio is None else ratio.to_dict(),
            "saving_of_linears_ms": 1e3 * point.saving,
            "drop_points": point.outcome.drop,
            "class_drop_points": dict(point.outcome.class_drops),
            "agreement": point.outcome.agreement,
            "pareto": best,
            "step": point.step,
        }


def as_text(report: SearchReport) -> str:
    """Tables for the terminal and for a file."""
    from rich.console import Console
    from rich.table import Table

    stream = io.StringIO()
    console = Console(file=stream, width=110, no_color=True, highlight=False)
    sensitivity = report.sensitivity
    ranked = sorted(sensitivity.linears.items(), key=lambda item: -item[1].divergence)
    worst = Table(
        "linear", title=f"Degradation by INT8 of each linear alone ({sensitivity.tiles} tiles), the {WORST} worst"
    )
    for column in ("divergence", "logit error", "agreement", "saves ms"):
        worst.add_column(column, justify="right")
    for name, one in ranked[:WORST]:
        worst.add_row(name, *_cells(one), f"{1e3 * report.savings[name]:.3g}")
    console.print(worst)
    blocks = Table("block", title="Each block alone")
    for column in ("divergence", "logit error", "agreement"):
        blocks.add_column(column, justify="right")
    for name, one in (*sensitivity.blocks.items(), ("all", sensitivity.whole)):
        blocks.add_row(name, *_cells(one))
    console.print(blocks)
    console.print(f"The linears' divergences add up to {sensitivity.additivity:.2f} of that of all together.")
    if report.found.useless:
        console.print(f"INT8 saves nothing in {', '.join(report.found.useless)}.")
    console.print(_points_table(report))
    console.print(f"Cost {report.cost}.")
    console.print(f"{report.found.evaluations} choices evaluated on {report.windows} labelled windows.")
    ratio = report.ratio_of(report.chosen)
    if ratio is not None:
        console.print(
            f"Time of the chosen graph over that of the graph without INT8: {ratio.value:.3f} ({ratio.low:.3f} to"
            f" {ratio.high:.3f}), {ratio.verdict()}."
        )
    comparison = report.comparison
    if comparison is not None and comparison.miou_drop is not None:
        console.print(
            f"Chosen: {len(report.chosen.linears)} of {len(report.savings)} linears in INT8. On all"
            f" {len(comparison.pictures)} pictures: {comparison.miou_drop:+.3f} mIoU points lost,"
            f" {comparison.agreement:.3%} of the labels agree."
        )
    return stream.getvalue()


def _cells(degradation: Degradation) -> tuple[str, str, str]:
    return f"{degradation.divergence:.2e}", f"{degradation.logit_error:.2%}", f"{degradation.agreement:.3%}"


def _points_table(report: SearchReport) -> Table:
    from rich.table import Table

    how = "measured" if report.measured else "modelled"
    table = Table("INT8", title=f"Cost against accuracy on {report.target}, the cheapest first")
    for column in (f"ms ({how})", "mIoU points lost", "worst class lost", "labels agree"):
        table.add_column(column, justify="right")
    table.add_column("")
    best = {point.linears for point in report.best()}
    for point in sorted(report.found.points, key=lambda point: report.cost_of(point)[0]):
        seconds, whole = report.cost_of(point)
        outcome = point.outcome
        worst = max(outcome.class_drops.items(), key=lambda item: item[1], default=("-", 0.0))
        notes = [
            *(["chosen"] if point.linears == report.chosen.linears else []),
            *(["Pareto"] if point.linears in best else []),
            *([] if outcome.within(report.budget) else ["over the budget"]),
            *([] if whole else ["cost by its linears"]),
        ]
        table.add_row(
            f"{len(point.linears)}/{len(report.savings)}",
            f"{1e3 * seconds:.4g}",
            f"{outcome.drop:+.3f}",
            f"{worst[1]:+.3f} {worst[0]}",
            f"{outcome.agreement:.3%}",
            ", ".join(notes),
        )
    return table


def check_plot(path: str | Path) -> None:
    """Refuse a plot that cannot be drawn, before any work.

    Raises:
        EmraError: ``output-suffix``, ``library-missing`` without matplotlib.
    """
    if Path(path).suffix.lower() not in PLOT_FORMATS:
        raise EmraError(
            "output-suffix", "The name of the plot has another ending", f"Use {', '.join(PLOT_FORMATS)}", path
        )
    need("report", "matplotlib", purpose="the plot")


def write_plot(report: SearchReport, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw cost against mIoU lost.

    Raises:
        EmraError: That of `check_plot`, and those of writing.
    """
    check_plot(path)
    # The object interface alone: pyplot would look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for whole, marker, label in ((True, "o", "whole graph"), (False, "x", "FP32 less its linears' savings")):
        points = [point for point in report.found.points if report.cost_of(point)[1] is whole]
        if points:
            axes.scatter(
                [1e3 * report.cost_of(point)[0] for point in points],
                [point.outcome.drop for point in points],
                marker=marker,
                color="#0072B2",
                label=label,
                zorder=3,
            )
    front = report.best()
    costs = [1e3 * report.cost_of(point)[0] for point in front]
    axes.step(costs, [point.outcome.drop for point in front], where="post", color="#0072B2", alpha=0.4, label="Pareto")
    axes.axhline(report.budget.max_drop, color="#D55E00", linestyle="--", label="budget")
    axes.scatter(
        [1e3 * report.cost_of(report.chosen)[0]],
        [report.chosen.outcome.drop],
        s=160,
        facecolors="none",
        edgecolors="#D55E00",
        linewidths=2,
        label=f"chosen, {len(report.chosen.linears)} of {len(report.savings)} linears INT8",
        zorder=4,
    )
    axes.set_xlabel(f"ms a picture, {'measured' if report.measured else 'modelled'} ({report.target})")
    axes.set_ylabel(f"mIoU points lost on {report.windows} windows")
    axes.set_title(report.model)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure)
    with atomic_output(path, overwrite=overwrite) as part:
        figure.savefig(part, dpi=150)
