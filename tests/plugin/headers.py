"""TensorRT's headers on this machine, of as many versions as there are.

EMRA_TENSORRT_ROOTS adds versions: a list of folders, separated by colons, each a TensorRT or its `include`. They can be
had from the tags of NVIDIA's public TensorRT repository, which hold `include/`.
"""

import importlib.util
import os
import re
from pathlib import Path

SYSTEM = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu", "/usr/include", "/usr/local/tensorrt")


def tensorrt_roots() -> dict[str, Path]:
    """Folders that hold NvInferRuntime.h, by the version they say; the first of a version wins."""
    named = os.environ.get("TensorRT_ROOT", "")  # noqa: SIM112 - CMake's spelling
    places = [named, *os.environ.get("EMRA_TENSORRT_ROOTS", "").split(":"), *SYSTEM]
    if (spec := importlib.util.find_spec("kernel_lens")) is not None and spec.submodule_search_locations:
        places += [str(Path(place, "include", "tensorrt")) for place in spec.submodule_search_locations]
    found: dict[str, Path] = {}
    for place in filter(None, places):
        for folder in (Path(place), Path(place, "include")):
            if (folder / "NvInferRuntime.h").is_file():
                found.setdefault(version_of(folder), folder)
    return found


def version_of(folder: Path) -> str:
    text = (folder / "NvInferVersion.h").read_text()
    numbers = [
        re.search(rf"define (?:NV_TENSORRT|TRT)_{part}(?:_ENTERPRISE)?\s+(\d+)", text)
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    return ".".join(number.group(1) for number in numbers if number is not None)
