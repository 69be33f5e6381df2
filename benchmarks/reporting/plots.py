"""Charts of results: for files, and as SVG inside the report. Narrow, so that a phone shows them without zooming."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2
"""Inches; at 96 pixels an inch a phone of 390 pixels shows it at 0.9."""

FORMATS = (".svg", ".png", ".pdf")
# Okabe and Ito's palette, which differs in hue and in lightness for every kind of colour vision.
BLUE, ORANGE, GREEN, YELLOW = "#0072B2", "#E69F00", "#009E73", "#F0E442"
SKY, RED, PINK = "#56B4E9", "#D55E00", "#CC79A7"
_STAGES = {"decode": SKY, "upload": YELLOW, "compute": BLUE, "download": ORANGE, "post": GREEN}
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


def check_plot(path: str | os.PathLike[str]) -> None:
    """Refuse a file name that no chart can be written to, before anything is measured.

    Raises:
        EmraError: ``output-suffix``, ``library-missing`` without matplotlib.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise EmraError("output-suffix", "The name of the chart has another ending", f"Use {', '.join(FORMATS)}", path)
    _pyplot()


def short_names(keys: Sequence[str]) -> list[str]:
    """Keys of candidates without the parts that all of several share."""
    rows = [key.split(" | ") for key in keys]
    if len({len(row) for row in rows}) != 1 or len(rows) < 2:
        return list(keys)
    kept = [place for place in range(len(rows[0])) if len({row[place] for row in rows}) > 1]
    return [" | ".join(row[place] for place in kept) or key for key, row in zip(keys, rows, strict=True)]


def latency_figure(result: Mapping[str, Any]) -> Figure:
    """Median stages of each candidate, stacked, and the 90th percentile of the whole."""
    content = result["content"]
    candidates = content["candidates"]
    figure, axes = _figure(len(candidates))
    names = short_names([entry["key"] for entry in candidates])
    for place, entry in enumerate(candidates):
        left = 0.0
        for stage, colour in _STAGES.items():
            times = entry["stages"][stage]
            if times is not None:
                axes.barh(place, 1000 * times["p50"], 0.42, left, color=colour)
                left += 1000 * times["p50"]
        whole = entry["stages"]["end_to_end"]
        axes.plot([1000 * whole["p90"]], [place], marker="|", markersize=11, color="black")
        _label(axes, place, f"{names[place]}: {_digits(1000 * whole['p50'])} ms")
    used = [stage for stage in _STAGES if any(entry["stages"][stage] is not None for entry in candidates)]
    handles = [_patch(_STAGES[stage], stage) for stage in used]
    axes.set_xlabel("ms of a batch, medians; | is p90, end to end")
    _finish(axes, len(candidates), handles)
    if not content["noise"]["quiet"]:
        axes.set_title("machine too noisy to conclude", color=RED)
    return figure


def ratio_figure(result: Mapping[str, Any], stage: str = "compute") -> Figure | None:
    """Ratios to the baseline with their intervals; None without any."""
    ratios = [ratio for ratio in result["content"]["ratios"] if ratio["stage"] == stage]
    if not ratios:
        return None
    figure, axes = _figure(len(ratios))
    names = short_names([ratios[0]["against"], *(ratio["key"] for ratio in ratios)])
    colours = {"faster": GREEN, "slower": RED, "equal": BLUE}
    for place, ratio in enumerate(ratios):
        colour = colours.get(ratio["verdict"], "#777777")
        axes.plot([ratio["low"], ratio["high"]], [place, place], color=colour, linewidth=2.5)
        axes.plot([ratio["value"]], [place], marker="o", color=colour)
        words = "" if ratio["verdict"] in colours else ", too noisy"
        _label(axes, place, f"{names[place + 1]}: {ratio['value']:.2f} ×{words}")
    axes.axvline(1, color="black", linewidth=0.8)
    spread = max(ratio["high"] for ratio in ratios) / min(ratio["low"] for ratio in ratios)
    if spread > 6:
        axes.set_xscale("log")
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(f"times the baseline's {stage.replace('_', ' ')}, 95 % interval")
    axes.set_title(f"1 is {names[0]}", fontsize=9)
    _finish(axes, len(ratios), [])
    return figure


def memory_figure(result: Mapping[str, Any]) -> Figure:
    """Host memory of each candidate, by cause."""
    candidates = result["content"]["candidates"]
    figure, axes = _figure(len(candidates))
    names = short_names([entry["key"] for entry in candidates])
    parts = {"start_bytes": "#BBBBBB", "library_bytes": SKY, "loaded_bytes": ORANGE, "running_bytes": BLUE}
    for place, entry in enumerate(candidates):
        left = 0.0
        for name, colour in parts.items():
            size = (entry["host"].get(name) or 0) / 2**20
            axes.barh(place, size, 0.42, left, color=colour)
            left += size
        peak = entry["host"]["peak_bytes"] / 2**20
        axes.plot([peak], [place], marker="|", markersize=11, color="black")
        _label(axes, place, f"{names[place]}: {peak:.0f} MiB")
    words = ("Python and NumPy", "library", "loading", "running")
    axes.set_xlabel("MiB of the process; | is its peak")
    _finish(axes, len(candidates), [_patch(colour, name) for colour, name in zip(parts.values(), words, strict=True)])
    return figure


def roofline_figure(result: Mapping[str, Any]) -> Figure:
    """Ceilings as roofs, candidates as points between their fused and unfused intensities."""
    content = result["content"]
    figure, axes = _figure(height=4.2)
    rows = content["models"]
    colours = {"fp32": BLUE, "bf16": ORANGE, "fp16": ORANGE, "int8": RED}
    intensities = [row[name] for row in rows for name in ("intensity_fused", "intensity_unfused")]
    low, high = min([1.0, *intensities]) / 2, max([100.0, *intensities]) * 2
    x = np.geomspace(low, high, 200)
    for ceilings, dashes in ((content["ceilings"], "-"), (content.get("gpu_ceilings"), "--")):
        if ceilings is None:
            continue
        for name, top in ceilings["compute"].items():
            roof = np.minimum(x * ceilings["bandwidth"]["per_second"], top["per_second"]) / 1e9
            axes.plot(x, roof, dashes, color=colours.get(name, PINK), linewidth=1.2)
            axes.annotate(
                f"{name} {top['per_second'] / 1e9:.0f}",
                (high, top["per_second"] / 1e9),
                ha="right",
                va="bottom",
                fontsize=8,
                color=colours.get(name, PINK),
            )
    handles = []
    names = short_names([row["key"] for row in rows])
    for number, row in enumerate(rows):
        height = row["flops_per_second"] / 1e9
        colour = (GREEN, PINK, SKY, "#000000", YELLOW, "#777777")[number % 6]
        axes.plot([row["intensity_unfused"], row["intensity_fused"]], [height, height], color=colour, linewidth=1)
        axes.plot([row["intensity_fused"]], [height], "o", color=colour, markersize=6)
        axes.plot([row["intensity_unfused"]], [height], "|", color=colour, markersize=9)
        share = "" if row["attained"] is None else f", {row['attained']:.0%}"
        handles.append(_patch(colour, f"{names[number]}: {height:.1f}{share}"))
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        # Exponents of powers of ten are too small to read on a phone.
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations per byte: | unfused, ● all fused")
    axes.set_ylabel("GFLOP/s")
    figure.legend(handles=handles, loc="outside lower center", fontsize=8.5, frameon=False)
    return figure


def accuracy_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy against latency.

    Args:
        points: Points by `benchmarks.reporting.accuracy.accuracy_points`.
    """
    # Two legend lines each: on one line, name and figures are wider than the chart.
    figure, axes = _figure(height=2.6 + 0.34 * len(points))
    colours = (BLUE, RED, GREEN, ORANGE, PINK, SKY, "#000000")
    handles = []
    names = short_names([point["key"] for point in points])
    for number, point in enumerate(points):
        colour = colours[number % len(colours)]
        axes.plot([point["low"], point["high"]], [point["miou"]] * 2, color=colour, linewidth=1)
        axes.plot([point["milliseconds"]], [point["miou"]], "o", color=colour)
        figures = f"{point['miou']:.3f}, {_digits(point['milliseconds'])} ms"
        handles.append(_patch(colour, f"{names[number]}:\n{figures}"))
    axes.set_xlim(left=0)
    scores = [point["miou"] for point in points]
    middle = (min(scores) + max(scores)) / 2
    # At least a hundredth each way, or a tiny difference would look large.
    reach = max(0.01, 0.6 * (max(scores) - min(scores)))
    axes.set_ylim(middle - reach, middle + reach)
    axes.set_xlabel("ms per million pixels of a map, p50 to p90")
    axes.set_ylabel("mIoU")
    figure.legend(handles=handles, loc="outside lower center", fontsize=8.5, frameon=False)
    return figure


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element that shares no identifier with another of the same page.

    Args:
        figure: It is closed.
        name: Distinct on the page; letters and digits.
    """
    pyplot = _pyplot()
    stream = io.StringIO()
    with pyplot.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    # The page's own font: nothing is fetched, and DejaVu, which the layout was made with, is wider than most.
    return re.sub(r"font: ([\d.]+)px '[^\"]*?(?=[;\"])", r"font: \1px system-ui, sans-serif", text)


def save(path: str | os.PathLike[str], figure: Figure, *, overwrite: bool = False) -> None:
    """Write a chart to a file of its suffix's format, and close it."""
    with atomic_output(path, overwrite=overwrite) as part:
        figure.savefig(part, format=Path(path).suffix.lower().lstrip("."), dpi=160)
    _pyplot().close(figure)


def _figure(rows: int = 0, height: float | None = None) -> tuple[Figure, Axes]:
    pyplot = _pyplot()
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH, 1.1 + 0.46 * rows if height is None else height))
    return figure, axes


def _label(axes: Axes, place: int, text: str) -> None:
    """A candidate's name above its bar: there is no room next to it on a phone."""
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    where = ("axes fraction", "data")
    axes.annotate(text, (0, place - 0.27), xycoords=where, va="bottom", fontsize=8.5, bbox=paper, zorder=4)


def _finish(axes: Axes, rows: int, handles: list[Any]) -> None:
    axes.set_ylim(rows - 0.6, -0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if handles:
        figure = axes.figure
        columns = 5 if sum(len(handle.get_label()) for handle in handles) < 34 else 3
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            fontsize=8.5,
            frameon=False,
            handlelength=1,
            columnspacing=1,
        )


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _pyplot() -> Any:
    need("report", "matplotlib", purpose="a chart")
    import matplotlib as mpl

    # There may be no screen.
    mpl.use("Agg", force=True)
    from matplotlib import pyplot

    return pyplot
