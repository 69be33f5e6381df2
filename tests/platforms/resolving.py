"""Installable wheels on each promised machine, resolved against the package registry without installing.

    python -m tests.platforms.resolving [--locked]

prints which releases each platform gets: the newest that ``setup.cfg`` admits, or those of ``requirements/``.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent

NOT_ON_DEVICES = {
    "tensorrt": "the registry's package is a source stub; JetPack and NVIDIA's containers bring TensorRT",
    "rtx": "TensorRT-RTX is for GeForce and RTX cards",
    "autocast": "compares with ModelOpt, on the machine that exports",
    "train": "PyTorch; a device never imports it",
    "dev": "style, types and second opinions, on a developer's machine",
    "docs": "builds the pages",
}
"""Extras that no device installs, and why; every other extra of ``setup.cfg`` has to resolve on each platform."""

CUDA = {"cuda12", "cuda13"}
"""Extras that exclude each other: each platform takes the one of its driver."""

SHOWN = ("numpy", "pillow", "jsonargparse", "onnxruntime", "openvino", "onnx", "rasterio", "pyogrio", "shapely", "av")
SHOWN += ("psutil", "nvidia-ml-py", "matplotlib", "tifffile", "scipy", "rio-cogeo", "cuda-python")
"""Libraries in the table."""


@dataclass(frozen=True)
class Platform:
    """A machine that the project promises to run on.

    Attributes:
        name: For people.
        python: Version of Python, ``"3.10"``.
        target: The platform by uv's name, which is the C library's.
        lock: Name of its file in ``requirements/``.
        cuda: Its extra of `CUDA`; None takes every one, each by itself.
    """

    name: str
    python: str
    target: str
    lock: str
    cuda: str | None = None

    def extras(self) -> list[str]:
        """Extras that have to resolve here, each by itself."""
        left_out = set(NOT_ON_DEVICES) | (CUDA - {self.cuda} if self.cuda else set())
        return [extra for extra in read_extras() if extra not in left_out]


# Ubuntu 22.04 has glibc 2.35, Ubuntu 24.04 has 2.39; 2.28 is the oldest that the libraries build for on x86-64.
JETPACK_6 = Platform("JetPack 6", "3.10", "aarch64-manylinux_2_35", "jetpack-6.txt", "cuda12")
JETPACK_7 = Platform("JetPack 7", "3.12", "aarch64-manylinux_2_39", "jetpack-7.txt", "cuda13")
DESKTOPS = tuple(
    Platform(f"x86-64, {python}", python, "x86_64-manylinux_2_28", f"python-{python}.txt")
    for python in ("3.10", "3.11", "3.12", "3.13")
)
PLATFORMS = (*DESKTOPS, JETPACK_6, JETPACK_7)


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def read_extras() -> list[str]:
    """Names of the extras in ``setup.cfg``."""
    return list(_setup()["options.extras_require"])


def requirements_of(extras: Iterable[str]) -> list[str]:
    """The requirements of the package and some of its extras."""
    setup = _setup()
    found = _lines(setup["options"]["install_requires"])
    for extra in extras:
        found += _lines(setup["options.extras_require"][extra])
    return found


def find_uv() -> str | None:
    """The resolver: that of ``make test-platforms``, or one on the path."""
    return shutil.which("uv", path=os.pathsep.join([str(REPOSITORY / ".venv-tools" / "bin"), os.environ["PATH"]]))


def resolve(
    platform: Platform, extras: Sequence[str], constraints: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Ask which releases a platform would install, of binary wheels alone; nothing is built and nothing installed."""
    uv = find_uv()
    if uv is None:
        raise FileNotFoundError("uv is not installed; pip install -r requirements/tools.txt")
    command = [uv, "pip", "compile", "-", "--no-header", "--no-annotate", "--no-python-downloads", "--no-build"]
    command += ["--python-version", platform.python, "--python-platform", platform.target]
    if constraints is not None:
        command += ["--constraint", str(constraints)]
    text = "\n".join(requirements_of(extras))
    return subprocess.run(command, input=text, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def versions(text: str) -> dict[str, str]:
    """Releases in a file of ``requirements/`` or in the resolver's answer."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def table(found: dict[str, dict[str, str]]) -> str:
    """Versions of the `SHOWN` libraries by platform, in Markdown."""
    lines = [f"| library | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for library in SHOWN:
        cells = [releases.get(library, "") for releases in found.values()]
        lines.append(f"| {library} | {' | '.join(cells)} |")
    return "\n".join(lines)


def newest(platform: Platform) -> dict[str, str]:
    """Releases that a platform gets of everything that it may install at once."""
    extras = [extra for extra in platform.extras() if extra not in CUDA or extra == (platform.cuda or "cuda13")]
    done = resolve(platform, extras)
    if done.returncode:
        raise SystemExit(f"{platform.name}: {done.stderr}")
    return versions(done.stdout)


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Print the library versions that each platform gets.")
    parser.add_argument("--locked", action="store_true", help="those of requirements/, not the newest")
    options = parser.parse_args(argv)
    if options.locked:
        folder = REPOSITORY / "requirements"
        found = {each.name: versions((folder / each.lock).read_text(encoding="utf-8")) for each in PLATFORMS}
    else:
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip([each.name for each in PLATFORMS], pool.map(newest, PLATFORMS), strict=True))
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
