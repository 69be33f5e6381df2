"""What a report says of what was measured: sections made of result files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import plots
from benchmarks.report_accuracy import accuracy_part
from benchmarks.report_origin import commands_part, machines_part, models_part, not_measured_part
from benchmarks.report_page import Charts, Noise, Part, Source, Table, in_words
from benchmarks.tables import ROOFLINE_HEAD, mebibytes, milliseconds, roofline_cells


def make_parts(sources: Sequence[Source]) -> list[Part]:
    """All sections that the sources have something for, in reading order."""
    charts = Charts()

    def of(kind: str) -> list[Source]:
        return [source for source in sources if source.kind == kind]

    benchmarks = [source for source in sources if source.kind in ("latency", "memory", "roofline")]
    parts = [
        _latency(of("latency"), charts),
        accuracy_part(of("accuracy"), of("latency"), charts),
        _memory(of("memory"), charts),
        _roofline(of("roofline"), charts),
        _gpu(of("gpu")),
        _runtime(of("runtime")),
        models_part(benchmarks),
        machines_part(benchmarks),
        not_measured_part(benchmarks),
        commands_part(sources),
    ]
    return [part for part in parts if part is not None]


def _noise(sources: Iterable[Source]) -> list[Noise]:
    found = []
    for source in sources:
        noise = source.content["content"].get("noise")
        if noise is not None and not noise["quiet"]:
            found.append(Noise(source.name, noise["reasons"]))
    return found


def _latency(sources: Sequence[Source], charts: Charts) -> Part | None:
    if not sources:
        return None
    part = Part("latency", "Latency", noise=_noise(sources))
    part.texts.append(
        "Candidates of a file were measured in turns, in one process, on fresh pictures. Compute is what a batch takes "
        "once it is in the model's memory; end to end is from JPEG files to areas per class."
    )
    for source in sources:
        content = source.content["content"]
        device = source.content["machine"]["device"]
        where = f"{device}, {source.name}"
        part.figures.append(charts.draw(plots.latency_figure(source.content), f"Stages, medians. {where}"))
        drawn = plots.ratio_figure(source.content)
        if drawn is not None:
            part.figures.append(charts.draw(drawn, f"Compute over the baseline's. {where}"))
        part.tables.append(
            Table(
                f"Milliseconds of a batch ({where})",
                ("candidate", "mean", "p50", "p90", "p99", "std", "end to end p50", "pictures/s", "J/picture", "W"),
                [_latency_row(entry) for entry in content["candidates"]],
            )
        )
        part.tables.append(
            Table(
                "Stages, milliseconds, medians",
                ("candidate", "decode", "upload", "compute", "download", "post", "computes in", "CUDA graph"),
                [_stage_row(entry) for entry in content["candidates"]],
            )
        )
        if content["ratios"]:
            part.tables.append(
                Table(
                    f"Times the baseline, {content['ratios'][0]['against']}, with 95 % intervals",
                    ("candidate", "stage", "ratio", "interval", "verdict"),
                    [
                        [
                            ratio["key"],
                            ratio["stage"].replace("_", " "),
                            f"{ratio['value']:.3f}",
                            f"{ratio['low']:.3f} to {ratio['high']:.3f}",
                            ratio["verdict"],
                        ]
                        for ratio in content["ratios"]
                    ],
                )
            )
        for entry in content["candidates"]:
            if entry["profile"]:
                part.tables.append(_profile(entry))
        if any(entry["energy"] for entry in content["candidates"]):
            part.texts.append(f"Energy is that of the {content['energy_scope']}.")
    return part


def _latency_row(entry: Mapping[str, Any]) -> list[str]:
    compute, energy = entry["stages"]["compute"], entry["energy"]
    return [
        entry["key"],
        *(milliseconds(compute[name]) for name in ("mean", "p50", "p90", "p99", "std")),
        milliseconds(entry["stages"]["end_to_end"]["p50"]),
        f"{entry['throughput']:.2f}",
        "-" if energy is None else f"{energy['joules_per_picture']:.3f}",
        "-" if energy is None else f"{energy['watts']:.1f}",
    ]


def _stage_row(entry: Mapping[str, Any]) -> list[str]:
    times = [entry["stages"][name] for name in ("decode", "upload", "compute", "download", "post")]
    graph = {None: "-", True: "on", False: "off"}[entry["cuda_graph"]]
    shown = ("-" if time is None else milliseconds(time["p50"]) for time in times)
    return [entry["key"], *shown, entry["precision"], graph]


def _profile(entry: Mapping[str, Any]) -> Table:
    profile = entry["profile"]
    rows = [
        [kind["kind"], milliseconds(kind["seconds"]), f"{kind['share']:.1%}"]
        for kind in profile["kinds"]
        if kind["share"] >= 0.01
    ]
    return Table(
        f"Where {entry['key']} spends its time ({profile['layers']} layers)", ("operator", "ms", "share"), rows
    )


def _memory(sources: Sequence[Source], charts: Charts) -> Part | None:
    if not sources:
        return None
    part = Part("memory", "Memory")
    part.texts.append(
        "Each row is a process of its own. Weights and activations are counted on the graph (activations: most that is "
        "alive at once if no two operators are fused); the rest is what the kernel and the driver counted."
    )
    for source in sources:
        content = source.content["content"]
        part.figures.append(charts.draw(plots.memory_figure(source.content), f"Host memory. {source.name}"))
        rows = []
        for entry in content["candidates"]:
            host, device, shared = entry["host"], entry["device"] or {}, entry["shared"] or {}
            rows.append(
                [
                    entry["key"],
                    *(
                        mebibytes(host.get(name))
                        for name in ("peak_bytes", "library_bytes", "loaded_bytes", "running_bytes")
                    ),
                    mebibytes(entry["weights_bytes"]),
                    mebibytes(entry["activations_bytes"]),
                    mebibytes(device.get("peak_bytes")),
                    mebibytes(device.get("workspace_bytes")),
                    mebibytes(shared.get("taken_bytes")),
                    mebibytes(shared.get("swap_bytes")),
                ]
            )
        head = (
            "peak",
            "library",
            "loading",
            "running",
            "weights",
            "activations",
            "device",
            "workspace",
            "shared",
            "swap",
        )
        part.tables.append(Table(f"MiB ({source.name})", ("candidate", *head), rows))
    return part


def _roofline(sources: Sequence[Source], charts: Charts) -> Part | None:
    if not sources:
        return None
    part = Part("roofline", "Roofline", noise=_noise(sources))
    part.texts.append(
        "Operations and bytes are counted on the exported graph; ceilings are the best of several libraries on this "
        "machine. Attained is the least time that the ceilings allow over the time that was measured."
    )
    for source in sources:
        content = source.content["content"]
        part.figures.append(charts.draw(plots.roofline_figure(source.content), f"Roofline. {source.name}"))
        tops = []
        for ceilings in filter(None, (content["ceilings"], content.get("gpu_ceilings"))):
            name, bandwidth = ceilings["device"], ceilings["bandwidth"]
            tops.append([f"{name}: copy", f"{bandwidth['per_second'] / 1e9:.1f} GB/s", bandwidth["by"]])
            tops += [
                [f"{name}: {precision} product", f"{top['per_second'] / 1e9:.0f} GFLOP/s", top["by"]]
                for precision, top in ceilings["compute"].items()
            ]
        part.tables.append(Table("Ceilings", ("what", "measured", "by"), tops))
        rows = [roofline_cells(row) for row in content["models"]]
        part.tables.append(Table("Models", ("candidate", *ROOFLINE_HEAD), rows))
    return part


def _runtime(sources: Sequence[Source]) -> Part | None:
    rows = []
    for source in sources:
        content = source.content
        if "import" in content:
            rows.append(["import emra_deploy", f"{content['import']['seconds']['median']:.3f} s", source.name])
        if "cold" in content:
            seconds = content["cold"]["seconds"]["median"]
            rows.append(["shell to the first mask of 512 x 512 pixels", f"{seconds:.2f} s", source.name])
        if "overhead" in content:
            rows.append(["segmenting over the bare backend", f"{content['overhead']['ratio']:.3f} ×", source.name])
        if "raster" in content:
            rows.append(
                ["peak memory, largest over smallest raster", f"{content['raster']['ratio']:.2f} ×", source.name]
            )
    if not rows:
        return None
    return Part("runtime", "Around the model", tables=[Table("", ("what", "measured", "file"), rows)])


def _gpu(sources: Sequence[Source]) -> Part | None:
    if not sources:
        return None
    part = Part("gpu", "On a GPU")
    for source in sources:
        rows = []
        for row in source.content["rows"]:
            value, goal = row.get("value"), row.get("goal")
            shown = "-" if value is None else f"{in_words(value)} {row.get('unit', '')}".strip()
            rows.append(
                [str(row["name"]), str(row["section"]), shown, in_words(goal or "-"), str(row.get("note") or "")]
            )
        name = source.content["device"].get("name", "?")
        title = f"{name}, {source.name}, seed {source.content['seed']}"
        part.tables.append(Table(title, ("what", "section", "measured", "goal", "note"), rows))
    return part
