"""FP32, FP16 and INT8 of one model side by side: accuracy, size, time, as one table.

python -m benchmarks.precision.table model.onnx --data DIR --output table.md --json table.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reporting.provenance import describe_file, describe_run
from benchmarks.reporting.results import make_result, write_result
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.host.command import command
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import atomic_output, check_all_outputs
from emra_deploy.model_file.manifest import Manifest
from training.data.scenes import generate

with script_imports(__name__, "quant", "bench"):
    from benchmarks.precision.measure import (
        LIBRARIES,
        Missing,
        Progress,
        attempt,
        measure_accuracy,
        measure_engine,
        measure_times,
    )
    from benchmarks.precision.report import Row, Table, as_markdown
    from export.graphs.model_file import read_model
    from export.int8.calibration import DEFAULT_COUNT
    from export.int8.file import read_parent
    from export.optimize import open_labelled
    from export.to_fp16 import to_fp16
    from export.to_int8 import to_int8

SCRIPT = "benchmarks/precision/table.py"
SCENE = 20
"""Seed of the generated scene that times are measured on."""


@dataclass(frozen=True)
class Settings:
    """The data to measure on, and the files.

    Attributes:
        data: Labelled data set.
        split: Split of the data set.
        calibration: Images for INT8; None takes the data set's training pictures.
        count: Calibration tiles.
        fp16: An existing FP16 file, or None to make one.
        int8: An existing INT8 file, or None to make one.
    """

    data: Path
    split: str = "val"
    calibration: Path | None = None
    count: int = DEFAULT_COUNT
    fp16: Path | None = None
    int8: Path | None = None


def measure_table(
    model: str | Path, settings: Settings, progress: Progress = lambda text, done, total: None
) -> tuple[Table, list[dict[str, Any]]]:
    """Make the missing files, and take every measurement that this machine can.

    Args:
        model: The FP32 file that `export.to_onnx` wrote.
        settings: Data and files.
        progress: See `benchmarks.precision.measure.Progress`.

    Returns:
        The table, and name, size and sha256 of each file.

    Raises:
        EmraError: A bad file or data set. Where a precision cannot be made or measured, its cells say why instead.
    """
    parent = read_parent(model)
    manifest = parent.manifest
    given = {"fp16": settings.fp16, "int8": settings.int8}
    for precision, path in given.items():
        if path is not None:
            check_child(path, precision, parent.path)
    pictures = open_labelled(settings.data, settings.split, manifest)
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path | Missing] = {"fp32": parent.path}
        for precision, make in makers(parent.path, Path(folder), settings, progress).items():
            path = given[precision]
            files[precision] = attempt(make) if path is None else path
        return _measure(files, manifest, pictures, settings, progress)


def makers(model: Path, folder: Path, settings: Settings, progress: Progress) -> dict[str, Callable[[], Path]]:
    """Functions that make the file of each precision but FP32.

    Args:
        model: The FP32 file.
        folder: Folder for the files.
        settings: Data and files.
        progress: See `benchmarks.precision.measure.Progress`.
    """

    def half() -> Path:
        progress("making FP16", 0, 0)
        return to_fp16(model, folder / f"{model.stem}.fp16.onnx").path

    def int8() -> Path:
        output = folder / f"{model.stem}.int8.onnx"
        tiles = settings.calibration or settings.data
        return to_int8(model, tiles, output, count=settings.count, progress=progress).path

    return {"fp16": half, "int8": int8}


def check_child(path: Path, precision: str, parent: Path) -> None:
    """Refuse a file that is not this precision of this model.

    Raises:
        EmraError: ``table-file``, and those of reading it.
    """
    manifest = read_model(path)[1]
    if manifest.precision != precision:
        raise EmraError(
            "table-file", f"the file is {manifest.precision}, expected {precision}", f"Correct --{precision}", path
        )
    if manifest.parent_sha256 != file_sha256(parent):
        raise EmraError(
            "table-file", f"the file was made of another model than {parent.name}", f"Leave --{precision} out", path
        )


def _measure(
    files: Mapping[str, Path | Missing],
    manifest: Manifest,
    pictures: Sequence[LabelledTile],
    settings: Settings,
    progress: Progress,
) -> tuple[Table, list[dict[str, Any]]]:
    there = {name: path for name, path in files.items() if isinstance(path, Path)}
    facts = {name: describe_file(path) for name, path in there.items()}
    accuracy = measure_accuracy(there, pictures, progress)
    tile = generate(SCENE, *manifest.tile).image
    times = {library: measure_times(library, there, tile, progress) for library in LIBRARIES}
    rows = []
    for number, (name, path) in enumerate(files.items()):
        progress("building engines", number, len(files))
        if isinstance(path, Missing):
            rows.append(Row(name, path, path, dict.fromkeys(LIBRARIES, path), path))
            continue
        row_times = {library: times[library].times[name] for library in LIBRARIES}
        rows.append(Row(name, facts[name], accuracy[name], row_times, measure_engine(path, manifest)))
    progress("building engines", len(files), len(files))
    about = f"{settings.data.name}, split {settings.split}, {len(pictures)} pictures"
    return Table(manifest.name, manifest.tile, manifest.classes.names, about, rows, times), list(facts.values())


def write_table(
    table: Table,
    models: Sequence[Mapping[str, Any]],
    argv: Sequence[str],
    *,
    output: str | Path,
    json: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the Markdown page, and the result file where one is named.

    Args:
        table: The measurements.
        models: The files.
        argv: Arguments of the command.
        output: Markdown file.
        json: Result file, or None.
        overwrite: Whether existing files may be replaced.

    Raises:
        EmraError: Those of writing.
    """
    run = describe_run(SCRIPT, argv)
    result = make_result(
        "precision",
        SCRIPT,
        argv,
        table.to_dict(),
        models=models,
        failures=table.failures(),
        not_measured=table.not_measured(run["command"]),
    )
    if json is not None:
        write_result(json, result, overwrite=overwrite)
    with atomic_output(output, overwrite=overwrite) as part:
        part.write_text(as_markdown(table, result["run"] or {}, result["machine"]), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="table.py",
        description="Measure FP32, FP16 and INT8 of one model: accuracy, size, time. Exit status: 0 all was measured"
        " that this machine can, 1 something failed and the table says what, 2 bad input.",
    )
    add = made.add_argument
    add("model", metavar="MODEL.onnx", help="FP32 file that to_onnx.py wrote")
    add("--data", required=True, type=Path, metavar="DIR", help="labelled data set")
    add("--split", default="val", help="that accuracy is measured on (val)")
    add("--calibration", type=Path, metavar="DIR", help="images for INT8 (the data set's training pictures)")
    add("--count", type=int, default=DEFAULT_COUNT, metavar="N", help=f"calibration tiles ({DEFAULT_COUNT})")
    add("--fp16", type=Path, metavar="FILE.onnx", help="an FP16 file of this model (one is made)")
    add("--int8", type=Path, metavar="FILE.onnx", help="an INT8 file of this model (one is made)")
    add("--output", required=True, metavar="FILE.md", help="write the table there, as Markdown")
    add("--json", metavar="FILE.json", help="write everything there, as a result file")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


@command("stopped; no output is left half-written")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    from export.int8.progress import progress_bars

    outputs = (arguments.output, arguments.json)
    check_all_outputs(outputs, overwrite=arguments.overwrite, inputs=(arguments.model,))
    need("quant", "onnxruntime", purpose="measuring a model")
    need("bench", "psutil", purpose="measuring")
    settings = Settings(
        arguments.data,
        arguments.split,
        arguments.calibration,
        arguments.count,
        arguments.fp16,
        arguments.int8,
    )
    with progress_bars() as progress:
        table, models = measure_table(arguments.model, settings, progress)
    write_table(table, models, words, output=arguments.output, json=arguments.json, overwrite=arguments.overwrite)
    print(Path(arguments.output).read_text(encoding="utf-8"), end="")
    return 1 if table.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
