"""Sections of a report, generated from result files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.reporting import plots
from benchmarks.reporting.accuracy import accuracy_section
from benchmarks.reporting.origin import commands_section, machines_section, models_section, not_measured_section
from benchmarks.reporting.page import Draw, Results, Section
from benchmarks.reporting.tables import Table, in_words, latency_tables, memory_tables, roofline_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_sections(results: Results) -> list[Section]:
    """All sections with content, in reading order."""
    numbers = itertools.count(1)

    def draw(figure: Figure, caption: str) -> tuple[str, str]:
        # Identifiers must differ between the charts of a page.
        return caption, plots.to_svg(figure, f"chart{next(numbers)}")

    def of(*kinds: str) -> Results:
        return {name: result for name, result in results.items() if result["kind"] in kinds}

    measured = of("latency", "memory", "roofline")
    sections = [
        _latency(of("latency"), draw),
        accuracy_section(of("accuracy"), of("latency"), draw),
        _memory(of("memory"), draw),
        _roofline(of("roofline"), draw),
        _gpu(of("gpu")),
        _runtime(of("runtime")),
        models_section(measured),
        machines_section(measured),
        not_measured_section(measured),
        commands_section(results),
    ]
    return [section for section in sections if section is not None]


def _noise(section: Section, results: Results) -> None:
    for name, result in results.items():
        noise = result["content"]["noise"]
        if not noise["quiet"]:
            section.noise.append((name, noise["reasons"]))


def _latency(results: Results, draw: Draw) -> Section | None:
    if not results:
        return None
    section = Section("latency", "Latency")
    _noise(section, results)
    section.texts.append(
        "Candidates of a file took turns in one process, on fresh pictures. Compute is the time of a batch that is "
        "already in the model's memory; end to end runs from JPEG files to areas per class."
    )
    for name, result in results.items():
        content = result["content"]
        where = f"{result['machine']['device']}, {name}"
        section.charts.append(draw(plots.latency_figure(result), f"Stages, medians. {where}"))
        ratios = plots.ratio_figure(result)
        if ratios is not None:
            section.charts.append(draw(ratios, f"Compute over the baseline's. {where}"))
        first, *others = latency_tables(content)
        section.tables += [Table(f"{first.title} ({where})", first.head, first.rows), *others]
        if any(entry["energy"] for entry in content["candidates"]):
            section.texts.append(f"Energy is that of the {content['energy_scope']}.")
    return section


def _memory(results: Results, draw: Draw) -> Section | None:
    if not results:
        return None
    section = Section("memory", "Memory")
    section.texts.append(
        "Each row is a separate process. Weights and activations are counted on the graph (activations: the largest "
        "total alive at once without operator fusion); the kernel and the driver counted the rest."
    )
    for name, result in results.items():
        section.charts.append(draw(plots.memory_figure(result), f"Host memory. {name}"))
        section.tables += [Table(f"MiB ({name})", table.head, table.rows) for table in memory_tables(result["content"])]
    return section


def _roofline(results: Results, draw: Draw) -> Section | None:
    if not results:
        return None
    section = Section("roofline", "Roofline")
    _noise(section, results)
    section.texts.append(
        "Operations and bytes are counted on the exported graph; ceilings are the best of several libraries on this "
        "machine. Attained is the shortest time that the ceilings allow over the measured time."
    )
    for name, result in results.items():
        section.charts.append(draw(plots.roofline_figure(result), f"Roofline. {name}"))
        section.tables += roofline_tables(result["content"])
    return section


def _runtime(results: Results) -> Section | None:
    figures: dict[str, tuple[str, Callable[[Any], str]]] = {
        "import": ("import emra_deploy", lambda part: f"{part['seconds']['median']:.3f} s"),
        "cold": ("shell to the first mask of 512 x 512 pixels", lambda part: f"{part['seconds']['median']:.2f} s"),
        "overhead": ("segmenting over the bare backend", lambda part: f"{part['ratio']:.3f} ×"),
        "raster": ("peak memory, largest over smallest raster", lambda part: f"{part['ratio']:.2f} ×"),
    }
    rows = [
        [title, shown(result["content"][part]), name]
        for name, result in results.items()
        for part, (title, shown) in figures.items()
        if part in result["content"]
    ]
    if not rows:
        return None
    return Section("runtime", "Around the model", tables=[Table("", ("measurement", "value", "file"), rows)])


def _gpu(results: Results) -> Section | None:
    if not results:
        return None
    section = Section("gpu", "On a GPU")
    for name, result in results.items():
        content, rows = result["content"], []
        for row in content["rows"]:
            value = row.get("value")
            shown = "-" if value is None else f"{in_words(value)} {row.get('unit', '')}".strip()
            rows.append([row["name"], row["section"], shown, in_words(row.get("goal") or "-"), row.get("note") or ""])
        title = f"{content['device'].get('name', '?')}, {name}, seed {content['seed']}"
        section.tables.append(Table(title, ("measurement", "section", "value", "goal", "note"), rows))
    return section
