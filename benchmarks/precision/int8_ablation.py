"""What the choices of `export.to_int8` are worth: methods, numbers of tiles, parts left out. Prints a Markdown table.

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
    from export.int8.bars import bars
    from export.int8.calibration import DEFAULT_COUNT
    from export.int8.damage import compare_answers
    from export.int8.file import read_parent
    from export.int8.judge import DEFAULT_WINDOWS, Judge, read_windows
    from export.int8.linears import Linear, choose_linears
    from export.int8.ranges import METHODS, PERCENTILE, collect_magnitudes, ranges_of
    from export.int8.sensitivity import Quantizer
    from export.optimize import open_labelled
    from export.to_int8 import Progress, calibrate, describe_method

PERCENTILES = (99.9, 99.999)
COUNTS = (8, 16, 32)
LEFT_OUT = ("patch_embed", "hra", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: What is different from the default.
        linears: How many are INT8.
        divergence: See `export.int8.damage.Damage`.
        logit_error: Likewise.
        agreement: Share of pixels with FP32's label.
        drop: mIoU points lost.
        worst: IoU points lost by the class that loses most.
    """

    name: str
    linears: int
    divergence: float
    logit_error: float
    agreement: float
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
        windows: That the variants are compared on.
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
    reference = None
    listed = list(variants())
    for number, (name, ranges, linears) in enumerate(listed):
        quantizer = Quantizer(parent.model, parent.manifest, base.linears, ranges)
        if reference is None:
            reference = quantizer.answer((), found.tiles)
            judge = Judge(quantizer, found, parent.manifest.classes)
        answers = quantizer.answer([linear.name for linear in linears], found.tiles)
        damage = compare_answers(reference, answers)
        outcome = judge.outcome(answers.labels)
        rows.append(
            Row(
                name,
                len(linears),
                damage.divergence,
                damage.logit_error,
                damage.agreement,
                outcome.drop,
                max(outcome.class_drops.values(), default=float("nan")),
            )
        )
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
            f"| {row.name} | {row.linears} | {row.divergence:.1e} | {row.logit_error:.2%} | {row.agreement:.3%} |"
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
    with bars() as progress:
        rows = ablate(
            arguments.model, arguments.data, windows=arguments.windows, count=arguments.count, progress=progress
        )
    print(as_markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
