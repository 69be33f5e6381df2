"""The command of TensorRT's own tool that builds the same engine."""

from __future__ import annotations

import shlex
from pathlib import Path

from emra_deploy.engine.flavour import RTX, Flavour
from emra_deploy.engine.sidecar import Flags, Plugin, Profile

_TOOLS = {"tensorrt": "trtexec", RTX: "tensorrt_rtx"}


def trtexec_command(
    model: Path,
    output: Path,
    flavour: Flavour,
    profile: Profile,
    flags: Flags,
    *,
    dynamic: bool,
    plugins: tuple[Plugin, ...] = (),
    timing_cache: Path | None = None,
) -> str:
    """The command line, to be pasted into a shell.

    Args:
        model: The ONNX file; where a plugin is used, one without the operator's body (to_onnx --no-function-body), for
            before TensorRT 10.7 the body would win.
        output: The engine.
        flavour: The library.
        profile: Shapes of the input.
        flags: How to build.
        dynamic: Whether the graph leaves the batch open; shapes are given only then.
        plugins: Libraries to load.
        timing_cache: File of timings to read and write.
    """
    words = [_TOOLS[flavour.name], f"--onnx={model}", f"--saveEngine={output}", "--skipInference"]
    if flavour.name != RTX and flavour.version < (11,):
        words.append("--stronglyTyped")
    if dynamic:
        for name, shape in (("min", profile.minimum), ("opt", profile.optimum), ("max", profile.maximum)):
            words.append(f"--{name}Shapes=image:{'x'.join(map(str, shape))}")
    words.append("--profilingVerbosity=detailed")
    if not flags.tf32:
        words.append("--noTF32")
    if flags.workspace is not None:
        words.append(f"--memPoolSize=workspace:{flags.workspace // 2**20}M")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    if flags.hardware_compatible:
        words.append("--hardwareCompatibilityLevel=ampere+")
    if flags.version_compatible:
        words.append("--versionCompatible")
    if flags.dla:
        words += ["--useDLACore=0", "--allowGPUFallback"]
    words += [f"--staticPlugins={plugin.path}" for plugin in plugins]
    return shlex.join(words)
