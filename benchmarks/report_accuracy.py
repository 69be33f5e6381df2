"""What a report says of accuracy: scores, and accuracy against the time of a map where both were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import plots
from benchmarks.report_page import Charts, Part, Source, Table, in_words

MILLION = 1_000_000


def accuracy_part(sources: Sequence[Source], latencies: Sequence[Source], charts: Charts) -> Part | None:
    """Scores of all accuracy files, and a chart for each latency file that timed some of them."""
    if not sources:
        return None
    part = Part("accuracy", "Accuracy")
    part.texts.append(
        "A point stands on a chart only where both were measured: the very file that was timed (same sha256), on the "
        "same backend, in the same precision, in windows of the same size. Windows overlap as they did while scoring, "
        "so averaging them (blend) costs what it costs."
    )
    rows = []
    for source in sources:
        content, windows = source.content, source.content.get("windows") or {}
        model, runner = content["model"], content["runner"]
        shown = f"{windows['height']} x {windows['width']}" if windows else "-"
        rows.append(
            [
                str(model.get("name", "?")),
                f"{content['data']['name']}, {content['data']['split']}",
                f"{content['miou']:.3f}",
                f"{content['accuracy']:.3f}",
                str(model.get("precision", "-")),
                in_words([runner[name] for name in ("backend", "precision") if runner.get(name)]),
                f"{shown}, blended" if windows.get("blend") else shown,
                source.name,
            ]
        )
    part.tables.append(Table("", ("model", "data", "mIoU", "accuracy", "precision", "by", "windows", "file"), rows))
    for source in latencies:
        points = accuracy_points(sources, source)
        if points:
            device = source.content["machine"]["device"]
            caption = f"Accuracy against latency. {device}, {source.name}"
            part.figures.append(charts.draw(plots.accuracy_figure(points), caption))
    return part


def accuracy_points(sources: Sequence[Source], latency: Source) -> list[dict[str, Any]]:
    """Candidates of a latency file with the scores of what they are.

    Args:
        sources: Accuracy files.
        latency: A latency file.

    Returns:
        For each pair ``key``, ``miou``, and the milliseconds of a million pixels of a map: ``milliseconds`` and
        ``low``, the median, and ``high``, the 90th percentile.
    """
    points = []
    for entry in latency.content["content"]["candidates"]:
        for source in sources:
            content = source.content
            if _identity(content["model_sha256"], content["runner"]) != _identity(entry["sha256"], entry["backend"]):
                continue
            windows = content.get("windows") or {"height": entry["height"], "width": entry["width"]}
            if (windows["height"], windows["width"]) != (entry["height"], entry["width"]):
                continue
            # Each window adds its inner part to the map: what lies within the halo comes from its neighbours, too.
            halo = windows.get("halo", 0)
            inner = (windows["height"] - 2 * halo) * (windows["width"] - 2 * halo)
            times = {
                name: 1000 * entry["stages"]["end_to_end"][name] / entry["batch"] * MILLION / inner
                for name in ("p50", "p90")
            }
            point = {
                "key": f"{entry['key']} | {'blended' if windows.get('blend') else 'joined'}",
                "milliseconds": times["p50"],
                "low": times["p50"],
                "high": times["p90"],
                "miou": content["miou"],
            }
            # Two files may hold the same scores.
            if point not in points:
                points.append(point)
    return points


def _identity(sha256: str | None, runner: Mapping[str, Any]) -> tuple[str | None, ...]:
    """What must be the same for an accuracy to be that of a candidate."""
    precision = runner.get("precision")
    if runner.get("backend") == "torch" and precision is None:
        # What PyTorch computes in when nothing else is said; older files do not say it.
        precision = "fp32"
    return sha256, runner.get("backend"), precision
