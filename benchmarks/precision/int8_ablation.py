"""Ablation of the choices of `export.to_int8`: methods, numbers of tiles, parts left out, as a Markdown table.

python -m benchmarks.precision.int8_ablation model.onnx --data DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emra_deploy.host.command import command
from emra_deploy.host.extras import need, script_imports

with script_imports(__name__, "quant"):
    from export.compare.cached import Cached
    from export.compare.runners import OnnxRunner
    from export.int8.acceptance import DEFAULT_WINDOWS, outcome_of, read_windows
    from export.int8.calibration import DEFAULT_COUNT
    from export.int8.file import read_parent
    from export.int8.linears import Linear, choose_linears
    from export.int8.progress import progress_bars
    from export.int8.ranges import METHODS, PERCENTILE, collect_magnitudes, ranges_of
    from export.int8.sensitivity import Degradation, Quantizer
    from export.optimize import open_labelled
    from export.to_int8 import Progress, calibrate, describe_method

PERCENTILES = (99.9, 99.999)
COUNTS = (8, 16, 32)
LEFT_OUT = ("patch_embed", "hra", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: The difference from the default.
        linears: Number of INT8 linears.
        degradation: Distance from FP32 without ground truth.
        drop: mIoU points lost.
        worst: IoU points lost by the class that loses most.
    """

    name: str
    linears: int
    degradation: Degradation
    drop: float
    worst: float


def ablate(
    model: str | Path,
    data: str | Path,
    *,
    windows: int = DEFAULT_WINDOWS,
    count: int = DEFAULT_COUNT,
    progress: Progress = lambda text, done, total: None,
) -> list[Row]:
    """Measure every variant on windows of the validation pictures.

    Args:
        model: The FP32 file.
        data: Labelled data set; calibration takes its training pictures.
        windows: Number of windows that the variants are compared on.
        count: Calibration tiles of the default.
        progress: See `export.to_int8.Progress`.

    Raises:
        EmraError: Those of `export.to_int8.calibrate` and of reading the data.
    """
    need("quant", "onnxruntime", purpose="measuring a model")
    parent = read_parent(model)
    found = read_windows(open_labelled(data, "val", parent.manifest), parent.manifest.tile, windows)
    base = calibrate(model, data, count, progress)

    def variants() -> Iterator[tuple[str, Mapping[str, float], Sequence[Linear]]]:
        default = ranges_of(base.magnitudes, METHODS[0])
        yield f"default: {describe_method(METHODS[0], PERCENTILE)}, {count} tiles", default, base.linears
        for method in METHODS[1:]:
            yield method, ranges_of(base.magnitudes, method), base.linears
        for percentile in PERCENTILES:
            yield f"percentile {percentile:g}", ranges_of(base.magnitudes, "percentile", percentile), base.linears
        for fewer in (number for number in COUNTS if number < count):
            tiles = base.calibration.tiles[:fewer]
            magnitudes = collect_magnitudes(parent.model, base.linears, parent.manifest, tiles)
            yield f"the first {fewer} tiles", ranges_of(magnitudes, METHODS[0]), base.linears
        for part in LEFT_OUT:
            yield f"without {part}", default, choose_linears(base.linears, [part])

    rows = []
    reference = Cached(OnnxRunner(parent.model, parent.manifest))
    listed = list(variants())
    for number, (name, ranges, linears) in enumerate(listed):
        quantizer = Quantizer(parent.model, parent.manifest, base.linears, ranges)
        report = quantizer.compare(reference, [linear.name for linear in linears], found)
        outcome = outcome_of(report)
        worst = max(outcome.class_drops.values(), default=float("nan"))
        rows.append(Row(name, len(linears), Degradation.of(report), outcome.drop, worst))
        progress("measuring variants", number + 1, len(listed))
    return rows


def as_markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| variant | INT8 linears | divergence | logit error | labels agree | mIoU points lost | worst class |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.linears} | {row.degradation.divergence:.1e} | {row.degradation.logit_error:.2%}"
            f" | {row.degradation.agreement:.3%} |"
            f" {row.drop:+.3f} | {row.worst:+.3f} |"
        )
    return "\n".join(lines)


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    made = argparse.ArgumentParser(prog="int8_ablation.py", description="Measure the choices of to_int8.py.")
    made.add_argument("model", metavar="MODEL.onnx", help="FP32 file that to_onnx.py wrote")
    made.add_argument("--data", required=True, metavar="DIR", help="labelled data set")
    made.add_argument("--windows", type=int, default=DEFAULT_WINDOWS, metavar="N", help="to compare on")
    made.add_argument("--count", type=int, default=DEFAULT_COUNT, metavar="N", help="calibration tiles")
    arguments = made.parse_args(argv)
    with progress_bars() as progress:
        rows = ablate(
            arguments.model, arguments.data, windows=arguments.windows, count=arguments.count, progress=progress
        )
    print(as_markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
