"""Results on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

MEBI = 2**20
ROOFLINE_HEAD = ("GFLOP", "MB fused", "MB unfused", "ms", "GFLOP/s", "bound ms", "bound by", "attained")
"""Columns behind the candidate's."""


def make_console() -> Console:
    """A console as wide as these tables need, where nobody says how wide it is."""
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def print_latency(result: Mapping[str, Any], console: Console) -> None:
    """Times, stages, ratios, the verdict on the machine, and what failed."""
    from rich.table import Column, Table

    content = result["content"]
    table = Table(
        Column("candidate", min_width=30, overflow="fold"),
        title="Milliseconds of a batch; pictures per second",
        title_justify="left",
    )
    for column in ("mean", "p50", "p90", "p99", "std", "end to end p50", "pictures/s", "J/picture"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in content["candidates"]:
        compute, whole = entry["stages"]["compute"], entry["stages"]["end_to_end"]
        energy = entry["energy"]
        table.add_row(
            entry["key"],
            *(milliseconds(compute[name]) for name in ("mean", "p50", "p90", "p99", "std")),
            milliseconds(whole["p50"]),
            f"{entry['throughput']:.2f}",
            "-" if energy is None else f"{energy['joules_per_picture']:.3f}",
        )
    console.print(table)
    stages = Table(
        Column("candidate", min_width=30, overflow="fold"), title="Stages, milliseconds, medians", title_justify="left"
    )
    for name in ("decode", "upload", "compute", "download", "post"):
        stages.add_column(name, justify="right", no_wrap=True)
    for entry in content["candidates"]:
        times = [entry["stages"][name] for name in ("decode", "upload", "compute", "download", "post")]
        stages.add_row(entry["key"], *("-" if time is None else milliseconds(time["p50"]) for time in times))
    console.print(stages)
    for ratio in content["ratios"]:
        if ratio["stage"] == "compute":
            console.print(
                f"{ratio['key']} takes {ratio['value']:.3f} x ({ratio['low']:.3f} to {ratio['high']:.3f}) of "
                f"{ratio['against']}: {ratio['verdict']}",
                highlight=False,
                soft_wrap=True,
            )
    print_profiles(content["candidates"], console)
    noise = content["noise"]
    if not noise["quiet"]:
        console.print("machine too noisy to conclude:", "; ".join(noise["reasons"]), style="bold red", soft_wrap=True)
    print_failures(result, console)


def print_profiles(candidates: list[Mapping[str, Any]], console: Console) -> None:
    """Time by operator, of candidates that were profiled."""
    for entry in candidates:
        profile = entry.get("profile")
        if profile:
            parts = ", ".join(f"{kind['kind']} {kind['share']:.0%}" for kind in profile["kinds"][:6])
            console.print(f"{entry['key']}: {profile['layers']} layers; {parts}", highlight=False, soft_wrap=True)


def print_memory(result: Mapping[str, Any], console: Console) -> None:
    """Memory of each candidate."""
    from rich.table import Column, Table

    table = Table(
        Column("candidate", min_width=30, overflow="fold"), title="MiB, each in a fresh process", title_justify="left"
    )
    for column in ("peak", "library", "loading", "running", "weights", "activations", "device peak"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in result["content"]["candidates"]:
        host, device = entry["host"], entry["device"] or {}
        table.add_row(
            entry["key"],
            *(mebibytes(host.get(name)) for name in ("peak_bytes", "library_bytes", "loaded_bytes", "running_bytes")),
            mebibytes(entry["weights_bytes"]),
            mebibytes(entry["activations_bytes"]),
            mebibytes(device.get("peak_bytes")),
        )
    console.print(table)
    print_failures(result, console)


def print_failures(result: Mapping[str, Any], console: Console) -> None:
    """What failed, and what this machine cannot measure."""
    for failed in result["failures"]:
        console.print(
            f"failed: {failed['candidate']}: {failed['message']}", style="red", highlight=False, soft_wrap=True
        )
    for missing in result["not_measured"]:
        console.print(
            f"not measured: {missing['what']} ({missing['why']})", style="dim", highlight=False, soft_wrap=True
        )


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three digits; None is a dash."""
    if seconds is None:
        return "-"
    value = 1000 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def mebibytes(size: float | None) -> str:
    """Bytes as MiB; None is a dash."""
    return "-" if size is None else f"{size / MEBI:.1f}"


def print_roofline(result: Mapping[str, Any], console: Console) -> None:
    """Ceilings, counted costs and attained fractions."""
    from rich.table import Column, Table

    content = result["content"]
    for ceilings in filter(None, (content["ceilings"], content["gpu_ceilings"])):
        bandwidth = ceilings["bandwidth"]
        parts = [f"copy {bandwidth['per_second'] / 1e9:.1f} GB/s ({bandwidth['by']})"]
        parts += [
            f"{name} {top['per_second'] / 1e9:.0f} GFLOP/s ({top['by']})" for name, top in ceilings["compute"].items()
        ]
        console.print(f"{ceilings['device']}: {'; '.join(parts)}", highlight=False, soft_wrap=True)
    table = Table(
        Column("candidate", min_width=30, overflow="fold"), title="Counted and attained", title_justify="left"
    )
    for column in ROOFLINE_HEAD:
        table.add_column(column, justify="right", no_wrap=True)
    for row in content["models"]:
        table.add_row(*roofline_cells(row))
    console.print(table)
    for row in content["models"]:
        if row["uncounted"]:
            console.print(f"{row['key']}: not counted: {row['uncounted']}", style="red", highlight=False)
    if not content["noise"]["quiet"]:
        console.print(
            "machine too noisy to conclude:", "; ".join(content["noise"]["reasons"]), style="bold red", soft_wrap=True
        )
    print_failures(result, console)


def roofline_cells(row: Mapping[str, Any]) -> list[str]:
    """The candidate and what stands under `ROOFLINE_HEAD`."""
    attained = row["attained"]
    return [
        row["key"],
        f"{row['flops'] / 1e9:.2f}",
        f"{row['bytes_fused'] / 1e6:.1f}",
        f"{row['bytes_unfused'] / 1e6:.0f}",
        milliseconds(row["seconds"]["p50"]),
        f"{row['flops_per_second'] / 1e9:.1f}",
        milliseconds(row["bound_seconds"]),
        row["bound_by"] or "-",
        "-" if attained is None else f"{attained:.0%}",
    ]
