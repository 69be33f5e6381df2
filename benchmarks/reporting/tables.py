"""Tables of results, the same on the terminal and in a report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Entry = Mapping[str, Any]
NOISY = "machine too noisy to conclude"
_TIMES = ("mean", "p50", "p90", "p99", "std")
_STAGES = ("decode", "upload", "compute", "download", "post")


@dataclass
class Table:
    """Cells of text.

    Attributes:
        title: Above the table; may be empty.
        head: Titles of the columns.
        rows: One cell for each column.
        words: Whether cells hold text, to be aligned left, rather than figures.
    """

    title: str
    head: Sequence[str]
    rows: list[list[str]]
    words: bool = False


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three digits; None is a dash."""
    if seconds is None:
        return "-"
    value = 1000 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def mebibytes(size: float | None) -> str:
    """Bytes as MiB; None is a dash."""
    return "-" if size is None else f"{size / 2**20:.1f}"


def in_words(value: Any) -> str:
    """A JSON value as the text of a cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(item) for item in value)
    return str(value)


def latency_tables(content: Entry) -> list[Table]:
    """Times, stages, ratios, and time by operator of candidates that were profiled."""
    candidates, ratios = content["candidates"], content["ratios"]
    tables = [
        Table(
            "Milliseconds of a batch",
            ("candidate", *_TIMES, "end to end p50", "pictures/s", "J/picture", "W"),
            [_latency_row(entry) for entry in candidates],
        ),
        Table(
            "Stages, milliseconds, medians",
            ("candidate", *_STAGES, "computes in", "CUDA graph"),
            [_stage_row(entry) for entry in candidates],
        ),
    ]
    if ratios:
        tables.append(
            Table(
                f"Times the baseline, {ratios[0]['against']}, with 95 % intervals",
                ("candidate", "stage", "ratio", "interval", "verdict"),
                [
                    [
                        ratio["key"],
                        ratio["stage"].replace("_", " "),
                        f"{ratio['value']:.3f}",
                        f"{ratio['low']:.3f} to {ratio['high']:.3f}",
                        ratio["verdict"],
                    ]
                    for ratio in ratios
                ],
            )
        )
    for entry in candidates:
        if profile := entry.get("profile"):
            title = f"Time of {entry['key']} by operator ({profile['layers']} layers)"
            rows = [
                [kind["kind"], milliseconds(kind["seconds"]), f"{kind['share']:.1%}"]
                for kind in profile["kinds"]
                if kind["share"] >= 0.01
            ]
            tables.append(Table(title, ("operator", "ms", "share"), rows))
    return tables


def _latency_row(entry: Entry) -> list[str]:
    compute, energy = entry["stages"]["compute"], entry["energy"]
    return [
        entry["key"],
        *(milliseconds(compute[name]) for name in _TIMES),
        milliseconds(entry["stages"]["end_to_end"]["p50"]),
        f"{entry['throughput']:.2f}",
        "-" if energy is None else f"{energy['joules_per_picture']:.3f}",
        "-" if energy is None else f"{energy['watts']:.1f}",
    ]


def _stage_row(entry: Entry) -> list[str]:
    times = [entry["stages"][name] for name in _STAGES]
    graph = {None: "-", True: "on", False: "off"}[entry["cuda_graph"]]
    return [
        entry["key"],
        *("-" if time is None else milliseconds(time["p50"]) for time in times),
        entry["precision"],
        graph,
    ]


def memory_tables(content: Entry) -> list[Table]:
    """Memory of each candidate in MiB."""
    columns = {
        "peak": ("host", "peak_bytes"),
        "library": ("host", "library_bytes"),
        "loading": ("host", "loaded_bytes"),
        "running": ("host", "running_bytes"),
        "weights": (None, "weights_bytes"),
        "activations": (None, "activations_bytes"),
        "device": ("device", "peak_bytes"),
        "workspace": ("device", "workspace_bytes"),
        "shared": ("shared", "taken_bytes"),
        "swap": ("shared", "swap_bytes"),
    }
    rows = []
    for entry in content["candidates"]:
        parts = [(entry if part is None else entry[part] or {}, name) for part, name in columns.values()]
        rows.append([entry["key"], *(mebibytes(part.get(name)) for part, name in parts)])
    return [Table("MiB, each candidate in a fresh process", ("candidate", *columns), rows)]


def roofline_tables(content: Entry) -> list[Table]:
    """Ceilings, then counted costs and attained fractions."""
    tops = []
    for ceilings in filter(None, (content["ceilings"], content.get("gpu_ceilings"))):
        name, bandwidth = ceilings["device"], ceilings["bandwidth"]
        tops.append([f"{name}: copy", f"{bandwidth['per_second'] / 1e9:.1f} GB/s", bandwidth["by"]])
        tops += [
            [f"{name}: {precision} product", f"{top['per_second'] / 1e9:.0f} GFLOP/s", top["by"]]
            for precision, top in ceilings["compute"].items()
        ]
    head = ("GFLOP", "MB fused", "MB unfused", "ms", "GFLOP/s", "bound ms", "bound by", "attained")
    rows = [
        [
            row["key"],
            f"{row['flops'] / 1e9:.2f}",
            f"{row['bytes_fused'] / 1e6:.1f}",
            f"{row['bytes_unfused'] / 1e6:.0f}",
            milliseconds(row["seconds"]["p50"]),
            f"{row['flops_per_second'] / 1e9:.1f}",
            milliseconds(row["bound_seconds"]),
            row["bound_by"] or "-",
            "-" if row["attained"] is None else f"{row['attained']:.0%}",
        ]
        for row in content["models"]
    ]
    return [
        Table("Ceilings", ("ceiling", "measured", "by"), tops),
        Table("Models, counted and attained", ("candidate", *head), rows),
    ]


_TABLES = {"latency": latency_tables, "memory": memory_tables, "roofline": roofline_tables}


def make_console() -> Console:
    """A console of the terminal's width, or wide enough for these tables where there is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def print_tables(tables: Iterable[Table], console: Console, styles: Mapping[int, str | None] | None = None) -> None:
    """Print tables.

    Args:
        tables: The tables.
        console: The terminal.
        styles: Styles of rows by their number, for a single table.
    """
    from rich import table as rich_table

    for table in tables:
        first, *others = table.head
        made = rich_table.Table(
            rich_table.Column(first, min_width=30, overflow="fold"), title=table.title or None, title_justify="left"
        )
        for name in others:
            made.add_column(name, justify="left" if table.words else "right", no_wrap=not table.words, overflow="fold")
        for number, row in enumerate(table.rows):
            made.add_row(*row, style=(styles or {}).get(number))
        console.print(made)


def print_result(result: Entry) -> None:
    """Print a result of latency.py, memory.py or roofline.py: tables, noise, failures and omissions."""
    console, content = make_console(), result["content"]

    def line(text: str, style: str) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)

    print_tables(_TABLES[result["kind"]](content), console)
    for row in content.get("models", ()):
        if row["uncounted"]:
            line(f"{row['key']}: not counted: {row['uncounted']}", "red")
    noise = content.get("noise")
    if noise is not None and not noise["quiet"]:
        line(f"{NOISY}: {'; '.join(noise['reasons'])}", "bold red")
    for failed in result["failures"]:
        line(f"failed: {failed['candidate']}: {failed['message']}", "red")
    for missing in result["not_measured"]:
        line(f"not measured: {missing['what']} ({missing['why']})", "dim")
