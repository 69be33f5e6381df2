"""All measurements that need a CUDA GPU: build, check, time, and print one table.

    python -m benchmarks.gpu_suite [--json FILE] [--seed N] [--only SECTION,...] [--no-compile]
                                   [--wheels PATH...] [--model FILE.onnx]

The aggregation kernels: built, checked against FP64 and under compute-sanitizer, and timed against PyTorch's fused and
explicit forms and the chip's own ceilings; the whole model in PyTorch, with PyTorch's fused attention and with the
kernels; and a model file as an engine, where TensorRT is installed or `--wheels` gives TensorRT-RTX, whole or split
into parts (NAME.whl.00, NAME.whl.01, ...).

Needs a CUDA build of PyTorch and nvcc, and no network; timm for the whole model. Takes under nine minutes on an H100;
unfinished sections become rows that say so. The exit status is 0 if every goal is reached, 1 if one is missed, and 2
without a GPU or nvcc.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.library import PROJECT
from benchmarks.gpu.rows import Row, exit_status, format_table
from benchmarks.reporting.command import make_parser, start
from benchmarks.reporting.provenance import describe_file
from benchmarks.reporting.results import make_result, write_result
from emra_deploy.backends.tensorrt.cuda_unusable import meaning, number_of
from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.extras import install_command
from emra_deploy.host.files import check_all_outputs

SECTIONS = ("accuracy", "speed", "blocks", "model", "engine", "sanitizer")
SIZES = (1031, 4103)

# Other builds of the kernels, timed with the shipped one (docs/decisions/0009): other shares of exponentials by
# polynomial than 1/8, and kernels that start while the previous one ends.
VARIANTS = {
    "no polynomial": "-DEMRA_POLYNOMIAL_EIGHTHS=0",
    "2/8 by polynomial": "-DEMRA_POLYNOMIAL_EIGHTHS=2",
    "3/8 by polynomial": "-DEMRA_POLYNOMIAL_EIGHTHS=3",
    "programmatic launch": "-DEMRA_PROGRAMMATIC_LAUNCH=1",
}

BUDGET = 520.0
"""Seconds after which the suite stops measuring."""

MODELS = ("models/emra-ti-dubai.onnx", "emra_deploy/models/emra-ti-dubai.onnx")
"""Defaults of `--model`: the first file that exists."""

SANITIZER_SECONDS, ENGINE_SECONDS = 60.0, 150.0


class Builds:
    """Builds by nvcc, all at once, in the background."""

    def __init__(self, folder: Path, capability: tuple[int, int], wanted: Sequence[str]) -> None:
        from benchmarks.gpu import ceilings, library, sanitizer

        def make(source: Path, name: str, *options: str) -> Future[Path]:
            return self._pool.submit(library.compile_cuda, [source], folder / name, capability, *options)

        shared = library.SHARED_LIBRARY
        self._pool = ThreadPoolExecutor(4)
        self.folder = folder
        self.kernels = make(library.SOURCE, "libemra_kernels.so", *shared)
        self.ceilings = make(ceilings.SOURCE, "libceilings.so", *shared) if "speed" in wanted else None
        self.sanitized = make(sanitizer.SOURCE, "sanitized", "-lineinfo") if "sanitizer" in wanted else None
        self.variants: dict[str, Future[Path]] = {}
        if "speed" in wanted:
            for number, (name, option) in enumerate(VARIANTS.items()):
                self.variants[name] = make(library.SOURCE, f"libemra_kernels_{number}.so", option, *shared)

    def close(self) -> None:
        """Cancel builds that have not started."""
        self._pool.shutdown(cancel_futures=True)


def _unusable(torch: Any) -> EmraError:
    """The error for a PyTorch that cannot use a GPU."""
    try:
        torch.cuda.init()
        reason = "it finds none"
    except (AssertionError, RuntimeError) as error:
        reason = one_line(error)
    known = meaning(number_of(reason))
    if known is None:
        return EmraError(
            "no-gpu",
            f"PyTorch sees no CUDA GPU ({reason})",
            "Run this on a machine with an NVIDIA GPU and a driver that is not older than PyTorch's CUDA",
        )
    return EmraError(known[0], f"PyTorch sees no CUDA GPU: {known[1]} ({reason})", known[2])


def device() -> dict[str, Any]:
    """Facts of the GPU.

    Raises:
        EmraError: There is no PyTorch, or no CUDA GPU that it can use.
    """
    try:
        import torch
    except ImportError as error:
        raise EmraError(
            "library-missing", f"PyTorch cannot be imported ({error})", f"Run: {install_command('train')}"
        ) from error
    if not torch.cuda.is_available():
        raise _unusable(torch)
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


@dataclass(frozen=True)
class Job:
    """The request of a run.

    Attributes:
        wanted: Some of `SECTIONS`, in their order.
        seed: Seed of the random inputs.
        compiled: Whether torch.compile takes part.
        model: ONNX file for the engine, or None.
        wheels: Files and folders with the engine's library.
        deadline: Time to stop, by `time.monotonic`.
    """

    wanted: Sequence[str]
    seed: int
    compiled: bool
    model: Path | None
    wheels: Sequence[Path]
    deadline: float

    def left(self) -> float:
        """Seconds until the deadline, not negative."""
        return max(0.0, self.deadline - time.monotonic())


class OutOfTimeError(BaseException):
    """The deadline passed during a section. It is no `Exception`, because sections catch those of their parts."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the block after some seconds, as soon as Python code runs."""

    def give_up(number: int, frame: object) -> None:
        raise OutOfTimeError("no time was left")

    before = signal.signal(signal.SIGALRM, give_up)
    # 0 would disable the timer.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_parts(job: Job, builds: Builds) -> dict[str, Callable[[], list[Row]]]:
    """The function that measures each section."""
    from benchmarks.gpu import accuracy, blocks, ceilings, engine, sanitizer, speed, wheels
    from benchmarks.gpu.library import Aggregation

    kernels = Aggregation(builds.kernels.result())

    def speeds() -> list[Row]:
        assert builds.ceilings is not None
        rates = ceilings.measure_ceilings(builds.ceilings.result())
        rows = rates.rows()
        variants = {}
        for name, path in builds.variants.items():
            try:
                variants[name] = Aggregation(path.result())
            except EmraError as error:  # Another build; the shipped one is measured anyway.
                rows.append(Row("kernels built otherwise", name, None, note=error.cause[-160:]))
        for tokens in SIZES:
            rows += speed.compare(kernels, rates, tokens, variants, job.compiled)
        return rows

    def whole_model() -> list[Row]:
        # A bare machine has no timm.
        from benchmarks.gpu import model

        return model.compare_models(builds.kernels.result())

    def as_engine() -> list[Row]:
        if job.model is None:
            return [Row(engine.SECTION, "model file", None, note="there is none; name one by --model")]
        paths = wheels.unpack_wheels(job.wheels, builds.folder / "wheels") if job.wheels else []
        return engine.measure_engine(job.model, builds.folder, paths, min(ENGINE_SECONDS, job.left()))

    def sanitized() -> list[Row]:
        assert builds.sanitized is not None
        seconds = min(SANITIZER_SECONDS, job.left() / len(sanitizer.TOOLS))
        return sanitizer.sanitize(builds.sanitized.result(), seconds=seconds)

    return {
        "accuracy": lambda: accuracy.check_all(kernels, job.seed),
        "speed": speeds,
        "blocks": lambda: blocks.compare_blocks(kernels, SIZES[0]),
        "model": whole_model,
        "engine": as_engine,
        "sanitizer": sanitized,
    }


def run_sections(job: Job, parts: Mapping[str, Callable[[], list[Row]]]) -> list[Row]:
    """Rows of the wanted sections, in the order of the table; a section that fails becomes a row."""
    rows: list[Row] = []
    for name in job.wanted:
        begun = time.monotonic()
        try:
            if not job.left():
                raise OutOfTimeError("no time was left")
            with deadline(job.left()):
                rows += parts[name]()
        except OutOfTimeError as error:
            rows.append(Row(name, "whole section", None, note=str(error), required=True))
        except ImportError as error:
            rows.append(Row(name, "whole section", None, note=f"{error.name} is not installed"))
        except Exception as error:  # The table reports the failure; a traceback would hide the other rows.
            message = one_line(f"{type(error).__name__}: {error}", 200)
            rows.append(Row(name, "whole section", None, note=message, required=True))
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("gpu_suite.py", __doc__)
    add = made.add_argument
    add("--json", metavar="FILE", help="write all rows there")
    add("--overwrite", action="store_true", help="replace an existing output")
    add("--seed", type=int, help="seed of the random inputs (the time of day)")
    add("--only", metavar="NAMES", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)} (all)")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute")
    add(
        "--wheels",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="TensorRT-RTX for machines without a network: wheels, their parts, or folders of them",
    )
    add("--model", type=Path, metavar="FILE.onnx", help="built as an engine (the shipped FP32 model)")
    return made


def _check(arguments: argparse.Namespace) -> None:
    """Check the arguments, and fill in the defaults.

    Raises:
        EmraError: An unknown section, a missing file, or an output that cannot be written.
    """
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        cause = f"No section {unknown[0]!r}, expected some of {', '.join(SECTIONS)}"
        raise EmraError("section-unknown", cause, "Correct --only")
    arguments.only = [name for name in SECTIONS if name in names]
    check_all_outputs([arguments.json], overwrite=arguments.overwrite)
    if arguments.model is None:
        arguments.model = next((PROJECT / name for name in MODELS if (PROJECT / name).is_file()), None)
    elif not arguments.model.is_file():
        raise EmraError("model-missing", "The model does not exist", "Check the spelling", arguments.model)
    for place in arguments.wheels:
        if not place.exists():
            raise EmraError("wheels", "There is no such file or folder", "Correct --wheels", place)


def run(arguments: argparse.Namespace) -> int:
    """Build, measure, write, print.

    Raises:
        EmraError: A wrong argument, no GPU, no nvcc, or sources that do not compile.
    """
    started = time.monotonic()
    _check(arguments)
    gpu = device()
    seed = time.time_ns() % 2**31 if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory(prefix="emra-gpu-suite-") as folder:
        builds = Builds(Path(folder), tuple(gpu["capability"]), arguments.only)
        job = Job(
            arguments.only,
            seed,
            not arguments.no_compile,
            arguments.model,
            arguments.wheels,
            started + BUDGET,
        )
        try:
            rows = run_sections(job, make_parts(job, builds))
        finally:
            builds.close()
    seconds = time.monotonic() - started
    if arguments.json:
        used = "engine" in arguments.only and arguments.model is not None
        content = {"device": gpu, "seed": seed, "seconds": seconds, "rows": [row.to_dict() for row in rows]}
        models = [describe_file(arguments.model)] if used else []
        result = make_result("gpu", "gpu_suite.py", arguments.argv, content, models=models)
        write_result(arguments.json, result, overwrite=arguments.overwrite)
    print(f"{gpu['name']}, torch {gpu['torch']}, seed {seed}, {seconds:.0f} s")
    print(format_table(rows))
    return exit_status(rows)


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
