"""The reliability scoreboard: damaged files, kills, failing disks, threads and streams, with their failures.

    python -m tests.reliability [--only PART...] [--json FILE] [--keep FOLDER]

Run it in the repository. The exit status is 1 if a goal is missed. Files of failed cases go to the folder of --keep;
``--only files --case 123 --seed 0`` repeats one of them. The part ``streams`` is benchmarks/stream_soak.py and has the
same requirements.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import stream_soak
from benchmarks.reporting.command import start
from benchmarks.reporting.provenance import describe_file, describe_machine, describe_run
from benchmarks.reporting.results import write_json
from emra_deploy.host.extras import need
from emra_deploy.host.files import check_all_outputs
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import build_model
from tests.reliability.board import Row, counted, print_board
from tests.reliability.cases import CRASH, ERROR, HANG, MEMORY, WRONG
from tests.reliability.faults import fail_everywhere, find_compiler
from tests.reliability.jobs import map_job
from tests.reliability.kills import kill_many
from tests.reliability.streams import stress
from tests.reliability.threads import share_segmenter
from tests.reliability.workers import Tally, run_cases

Measured = tuple[dict[str, Any], list[Row]]


def _damaged(group: str, part: str, count: int, options: argparse.Namespace, folder: Path) -> Measured:
    tally: Tally = run_cases(
        group,
        count,
        options.seed,
        folder,
        options.keep,
        processes=options.processes,
        limit=options.limit,
        only=tuple(options.case),
        say=_say,
    )
    content = tally.to_dict()
    failed = {outcome: tally.of(outcome) for outcome in (CRASH, HANG, MEMORY, ERROR, WRONG)}
    figure = (
        f"{failed[CRASH]} crashes, {failed[HANG]} hangs, {failed[MEMORY]} beyond the memory limit, {failed[ERROR]} "
        f"other exceptions, {failed[WRONG]} silent wrong outputs; {tally.of('refused'):,} refused"
    )
    return content, [counted(f"damaged {part}", content["cases"], sum(failed.values()), figure, "0 of each")]


def _files(options: argparse.Namespace, folder: Path) -> Measured:
    return _damaged("documents", "models, sidecars, checkpoints", options.files, options, folder)


def _images(options: argparse.Namespace, folder: Path) -> Measured:
    return _damaged("pictures", "images, rasters", options.images, options, folder)


def _planted(options: argparse.Namespace, folder: Path) -> Measured:
    """Readers that fail on purpose must be counted as failures."""
    limit = min(options.limit, 10.0)
    tally = run_cases("planted", options.planted, options.seed, folder, None, limit=limit, memory=200 * 2**20)
    named = sum(count for (subject, outcome), count in tally.outcomes.items() if subject == outcome)
    content = tally.to_dict()
    missed = content["cases"] - named
    kinds = len(content["by_subject"])
    figure = f"{named} of {content['cases']} recognised, of {kinds} kinds"
    return content, [counted("planted failures", content["cases"], missed, figure, "all recognised")]


def _kills(options: argparse.Namespace, folder: Path) -> Measured:
    return kill_many(map_job(folder, options.raster), folder, options.kills, options.seed, _say)


def _faults(options: argparse.Namespace, folder: Path) -> Measured:
    return fail_everywhere(folder, options.fault_step, options.seed, _say)


def _threads(options: argparse.Namespace, folder: Path) -> Measured:
    model = options.model
    if model is None:
        model = folder / "model.onnx"
        build_model(model, (64, 64))
    with Segmenter.open(model, backend=options.backend, threads=1) as segmenter:
        return share_segmenter(segmenter, options.threads, options.thread_images, options.seed)


def _streams(options: argparse.Namespace, folder: Path) -> Measured:
    return stress(options, folder)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Measured]] = {
    "planted": _planted,
    "files": _files,
    "images": _images,
    "kills": _kills,
    "faults": _faults,
    "threads": _threads,
    "streams": _streams,
}


def check_ready(parts: Sequence[str]) -> None:
    """Refuse to start if a part lacks a library or a program.

    Raises:
        EmraError: Names the missing one.
    """
    for name in parts:
        for extra, library in _LIBRARIES.get(name, ()):
            need(extra, library, purpose=f"the part {name}")
    if "faults" in parts:
        find_compiler()
    if "streams" in parts:
        stream_soak.check_ready()


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], list[Row]]:
    """Run the selected parts; returns their results and the scoreboard.

    Raises:
        EmraError: That of `check_ready`.
    """
    found: dict[str, Any] = {}
    board: list[Row] = []
    wanted = [name for name in PARTS if name in options.only and name not in options.skip]
    check_ready(wanted)
    for name in wanted:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"emra-{name}-", dir=options.scratch) as folder:
            content, rows = PARTS[name](options, Path(folder))
        found[name] = {**content, "seconds": round(time.monotonic() - began, 1)}
        board += rows
        for row in rows:
            _say(f"{row.part}: {row.figure}")
    return found, board


_RASTERIO = ("raster", "rasterio")
_LIBRARIES = {
    "files": (("bench", "onnx"),),
    "images": (_RASTERIO, ("bench", "tifffile")),
    "kills": (_RASTERIO,),
    "faults": (_RASTERIO,),
    "threads": (("bench", "onnx"),),
}
"""Requirements of each part beside the runtime: extra and module."""


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = list(PARTS)
    add("--only", nargs="+", choices=names, default=names, help="parts to measure (all)")
    add("--skip", nargs="+", choices=names, default=[], help="parts to leave out")
    add("--seed", type=int, default=0, help="seed of all random choices (0)")
    add("--planted", type=int, default=12, help="readers that fail on purpose (12, of 6 kinds)")
    add("--files", type=int, default=10_000, help="damaged models, sidecars, checkpoints (10000)")
    add("--images", type=int, default=5_000, help="damaged images and rasters (5000)")
    add("--case", type=int, nargs="+", default=[], help="run only these damaged files")
    add("--processes", type=int, default=1, help="workers that read damaged files (1)")
    add("--limit", type=float, default=20.0, help="seconds after which a file counts as hung (20)")
    add("--keep", type=Path, metavar="FOLDER", help="keep damaged files that failed")
    add("--kills", type=int, default=200, help="jobs to kill (200)")
    add("--raster", type=int, default=1000, help="side of the raster of these jobs (1000)")
    add("--fault-step", type=int, default=1, help="let every n-th write and sync fail (1)")
    add("--threads", type=int, default=8, help="threads on one Segmenter (8)")
    add("--thread-images", type=int, default=1000, help="pictures for each of them (1000)")
    add("--model", type=Path, help="model of threads and streams (default: a small one, the shipped one)")
    add("--backend", default="auto", help="backend of the threads (auto)")
    add("--frames", type=int, default=21_600, help="frames of the soak (21600)")
    add("--cuts", type=int, default=50, help="times to kill the RTSP server (50)")
    add("--stalls", type=int, default=20, help="times to stop it (20)")
    add("--slow-results", type=int, default=300, help="results of the slow consumer (300)")
    add("--stops", type=int, default=100, help="times to send SIGTERM (100)")
    add("--leak", type=int, default=4096, help="bytes that the planted leak loses with each result (4096)")
    add("--scratch", type=Path, metavar="FOLDER", help="folder for temporary files")
    add("--json", type=Path, metavar="FILE", help="write all results there")
    add("--overwrite", action="store_true", help="replace an existing FILE")
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the parts, print the scoreboard and write the result file; returns 1 if a goal is missed."""
    # Hours of work come before the file is written.
    check_all_outputs([options.json], overwrite=options.overwrite)
    found, board = measure(options)
    print_board(board)
    if options.json is not None:
        content = {
            **describe_run("tests.reliability", options.argv),
            "machine": describe_machine(),
            "model": None if options.model is None else describe_file(options.model),
            "board": [row.to_dict() for row in board],
            "parts": found,
        }
        write_json(options.json, content, overwrite=options.overwrite)
    return 0 if all(row.met for row in board) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return start(_parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
