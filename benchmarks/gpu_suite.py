"""Everything about the aggregation kernels that needs a CUDA GPU: build, check, time, and one table at the end.

    python benchmarks/gpu_suite.py [--json FILE] [--seed N] [--only SECTION,...] [--no-compile]

Needs a CUDA build of PyTorch and nvcc; no TensorRT and no network. Takes under nine minutes on an H100. Ends with 0
where every goal is reached, with 1 where one is missed, and with 2 where there is no GPU or no nvcc.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.rows import Row, exit_status, format_table
from emra_deploy.errors import EmraError
from emra_deploy.files import atomic_output, check_output

SECTIONS = ("accuracy", "speed", "blocks", "sanitizer")
SIZES = (1031, 4103)

# The kernels built otherwise, timed beside those that are shipped (docs/decisions/0009): other shares of the
# exponentials by polynomial than 1/8, and kernels that start while the one before them ends.
VARIANTS = {
    "no polynomial": "-DEMRA_POLYNOMIAL_EIGHTHS=0",
    "2/8 by polynomial": "-DEMRA_POLYNOMIAL_EIGHTHS=2",
    "3/8 by polynomial": "-DEMRA_POLYNOMIAL_EIGHTHS=3",
    "programmatic launch": "-DEMRA_PROGRAMMATIC_LAUNCH=1",
}

BUDGET = 510.0
"""Seconds after which no further section starts."""


class Builds:
    """What nvcc makes, all at once, in the background."""

    def __init__(self, folder: Path, capability: tuple[int, int], wanted: Sequence[str]) -> None:
        from benchmarks.gpu import ceilings, library, sanitizer

        def make(source: Path, name: str, *options: str) -> Future[Path]:
            return self._pool.submit(library.compile_cuda, [source], folder / name, capability, *options)

        shared = library.SHARED_LIBRARY
        self._pool = ThreadPoolExecutor(4)
        self.kernels = make(library.SOURCE, "libemra_kernels.so", *shared)
        self.ceilings = make(ceilings.SOURCE, "libceilings.so", *shared) if "speed" in wanted else None
        self.sanitized = make(sanitizer.SOURCE, "sanitized", "-lineinfo") if "sanitizer" in wanted else None
        self.variants: dict[str, Future[Path]] = {}
        if "speed" in wanted:
            for number, (name, option) in enumerate(VARIANTS.items()):
                self.variants[name] = make(library.SOURCE, f"libemra_kernels_{number}.so", option, *shared)

    def close(self) -> None:
        """Forget what has not been started."""
        self._pool.shutdown(cancel_futures=True)


def device() -> dict[str, Any]:
    """What the GPU is.

    Raises:
        EmraError: There is no PyTorch, or no CUDA GPU that it can use.
    """
    try:
        import torch
    except ImportError as error:
        raise EmraError("torch-missing", f"PyTorch cannot be imported ({error})", "Install its CUDA build") from error
    if not torch.cuda.is_available():
        raise EmraError("no-gpu", "PyTorch sees no CUDA GPU", "Run this on a machine with an NVIDIA GPU and its driver")
    properties = torch.cuda.get_device_properties(0)
    if properties.major < 8:
        cause = f"{properties.name} has compute capability {properties.major}.{properties.minor}, expected 8.0 or later"
        raise EmraError("gpu-too-old", cause, "Use an Ampere GPU or a later one")
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def run_sections(wanted: Sequence[str], builds: Builds, seed: int, compiled: bool, started: float) -> list[Row]:
    """Rows of the wanted sections, in the order of the table; one that fails leaves a row and the others go on."""
    from benchmarks.gpu import accuracy, blocks, ceilings, sanitizer, speed
    from benchmarks.gpu.library import Aggregation

    kernels = Aggregation(builds.kernels.result())

    def speeds() -> list[Row]:
        assert builds.ceilings is not None
        rates = ceilings.measure_ceilings(builds.ceilings.result())
        variants = {name: Aggregation(path.result()) for name, path in builds.variants.items()}
        rows = rates.rows()
        for tokens in SIZES:
            rows += speed.compare(kernels, rates, tokens, variants, compiled)
        return rows

    def sanitized() -> list[Row]:
        assert builds.sanitized is not None
        return sanitizer.sanitize(builds.sanitized.result(), seconds=60)

    parts: dict[str, Callable[[], list[Row]]] = {
        "accuracy": lambda: accuracy.check_all(kernels, seed),
        "speed": speeds,
        "blocks": lambda: blocks.compare_blocks(kernels, SIZES[0]),
        "sanitizer": sanitized,
    }
    rows: list[Row] = []
    for name in wanted:
        begun = time.monotonic()
        if begun - started > BUDGET:
            rows.append(Row(name, "whole section", None, note="no time was left", required=True))
            continue
        try:
            rows += parts[name]()
        except Exception as error:  # the table says what failed; the traceback would hide what did not
            message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            rows.append(Row(name, "whole section", None, note=message, required=True))
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments.

    Raises:
        EmraError: A section that is none, or an output that cannot be written.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write all rows there")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--seed", type=int, help="of the random inputs (the time of day)")
    parser.add_argument("--only", metavar="NAMES", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)} (all)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        cause = f"No section {unknown[0]!r}, expected some of {', '.join(SECTIONS)}"
        raise EmraError("section-unknown", cause, "Mend --only")
    arguments.only = [name for name in SECTIONS if name in names]
    if arguments.json:
        check_output(arguments.json, overwrite=arguments.overwrite)
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Build, measure, write, print.

    Raises:
        EmraError: No GPU, no nvcc, or sources that do not compile.
    """
    started = time.monotonic()
    gpu = device()
    seed = time.time_ns() % 2**31 if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory(prefix="emra-gpu-suite-") as folder:
        builds = Builds(Path(folder), tuple(gpu["capability"]), arguments.only)
        try:
            rows = run_sections(arguments.only, builds, seed, not arguments.no_compile, started)
        finally:
            builds.close()
    seconds = time.monotonic() - started
    if arguments.json:
        report = {"device": gpu, "seed": seed, "seconds": seconds, "rows": [row.to_dict() for row in rows]}
        with atomic_output(arguments.json, overwrite=arguments.overwrite) as part:
            Path(part).write_text(json.dumps(report, indent=1) + "\n")
    print(f"{gpu['name']}, torch {gpu['torch']}, seed {seed}, {seconds:.0f} s")
    print(format_table(rows))
    return exit_status(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    try:
        return run(parse(argv))
    except EmraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
