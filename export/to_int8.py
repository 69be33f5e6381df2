"""FP32 ONNX -> INT8 ONNX with explicit Q/DQ, calibrated on real tiles and compared with its parent.

python -m export.to_int8 model.onnx --calibration DIR --output model.int8.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile, check_bands, check_classes
from emra_deploy.host.command import command, tell, words
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import check_output
from emra_deploy.model_file.manifest import Manifest

with script_imports(__name__, "quant"):
    from export.compare.report import LIMITS
    from export.compare.runners import OnnxRunner
    from export.compare.tiles import real_tiles
    from export.int8.calibration import DEFAULT_COUNT, CalibrationSet, choose_tiles
    from export.int8.file import (
        HIGH_PRECISIONS,
        Parent,
        Recipe,
        Written,
        build,
        compare_with_parent,
        publish,
        read_parent,
        refuse,
    )
    from export.int8.linears import Linear, choose_linears, find_linears
    from export.int8.ranges import METHODS, PERCENTILE, Magnitudes, collect_magnitudes, ranges_of

CHECK_TILES = 16
"""Calibration tiles that the file is compared with its parent on when no other pictures are given."""

Progress = Callable[[str, int, int], None]
"""Called with a step's name, the work done, and the work in all (0 where it is unknown)."""


@dataclass(frozen=True)
class Calibrated:
    """A model and the activations measured on its calibration tiles.

    Attributes:
        parent: The FP32 file.
        linears: Its candidates.
        calibration: The tiles.
        magnitudes: Histograms of the inputs of the linears.
    """

    parent: Parent
    linears: tuple[Linear, ...]
    calibration: CalibrationSet
    magnitudes: dict[str, Magnitudes]


def calibrate(
    model: str | Path,
    folder: str | Path,
    count: int = DEFAULT_COUNT,
    progress: Progress = lambda text, done, total: None,
) -> Calibrated:
    """Choose calibration tiles and measure activations on them.

    Args:
        model: The FP32 file.
        folder: Images, or a data set.
        count: Tiles.
        progress: See `Progress`.

    Raises:
        EmraError: Those of `read_parent`, `find_linears` and `choose_tiles`.
    """
    parent = read_parent(model)
    linears = find_linears(parent.model)
    manifest = parent.manifest
    runner = OnnxRunner(parent.model, manifest)
    calibration = choose_tiles(
        folder,
        lambda tiles: runner.run(tiles)["classes"],
        len(manifest.classes),
        manifest.tile,
        count,
        lambda done, total: progress("looking at candidate tiles", done, total),
    )
    runner.close()
    done = iter(range(1, count + 1))
    magnitudes = collect_magnitudes(
        parent.model,
        linears,
        manifest,
        calibration.tiles,
        progress=lambda: progress("measuring activations", next(done), count),
    )
    return Calibrated(parent, linears, calibration, magnitudes)


def to_int8(
    model: str | Path,
    calibration: str | Path,
    output: str | Path,
    *,
    method: str = METHODS[0],
    percentile: float = PERCENTILE,
    high_precision: str = "fp32",
    count: int = DEFAULT_COUNT,
    exclude: Sequence[str] = (),
    check_data: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda text, done, total: None,
) -> Written:
    """Quantise a model file.

    Args:
        model: The FP32 file that `export.to_onnx` wrote.
        calibration: Folder of images, or a data set whose training pictures are used.
        output: File to write, ``.onnx``.
        method: One of `METHODS`.
        percentile: Percentile of the magnitudes, in per cent, for the method of that name.
        high_precision: Precision of the other parts, ``"fp32"`` or ``"fp16"``.
        count: Calibration tiles.
        exclude: Linears, blocks or endings of names that stay in high precision.
        check_data: Data set whose validation pictures, or folder whose images, the file is compared with its parent
            on; None takes `CHECK_TILES` of the calibration tiles.
        overwrite: Whether an existing output may be replaced.
        progress: See `Progress`.

    Raises:
        EmraError: A bad argument or input, or a check that failed; no file is left then.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite, inputs=(model,))
    need("quant", "onnxruntime", purpose="calibrating and checking")
    check_arguments(output, method, percentile, high_precision)
    parent = read_parent(model)
    # Refuse all that can be refused before minutes of calibration.
    chosen = choose_linears(find_linears(parent.model), exclude)
    pictures = None if check_data is None else open_pictures(check_data, parent.manifest)
    found = calibrate(model, calibration, count, progress)
    recipe = Recipe(
        found.linears,
        chosen,
        ranges_of(found.magnitudes, method, percentile),
        describe_method(method, percentile),
        found.calibration,
        high_precision,
    )
    tiles, labelled = pictures or (found.calibration.tiles[:CHECK_TILES], False)
    progress("comparing with the FP32 file", 0, 0)
    quantized = build(parent, recipe)
    report = compare_with_parent(parent, quantized, tiles, labelled=labelled)
    refuse(report.failures(LIMITS["int8"]))
    progress("checking the file in other libraries", 0, 0)
    return publish(parent, recipe, quantized, report, output, overwrite=overwrite)


def open_pictures(
    folder: str | Path, manifest: Manifest, split: str = "val"
) -> tuple[npt.NDArray[Any] | Sequence[LabelledTile], bool]:
    """Pictures to compare a file on, and whether they have labels: a split of a data set, or middles of images.

    Raises:
        EmraError: The folder holds neither, or the data set does not fit the model.
    """
    from training.data.catalogue import open_dataset, recognise

    folder = Path(folder)
    try:
        kind = recognise(folder)
    except EmraError:
        return real_tiles(folder, *manifest.tile), False
    data = open_dataset(kind, folder, split)
    check_bands(manifest.bands, data.bands)
    check_classes(manifest.classes, data.classes)
    return data.tiles, data.labelled


def check_arguments(output: Path, method: str, percentile: float, high_precision: str) -> None:
    """Refuse arguments that no file can be made with.

    Raises:
        EmraError: ``output-suffix``, ``export-argument``.
    """
    if output.suffix.lower() != ".onnx":
        raise EmraError("output-suffix", "the output's name does not end in .onnx", "Name it FILE.onnx", output)
    if method not in METHODS:
        raise EmraError("export-argument", f"method {method!r}, expected {', '.join(METHODS)}", "Change --method")
    if not 50 < percentile <= 100:
        raise EmraError(
            "export-argument", f"percentile {percentile}, expected above 50 and up to 100", "Change --percentile"
        )
    if high_precision not in HIGH_PRECISIONS:
        raise EmraError(
            "export-argument",
            f"high precision {high_precision!r}, expected {' or '.join(HIGH_PRECISIONS)}",
            "Change --high-precision",
        )


def describe_method(method: str, percentile: float) -> str:
    """The method as the Manifest names it."""
    return f"percentile {percentile:g}" if method == "percentile" else method


def add_calibration_arguments(made: argparse.ArgumentParser) -> None:
    """Declare the arguments of calibration, which `export.optimize` takes, too."""
    add = made.add_argument
    add("--count", type=int, default=DEFAULT_COUNT, metavar="N", help=f"calibration tiles ({DEFAULT_COUNT})")
    add("--method", choices=METHODS, default=METHODS[0], help=f"how ranges are chosen ({METHODS[0]})")
    add("--percentile", type=float, default=PERCENTILE, metavar="P", help=f"for that method ({PERCENTILE})")
    add("--overwrite", action="store_true", help="replace existing outputs")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="to_int8.py", description="Quantise an FP32 ONNX file to INT8 with Q/DQ.")
    add = made.add_argument
    add("model", metavar="MODEL.onnx", help="FP32 file that to_onnx.py wrote")
    add("--calibration", required=True, metavar="DIR", help="images or a data set, to measure activations on")
    add("--output", required=True, metavar="FILE.onnx", help="file to write")
    add("--high-precision", choices=HIGH_PRECISIONS, default="fp32", help="precision of the other parts (fp32)")
    add(
        "--exclude",
        type=words,
        default="",
        metavar="NAMES",
        help="linears or blocks that stay, such as blocks.0,mlp.fc2",
    )
    add("--check-data", metavar="DIR", help="data set or images to compare with the FP32 file on")
    add_calibration_arguments(made)
    return made


@command("stopped; no output is left half-written")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = vars(parser().parse_args(argv))
    from export.int8.progress import progress_bars

    with progress_bars() as progress:
        written = to_int8(**arguments, progress=progress)
    for line in written.checks:
        print(line)
    evidence = written.manifest.evidence["int8"]
    tell(
        f"wrote {written.path}: {written.size / 1e6:.1f} MB,"
        f" {evidence['quantized']} of {evidence['candidates']} linears INT8,"
        f" the rest in {evidence['high_precision'].upper()},"
        f" {evidence['method']} of {evidence['calibration']['tiles']} tiles",
        written.path,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
