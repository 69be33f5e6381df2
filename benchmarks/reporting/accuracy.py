"""Accuracy in a report: scores, and accuracy against the time of a map where both were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.reporting import plots
from benchmarks.reporting.page import Draw, Results, Section
from benchmarks.reporting.results import Result
from benchmarks.reporting.tables import Table, in_words

MILLION = 1_000_000


def accuracy_section(results: Results, latencies: Results, draw: Draw) -> Section | None:
    """Scores of all accuracy files, and a chart for each latency file that timed some of them."""
    if not results:
        return None
    section = Section("accuracy", "Accuracy")
    section.texts.append(
        "A chart shows a point only where both were measured: the same file (by sha256), on the same backend, in the "
        "same precision, in windows of the same size. Windows overlap as they did while scoring, so the time includes "
        "the cost of averaging them (blend)."
    )
    rows = []
    for name, result in results.items():
        content = result["content"]
        windows, model, runner = content.get("windows") or {}, content["model"], content["runner"]
        shown = f"{windows['height']} x {windows['width']}" if windows else "-"
        rows.append(
            [
                str(model.get("name", "?")),
                f"{content['data']['name']}, {content['data']['split']}",
                f"{content['miou']:.3f}",
                f"{content['accuracy']:.3f}",
                str(model.get("precision", "-")),
                in_words([runner[fact] for fact in ("backend", "precision") if runner.get(fact)]),
                f"{shown}, blended" if windows.get("blend") else shown,
                name,
            ]
        )
    section.tables.append(Table("", ("model", "data", "mIoU", "accuracy", "precision", "by", "windows", "file"), rows))
    for name, latency in latencies.items():
        points = accuracy_points(results.values(), latency)
        if points:
            caption = f"Accuracy against latency. {latency['machine']['device']}, {name}"
            section.charts.append(draw(plots.accuracy_figure(points), caption))
    return section


def accuracy_points(scores: Iterable[Result], latency: Result) -> list[dict[str, Any]]:
    """Candidates of a latency file that were also scored.

    Args:
        scores: Results of accuracy.py.
        latency: A result of latency.py.

    Returns:
        For each pair ``key``, ``miou``, and the milliseconds of a million pixels of a map: ``milliseconds`` and
        ``low``, the median, and ``high``, the 90th percentile.
    """
    points = []
    scored = [result["content"] for result in scores]
    for entry in latency["content"]["candidates"]:
        for content in scored:
            if _identity(content["model_sha256"], content["runner"]) != _identity(entry["sha256"], entry["backend"]):
                continue
            windows = content.get("windows") or {"height": entry["height"], "width": entry["width"]}
            if (windows["height"], windows["width"]) != (entry["height"], entry["width"]):
                continue
            # Each window adds its inner part to the map: its halo also belongs to its neighbours.
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
    """Facts that an accuracy and a candidate must share to be joined."""
    precision = runner.get("precision")
    if runner.get("backend") == "torch" and precision is None:
        # PyTorch's default, which older files do not name.
        precision = "fp32"
    return sha256, runner.get("backend"), precision
