"""The equivalent command of a build: trtexec's, or ours where TensorRT has no such tool."""

from __future__ import annotations

import shlex
from pathlib import Path

from emra_deploy.backends.tensorrt.flavour import RTX, Flavour
from emra_deploy.backends.tensorrt.sidecar import Flags, Plugin, Profile
from export.engine.input_model import InputModel

BODY_WINS_BEFORE = (10, 7)
"""Before this TensorRT an operator's function body wins over its plugin: see `export.graphs.function_body`."""


def equivalent_command(
    source: InputModel,
    output: Path,
    flavour: Flavour,
    profile: Profile,
    flags: Flags,
    *,
    plugins: tuple[Plugin, ...] = (),
    timing_cache: Path | None = None,
) -> str:
    """The command line, ready for a shell. It overwrites an existing engine.

    For TensorRT it is ``trtexec``, with options that its releases from 10.3 to 11.1 all take (NVIDIA/TensorRT,
    ``samples/common/sampleOptions.cpp``). For TensorRT-RTX it is `export.build_engine`: its packages contain no tool,
    and the source of ``tensorrt_rtx``, the tool in NVIDIA's download, is not published.

    Args:
        source: The input model.
        output: The engine.
        flavour: The library.
        profile: Shapes of the input.
        flags: Builder flags.
        plugins: Libraries to load.
        timing_cache: File of timings to read and write.
    """
    if flavour.name == RTX:
        return shlex.join(_own_words(source, output, profile, flags))
    model, before = source.path, ""
    if plugins and source.has_body and flavour.version < BODY_WINS_BEFORE:
        model = source.path.with_suffix(".bare.onnx")
        words = ["python", "-m", "export.rewrite_aggregation", str(source.path), "--to", "plugin", "--no-function-body"]
        before = shlex.join([*words, "--output", str(model)]) + " && "
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={output}", "--skipInference"]
    if flavour.version < (11,):
        words.append("--stronglyTyped")
    if source.manifest.input_shape[0] is None:
        for name, shape in (("min", profile.minimum), ("opt", profile.optimum), ("max", profile.maximum)):
            words.append(f"--{name}Shapes=image:{'x'.join(map(str, shape))}")
    words.append("--profilingVerbosity=detailed")
    if not flags.tf32:
        words.append("--noTF32")
    if flags.workspace is not None:
        mib, rest = divmod(flags.workspace, 2**20)
        words.append(f"--memPoolSize=workspace:{flags.workspace}B" if rest else f"--memPoolSize=workspace:{mib}M")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    if flags.hardware_compatible:
        words.append("--hardwareCompatibilityLevel=ampere+")
    if flags.version_compatible:
        words.append("--versionCompatible")
    if flags.dla:
        words += ["--useDLACore=0", "--allowGPUFallback"]
    # Not --staticPlugins, which only opens a library: ours does not register its plugins by itself.
    words += [f"--dynamicPlugins={plugin.path}" for plugin in plugins]
    return before + shlex.join(words)


def _own_words(source: InputModel, output: Path, profile: Profile, flags: Flags) -> list[str]:
    """The options that TensorRT-RTX has; `export.engine.builder.check_request` refuses the others."""
    words = ["python", "-m", "export.build_engine", str(source.path), "--output", str(output), "--flavor", RTX]
    if source.manifest.input_shape[0] is None:
        for name, shape in (("min", profile.minimum), ("opt", profile.optimum), ("max", profile.maximum)):
            words += [f"--{name}-batch", str(shape[0])]
    if flags.workspace is not None:
        words += ["--workspace", str(flags.workspace / 2**20)]
    if not flags.tf32:
        words.append("--no-tf32")
    return [*words, "--overwrite"]
