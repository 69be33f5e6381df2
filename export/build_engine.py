"""Build a TensorRT engine and its sidecar from an ONNX file, and check them before they are named. Needs no PyTorch.

python -m export.build_engine model.fp16.onnx --output model.fp16.engine --max-batch 4
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emra_deploy.backends.names import ENGINES
from emra_deploy.backends.tensorrt.cuda import UNUSABLE, Cuda, open_cuda
from emra_deploy.backends.tensorrt.device import describe_machine, free_memory
from emra_deploy.backends.tensorrt.flavour import FLAVOURS, RTX, Flavour, load_flavour, version_text
from emra_deploy.backends.tensorrt.forecast import Forecast, check_fits
from emra_deploy.backends.tensorrt.graph_memory import measure_graph
from emra_deploy.backends.tensorrt.plugins import inspect_plugin
from emra_deploy.backends.tensorrt.precision import check_realised, parse_inspector, parse_layer_lines, realised
from emra_deploy.backends.tensorrt.sidecar import (
    NO_GOLDEN,
    NOT_RUN,
    PASSED,
    Flags,
    MemoryNeed,
    Plugin,
    Precision,
    SelfTest,
    Sidecar,
    sidecar_path,
    to_json,
)
from emra_deploy.errors import EmraError
from emra_deploy.host.command import command, tell
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.model_file.seal import seal_json

with script_imports(__name__, "quant"):
    from export.engine.builder import Built, Request, build, check_request, make_profile
    from export.engine.input_model import InputModel, read_input_model
    from export.engine.progress import BuildProgress, run_shown
    from export.engine.trtexec import equivalent_command
    from export.graphs.model_file import tool_versions

_MAX_TIMINGS = 512 * 2**20


@dataclass(frozen=True)
class Engine:
    """An engine that was written and checked.

    Attributes:
        path: The engine.
        sidecar: Its sidecar.
        lines: One line per check, in order.
    """

    path: Path
    sidecar: Sidecar
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Trial:
    """Result of running the engine on the GPU of this machine."""

    self_test: SelfTest
    layers: str | None = None
    activations: int | None = None


def build_engine(
    model: str | Path,
    output: str | Path,
    *,
    flavour: str | None = None,
    plugin: str | Path | None = None,
    min_batch: int | None = None,
    opt_batch: int | None = None,
    max_batch: int | None = None,
    flags: Flags | None = None,
    timing_cache: str | Path | None = None,
    ignore_memory: bool = False,
    overwrite: bool = False,
) -> Engine:
    """Build and check an engine; the files get their names only after all checks.

    Args:
        model: The ONNX file, with a Manifest.
        output: The engine to write; its sidecar has the same name and ``.json``.
        flavour: ``"tensorrt"`` or ``"rtx"``; None takes the first that is installed.
        plugin: Library that runs the operators of the domain ``emra``.
        min_batch: Smallest batch; None for 1.
        opt_batch: Batch to tune for; None for the largest.
        max_batch: Largest batch; None for 1.
        flags: Builder flags.
        timing_cache: File of timings, read if it exists, and written.
        ignore_memory: Whether to build even if the engine is not expected to fit into memory.
        overwrite: Whether existing outputs may be replaced.

    Raises:
        EmraError: A bad argument or file, a missing library or device, or a failed check; no file is left.
        KeyboardInterrupt: When the build was stopped; no file is left.
    """
    output, flags = Path(output), flags or Flags()
    _check_outputs(output, model, overwrite)
    library = load_flavour(flavour)
    check_request(library, flags, timing_cache=timing_cache is not None)
    found_plugin = None if plugin is None else inspect_plugin(plugin, library)
    source = read_input_model(model, library, plugin=plugin is not None)
    _check_room(output, source)
    profile = make_profile(source, min_batch, opt_batch, max_batch)
    timings = None if timing_cache is None else (_read_timings(Path(timing_cache)), Path(timing_cache))

    cuda, without = _cuda()
    forecast = Forecast(measure_graph(source.model, profile.maximum[0]), profile.maximum[0])
    free = free_memory(cuda)
    lines = [forecast.describe() + ("" if free is None else f"; {free.bytes / 1e9:.1f} GB of {free.kind} memory free")]
    if free is not None and not ignore_memory:
        check_fits(forecast, source.manifest, free)

    progress = BuildProgress()
    request = Request(profile, flags, found_plugin, timings)
    built = run_shown(lambda: build(source, request, library, progress), progress)
    lines.append(f"{library.title}: a strongly typed network of {built.layers} layers, {len(built.plan) / 1e6:.1f} MB")
    plugins = () if found_plugin is None else (found_plugin,)
    trial = _try_out(built, source, library, cuda, plugins) if cuda else _Trial(SelfTest(NOT_RUN, reason=without))
    precision = _read_precision(built, trial, source, library)
    activations = trial.activations or built.messages.sizes.get("activations")
    lines += [_memory_line(built, activations, forecast), _precision_line(precision), _self_test_line(trial.self_test)]

    command = equivalent_command(
        source,
        output,
        library,
        profile,
        flags,
        plugins=plugins,
        timing_cache=None if timings is None else timings[1],
    )
    sidecar = Sidecar(
        sha256=hashlib.sha256(built.plan).hexdigest(),
        bytes=len(built.plan),
        flavour=library.name,
        version=version_text(library.version),
        machine=describe_machine(cuda),
        plugins=plugins,
        profile=profile,
        flags=Flags(**{**vars(flags), "timing_cache": timings is not None}),
        precision=precision,
        memory=MemoryNeed(
            built.messages.sizes.get("weights", forecast.graph.weights),
            activations,
            forecast.graph.io,
        ),
        self_test=trial.self_test,
        onnx_sha256=source.sha256,
        command=command,
        tools=tool_versions("onnx", "numpy"),
    )
    _write(output, built, to_json(sidecar, source.manifest), timings, overwrite)
    return Engine(output, sidecar, (*lines, f"the same engine by hand: {command}"))


def _check_outputs(output: Path, model: str | Path, overwrite: bool) -> None:
    if output.suffix.lower() not in ENGINES:
        raise EmraError(
            "output-suffix", f"the output's name does not end in {', '.join(ENGINES)}", "Name it FILE.engine", output
        )
    check_output(output, overwrite=overwrite, inputs=(model,))
    check_output(sidecar_path(output), overwrite=overwrite, inputs=(model,))


def _check_room(output: Path, source: InputModel) -> None:
    needed, free = source.path.stat().st_size, shutil.disk_usage(output.resolve().parent).free
    if free < needed:
        raise EmraError(
            "output-write",
            f"the disk has {free / 1e6:.1f} MB left, and the engine will be about as large as the model,"
            f" {needed / 1e6:.1f} MB",
            "Make room on the disk or choose another",
            output,
        )


def _read_timings(path: Path) -> bytes:
    if not path.exists():
        check_output(path)
        return b""
    try:
        if path.stat().st_size > _MAX_TIMINGS:
            raise EmraError("timing-cache", f"The file has more than {_MAX_TIMINGS} bytes", "Name another file", path)
        return path.read_bytes()
    except OSError as error:
        raise EmraError(
            "timing-cache", f"The timing cache cannot be read ({error.strerror})", "Name another file", path
        ) from error


def _cuda() -> tuple[Cuda | None, str]:
    """CUDA, or None and the reason; TensorRT-RTX builds without it."""
    try:
        return open_cuda(), ""
    except EmraError as error:
        if error.code not in UNUSABLE:
            raise
        return None, error.cause


def _try_out(built: Built, source: InputModel, library: Flavour, cuda: Cuda, plugins: tuple[Plugin, ...]) -> _Trial:
    """Run the golden tile through the engine."""
    from emra_deploy.backends.tensorrt.backend import TensorRTBackend
    from emra_deploy.segmenting.selftest import self_test

    try:
        backend = TensorRTBackend.of_plan(bytes(built.plan), library, source.manifest, cuda, plugins)
    except EmraError as error:
        if library.name != RTX or error.code != "model-unreadable":
            raise
        # TensorRT-RTX builds on any machine, also on one whose GPU it does not support.
        return _Trial(SelfTest(NOT_RUN, reason=f"the GPU here cannot run it: {error.cause}"[:1000]))
    try:
        different = self_test(backend)
        result = SelfTest(NO_GOLDEN) if different is None else SelfTest(PASSED, different)
        return _Trial(result, backend.layers(), backend.memory())
    finally:
        backend.close()


def _read_precision(built: Built, trial: _Trial, source: InputModel, library: Flavour) -> Precision:
    """The precision that the engine computes in.

    Raises:
        EmraError: ``precision-not-realised`` when it is not the one that the file requests.
    """
    sources = (
        ("engine inspector", parse_inspector(trial.layers or "")),
        ("builder's layer list", parse_layer_lines(built.messages.layers)),
    )
    for name, layers in sources:
        found = realised(layers, source.asked)
        if found.counts:
            check_realised(found, library.title)
            return Precision(source.manifest.precision, found.counts, name)
    return Precision(source.manifest.precision, {}, "not readable")


def _memory_line(built: Built, activations: int | None, forecast: Forecast) -> str:
    """The engine's reported memory compared with the forecast."""
    if activations is None:
        return "memory of the engine: not reported"
    weights = built.messages.sizes.get("weights")
    known = "" if weights is None else f"weights {weights / 1e6:.1f} MB, "
    return (
        f"memory of the engine: {known}activations and scratch {activations / 1e6:.1f} MB;"
        f" counted {forecast.graph.activations / 1e6:.1f} MB, allowed for {forecast.activations / 1e6:.1f} MB"
    )


def _precision_line(precision: Precision) -> str:
    if not precision.counts:
        return f"precision: {precision.asked} asked; the engine does not report its own"
    counts = ", ".join(f"{count} in {name}" for name, count in sorted(precision.counts.items()))
    return f"precision: {precision.asked} asked; matrix products and convolutions: {counts} ({precision.source})"


def _self_test_line(result: SelfTest) -> str:
    if result.different is not None:
        return f"self-test: passed, {result.different:.4%} of the golden tile's pixels differ"
    return f"self-test: {result.status}{f': {result.reason}' if result.reason else ''}"


def _write(output: Path, built: Built, sidecar: str, timings: tuple[bytes, Path] | None, overwrite: bool) -> None:
    # The sidecar is renamed first: alone it refers to a missing engine, and an old engine does not match its sha256.
    # A new engine never exists without it.
    with atomic_output(output, overwrite=overwrite) as part:
        part.write_bytes(built.plan)
        with atomic_output(sidecar_path(output), overwrite=overwrite) as beside:
            beside.write_text(seal_json(sidecar), encoding="utf-8")
    if timings is not None and built.timings is not None:
        with atomic_output(timings[1], overwrite=True) as part:
            part.write_bytes(built.timings)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="build_engine.py", description="Build a TensorRT engine and its sidecar from an ONNX file."
    )
    add = made.add_argument
    add("model", metavar="MODEL.onnx", help="file that to_onnx, to_fp16 or to_int8 wrote")
    add("--output", required=True, metavar="MODEL.engine", help="file to write; MODEL.engine.json is written beside it")
    add(
        "--flavor", dest="flavour", choices=FLAVOURS, help="tensorrt or rtx, TensorRT-RTX (the first that is installed)"
    )
    add("--plugin", metavar="LIB.so", help="library that runs the attention aggregation, instead of the graph's form")
    add("--min-batch", type=int, metavar="N", help="smallest batch (1)")
    add("--opt-batch", type=int, metavar="N", help="batch to tune for (the largest)")
    add("--max-batch", type=int, metavar="N", help="largest batch (1)")
    add("--workspace", type=float, metavar="MIB", help="most scratch memory of a layer (no limit)")
    add("--timing-cache", metavar="FILE", help="timings of earlier builds; created if missing")
    add("--hardware-compatible", action="store_true", help="run on other GPUs of the Ampere generation and later")
    add("--version-compatible", action="store_true", help="run with later TensorRT of the same major version")
    add("--dla", action="store_true", help="run supported layers on the deep learning accelerator")
    add("--no-tf32", dest="tf32", action="store_false", help="compute FP32 products in full FP32")
    add("--ignore-memory", action="store_true", help="build even if the engine is not expected to fit into memory")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("--verbose", action="store_true", help="print the builder's log")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = vars(parser().parse_args(argv))
    if arguments.pop("verbose"):
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    try:
        engine = build_engine(flags=_take_flags(arguments), **arguments)
    except KeyboardInterrupt:
        print("interrupted; no output was changed", file=sys.stderr, flush=True)
        # The builder may still run in its thread; waiting for it could take minutes.
        os._exit(130)
    for line in engine.lines:
        print(line)
    beside = sidecar_path(engine.path)
    tell(f"wrote {engine.path} and {beside.name}: {engine.sidecar.bytes / 1e6:.1f} MB", engine.path, beside)
    return 0


def _take_flags(arguments: dict[str, Any]) -> Flags:
    limit = arguments.pop("workspace")
    if limit is not None and not 1 <= limit <= 2**20:
        raise EmraError("export-argument", f"workspace of {limit:g} MiB, expected 1 to {2**20}", "Change --workspace")
    chosen = {name: arguments.pop(name) for name in ("hardware_compatible", "version_compatible", "dla", "tf32")}
    return Flags(**chosen, workspace=None if limit is None else round(limit * 2**20))


if __name__ == "__main__":
    sys.exit(main())
