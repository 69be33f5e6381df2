"""Use of TensorRT's builder: one strongly typed path for TensorRT 10.3 to 11.x and TensorRT-RTX."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emra_deploy.backends.tensorrt.flavour import Flavour
from emra_deploy.backends.tensorrt.log import Messages, make_logger
from emra_deploy.backends.tensorrt.plugins import check_creators, load_plugin
from emra_deploy.backends.tensorrt.sidecar import Flags, Plugin, Profile
from emra_deploy.errors import EmraError, one_line
from export.engine.input_model import InputModel
from export.engine.progress import BuildProgress, make_monitor

_PROFILE_ELSE = "Change --min-batch, --opt-batch and --max-batch"


@dataclass(frozen=True)
class Request:
    """Options of a build.

    Attributes:
        profile: Shapes of the input.
        flags: Builder flags.
        plugin: Library that runs the operators of the domain ``emra``, or None for their bodies.
        timing_cache: Timings of earlier builds to start from: the bytes and the file they were read from, or None.
    """

    profile: Profile
    flags: Flags
    plugin: Plugin | None = None
    timing_cache: tuple[bytes, Path] | None = None


@dataclass(frozen=True)
class Built:
    """Result of a build.

    Attributes:
        plan: The serialised engine.
        messages: Log of the library during the build.
        timings: Timings for later builds, or None.
        layers: Number of layers of the network.
    """

    plan: memoryview
    messages: Messages
    timings: bytes | None
    layers: int


def make_profile(source: InputModel, low: int | None, middle: int | None, high: int | None) -> Profile:
    """The optimisation profile of a build.

    Args:
        source: The input model.
        low: Smallest batch, None for 1.
        middle: Batch to tune for, None for the largest.
        high: Largest batch, None for the larger of the others.

    Raises:
        EmraError: ``batch-size`` for sizes out of order, or other than the fixed one of the graph.
    """
    fixed = source.manifest.input_shape[0]
    if fixed is not None:
        if any(number not in (None, fixed) for number in (low, middle, high)):
            raise EmraError(
                "batch-size",
                f"The model takes batches of {fixed} and no other",
                "Omit the batch options, or export with --batch dynamic",
                source.path,
            )
        low = middle = high = fixed
    else:
        low = 1 if low is None else low
        high = max(low, middle or 1) if high is None else high
        middle = high if middle is None else middle
    if not 1 <= low <= middle <= high <= 4096:
        raise EmraError(
            "batch-size", f"batches from {low} to {high}, best at {middle}, are not in order, 1 to 4096", _PROFILE_ELSE
        )
    _, height, width = source.manifest.input_shape
    rest = (height, width, 3) if source.manifest.input_kind == "uint8" else (3, height, width)
    return Profile((low, *rest), (middle, *rest), (high, *rest))


def check_request(flavour: Flavour, flags: Flags, *, timing_cache: bool) -> None:
    """Refuse options that a flavour lacks, before the build.

    Raises:
        EmraError: ``build-option``.
    """
    if timing_cache and not flavour.keeps_timing_cache:
        raise _option(flavour, "keeps no timing cache", "Omit --timing-cache; its builds take seconds")
    if flags.hardware_compatible and not flavour.has_compatibility:
        raise _option(
            flavour, "has no hardware compatibility", "Omit --hardware-compatible: its engines run on all its GPUs"
        )
    if flags.version_compatible and not flavour.has_compatibility:
        raise _option(
            flavour, "has no version compatibility", "Omit --version-compatible, and build again for each version"
        )
    if flags.dla and not flavour.knows_dla:
        raise _option(flavour, "has no DLA", "Omit --dla, or use TensorRT 10.3 to 10.7, or 11.4.1 and later")


def build(source: InputModel, request: Request, flavour: Flavour, progress: BuildProgress) -> Built:
    """Parse and build.

    Args:
        source: The input model.
        request: Options of the build.
        flavour: The library.
        progress: Receives the progress; it can stop the build.

    Raises:
        EmraError: ``operator-unsupported`` naming the node, ``model-unreadable``, ``timing-cache``, ``plugin-…``,
            ``dla``, ``build-failed``.
        KeyboardInterrupt: When the build was stopped.
    """
    trt, messages = flavour.module, Messages()
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    if request.plugin is not None:
        registry = builder.get_plugin_registry()
        load_plugin(request.plugin, registry, flavour)
        check_creators(source.operators, registry, request.plugin)
    network = builder.create_network(flavour.network_flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(source.model.SerializeToString()):
        raise _parse_error(parser, messages, source, flavour)
    _check_input(network, source, flavour)
    config = builder.create_builder_config()
    with _no_deprecations():
        _configure(builder, config, request, source, flavour, messages)
        config.progress_monitor = make_monitor(trt, progress)
        plan = builder.build_serialized_network(network, config)
        if progress.cancelled:
            raise KeyboardInterrupt
        if plan is None:
            raise _build_error(messages, request, source, flavour)
        timings = None
        if request.timing_cache is not None:
            timings = bytes(config.get_timing_cache().serialize())
    return Built(memoryview(plan), messages, timings, network.num_layers)


def _configure(
    builder: Any, config: Any, request: Request, source: InputModel, flavour: Flavour, messages: Messages
) -> None:
    trt, flags = flavour.module, request.flags
    # Without the details neither the layer list nor the inspector shows types.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if source.manifest.input_shape[0] is None:
        shapes = builder.create_optimization_profile()
        profile = request.profile
        shapes.set_shape("image", profile.minimum, profile.optimum, profile.maximum)
        config.add_optimization_profile(shapes)
    if flags.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, flags.workspace)
    if not flags.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if flags.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if flags.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if flags.dla:
        if not builder.num_DLA_cores:
            raise EmraError("dla", "This machine has no DLA", "Omit --dla")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = 0
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if request.timing_cache is not None:
        _use_timings(config, *request.timing_cache, messages)


def _use_timings(config: Any, data: bytes, path: Path, messages: Messages) -> None:
    errors, warned = len(messages.errors), len(messages.warnings)
    cache = config.create_timing_cache(data)
    said = messages.errors[errors:] + messages.warnings[warned:]
    # For a damaged cache the library logs a message and returns none, or an empty one; it refuses another machine's.
    if cache is None or (data and said):
        raise _timings("is damaged or is not a timing cache", path, said)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise _timings("was made on another GPU or with another version of TensorRT", path, said)


def _timings(what: str, path: Path, said: list[str]) -> EmraError:
    reason = f" ({said[-1][:200]})" if said else ""
    return EmraError(
        "timing-cache",
        f"The timing cache {what}{reason}",
        "Remove the file, or name another; it will be written again",
        path,
    )


def _check_input(network: Any, source: InputModel, flavour: Flavour) -> None:
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    if names != ["image"]:
        raise EmraError(
            "model-mismatch",
            f"{flavour.title} reads inputs {names} of the graph, expected one, 'image'",
            "Export the model again with python -m export.to_onnx",
            source.path,
        )


def _parse_error(parser: Any, messages: Messages, source: InputModel, flavour: Flavour) -> EmraError:
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        if not operator:
            continue
        domain = next((node.domain for node in source.model.graph.node if node.name == name), "")
        reason = one_line(error.desc(), 200)
        full = f"{domain}::{operator}" if domain else operator
        return EmraError(
            "operator-unsupported",
            f"{flavour.title} cannot read operator {full} of node {name!r} ({reason})",
            "Give --plugin the library that has it, or export without --no-function-body"
            if domain
            else "Use a newer TensorRT, or export without this operator",
            source.path,
        )
    return EmraError(
        "model-unreadable",
        f"{flavour.title} cannot read the graph ({messages.reason()})",
        "Export the model again with python -m export.to_onnx",
        source.path,
    )


def _build_error(messages: Messages, request: Request, source: InputModel, flavour: Flavour) -> EmraError:
    reason = messages.reason()
    limit = request.flags.workspace
    if limit is not None and "workspace" in reason.lower():
        remedy = f"Give more than --workspace {limit // 2**20}, or omit it"
    elif "memory" in reason.lower():
        remedy = "Free memory, or build with a smaller --max-batch or of a smaller --size"
    else:
        remedy = "Try another version of TensorRT; `--verbose` prints the builder's log"
    return EmraError("build-failed", f"{flavour.title} built no engine ({reason})", remedy, source.path)


def _option(flavour: Flavour, what: str, remedy: str) -> EmraError:
    return EmraError("build-option", f"{flavour.title} {what}", remedy)


@contextmanager
def _no_deprecations() -> Iterator[None]:
    """Suppress the library's deprecation warnings about its own attributes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
