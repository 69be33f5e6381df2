"""The precision table for people and for programs: Markdown and JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.precision.measure import LIBRARIES, Missing, Times
from emra_deploy.evaluation.metrics import Scores
from export.compare.report import Report
from export.compare.verify import Engine
from export.int8.cost import Timing

LIBRARY_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Row:
    """One precision.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        file: Name, sha256 and bytes by `benchmarks.reporting.provenance.describe_file`, or why there is no file.
        accuracy: Comparison with FP32 on the labelled pictures.
        times: Times of a tile on this processor, by library.
        engine: The engine that TensorRT-RTX built.
    """

    precision: str
    file: Mapping[str, Any] | Missing
    accuracy: Report | Missing
    times: Mapping[str, Timing | Missing]
    engine: Engine | Missing

    def missing(self) -> dict[str, Missing]:
        """Missing measurements of this row, by name."""
        if isinstance(self.file, Missing):
            return {"file": self.file}
        found = {"accuracy": self.accuracy, **self.times, "engine": self.engine}
        return {name: value for name, value in found.items() if isinstance(value, Missing)}


@dataclass(frozen=True)
class Table:
    """All measurements of one model.

    Attributes:
        model: Its name.
        tile: Height and width of the input.
        classes: Their names.
        pictures: The pictures that accuracy was measured on, in words.
        rows: One a precision, FP32 first.
        times: Libraries of the times and noise of the machine, by library.
    """

    model: str
    tile: tuple[int, int]
    classes: Sequence[str]
    pictures: str
    rows: Sequence[Row]
    times: Mapping[str, Times] = field(default_factory=dict)

    def failures(self) -> list[dict[str, str]]:
        """Failed measurements, in the form of result files."""
        return [
            {"candidate": f"{row.precision}: {name}", "code": "precision-table", "message": value.why}
            for row in self.rows
            for name, value in row.missing().items()
            if value.failed
        ]

    def not_measured(self, command: str) -> list[dict[str, str]]:
        """Measurements that this machine cannot make, in the form of result files."""
        found: dict[str, str] = {}
        for row in self.rows:
            found.update({name: value.why for name, value in row.missing().items() if not value.failed})
        found["time of the engines"] = "TensorRT-RTX's builder needs no GPU, and its runtime one"
        return [{"what": name, "why": why, "command": command} for name, why in found.items()]

    def to_dict(self) -> dict[str, Any]:
        """The content of the result file, JSON values; null means not measured."""
        return {
            "model": self.model,
            "tile": list(self.tile),
            "pictures": self.pictures,
            "times": {name: one.how for name, one in self.times.items()},
            "noise": {name: one.noise.to_dict() for name, one in self.times.items() if one.noise is not None},
            "rows": [_row_values(row) for row in self.rows],
        }


def _row_values(row: Row) -> dict[str, Any]:
    accuracy, engine = row.accuracy, row.engine
    times = {name: time for name, time in row.times.items() if isinstance(time, Timing)}
    return {
        "precision": row.precision,
        "file": None if isinstance(row.file, Missing) else dict(row.file),
        "accuracy": None
        if isinstance(accuracy, Missing)
        else {
            "miou": _scores(accuracy).miou,
            "iou": {name: None if math.isnan(value) else value for name, value in _iou(accuracy).items()},
            "agreement": accuracy.agreement,
            "pixels": accuracy.pixels,
        },
        "times": {
            name: {"seconds": time.seconds, "over_fp32": None if time.ratio is None else time.ratio.to_dict()}
            for name, time in times.items()
        },
        "engine": None
        if isinstance(engine, Missing)
        else {"library": engine.title, "bytes": engine.bytes, "products": dict(engine.counts)},
    }


def as_markdown(table: Table, run: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """A page with the table and where it comes from.

    Args:
        table: The measurements.
        run: Result of `benchmarks.reporting.provenance.describe_run`.
        machine: Result of `benchmarks.reporting.provenance.describe_machine`.
    """
    rows = table.rows
    notes: list[str] = []

    def line(title: str, cell: Callable[[Row], str | Missing]) -> str:
        cells = []
        for row in rows:
            value = row.file if isinstance(row.file, Missing) else cell(row)
            if isinstance(value, Missing):
                note = f"{'failed' if value.failed else 'not measured'}: {value.why}"
                if note not in notes:
                    notes.append(note)
                value = f"{'failed' if value.failed else 'not measured'} ({notes.index(note) + 1})"
            cells.append(value)
        return f"| {' | '.join([title, *cells])} |"

    def score(pick: Callable[[Report], str]) -> Callable[[Row], str | Missing]:
        return lambda row: row.accuracy if isinstance(row.accuracy, Missing) else pick(row.accuracy)

    def library(name: str) -> Callable[[Row], str | Missing]:
        return lambda row: _time_cell(row.times[name])

    lines = [
        f"# {table.model} in each precision",
        "",
        "Written by one command; do not edit:",
        "",
        f"    {run['command']}",
        "",
        f"| | {' | '.join(row.precision.upper() for row in rows)} |",
        f"|---|{'---:|' * len(rows)}",
        line("mIoU", score(lambda found: _points(_scores(found).miou))),
        *(line(f"IoU of {name}", score(partial(_class_points, name))) for name in table.classes),
        line("labels that are FP32's", score(lambda found: f"{found.agreement:.3%}")),
        line("file", _size),
        *(line(f"{LIBRARY_NAMES[name]}, ms a tile", library(name)) for name in LIBRARIES),
        line("TensorRT-RTX engine", lambda row: row.engine if isinstance(row.engine, Missing) else _engine(row.engine)),
        "",
        *(f"{number}. {note}" for number, note in enumerate(notes, 1)),
        *([""] if notes else []),
        f"- Accuracy: {table.pictures}, in ONNX Runtime; points of 100.",
        f"- Times: one tile of {table.tile[0]} x {table.tile[1]} pixels on the processor, medians of interleaved"
        " rounds; in brackets the ratio to FP32 of the same rounds with its 95 % interval.",
        *(_how(name, one) for name, one in table.times.items() if one.noise is not None),
        "- Engines: built without a GPU, so they are not timed; in brackets what their products and convolutions"
        " compute in.",
        "",
        *_origin(rows, run, machine),
    ]
    return "\n".join(lines) + "\n"


def _origin(rows: Sequence[Row], run: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    processor, git = machine["processor"], run["git"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    revision = "outside of a repository"
    if git is not None:
        revision = git["revision"] + (" with changed files" if git["dirty"] else "")
    files = [
        f"| {row.precision.upper()} | {row.file['name']} | {row.file['bytes']} | `{row.file['sha256']}` |"
        for row in rows
        if not isinstance(row.file, Missing)
    ]
    return [
        "| | file | bytes | sha256 |",
        "|---|---|---:|---|",
        *files,
        "",
        f"Measured {run['date']} on {machine['device']}, {processor.get('usable_cores')} cores, {machine['system']}.",
        f"Revision {revision}. {versions}.",
    ]


def _how(name: str, times: Times) -> str:
    text = f"  - {LIBRARY_NAMES[name]} {times.how}."
    if times.noise is None or times.noise.quiet:
        return text
    return f"{text} **Too noisy to conclude**: {'; '.join(times.noise.reasons)}."


def _scores(report: Report) -> Scores:
    """Scores of the file, which `benchmarks.precision.measure.measure_accuracy` makes sure of."""
    assert report.scores is not None
    return report.scores[1]


def _iou(report: Report) -> dict[str, float]:
    return dict(zip(report.classes.names, _scores(report).iou, strict=True))


def _class_points(name: str, report: Report) -> str:
    return _points(_iou(report)[name])


def _size(row: Row) -> str | Missing:
    return row.file if isinstance(row.file, Missing) else f"{row.file['bytes'] / 1e6:.2f} MB"


def _points(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def _engine(engine: Engine) -> str:
    return f"{engine.bytes / 1e6:.1f} MB ({engine.products})"


def _time_cell(time: Timing | Missing) -> str | Missing:
    if isinstance(time, Missing):
        return time
    text, ratio = f"{1e3 * time.seconds:.1f}", time.ratio
    if ratio is None or ratio.low == ratio.high == 1:
        return text
    return f"{text} ({ratio.value:.2f} x, {ratio.low:.2f} to {ratio.high:.2f})"
