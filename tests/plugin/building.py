"""Builds of plugin/ for tests, by the project's own CMake."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.plugin.headers import tensorrt_roots

PROJECT = Path(__file__).resolve().parents[2]


def tool(*names: str) -> str:
    """The first of these programs on the PATH or beside the interpreter; skips the test where there is none."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    for name in names:
        if (path := shutil.which(name, path=places)) is not None:
            return path
    pytest.skip(f"{' or '.join(names)} is not installed")


def nvcc() -> str:
    if (path := shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")) is None:
        pytest.skip("nvcc is not installed")
    return path


def cuda_include() -> Path:
    """The folder of CUDA's headers: the toolkit's, or those of PyTorch's CUDA packages."""
    places = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include")]
    if (spec := importlib.util.find_spec("nvidia")) is not None and spec.submodule_search_locations:
        places += [Path(place, "cu13", "include") for place in spec.submodule_search_locations]
    for place in places:
        if (place / "cuda_runtime_api.h").is_file():
            return place
    pytest.skip("no CUDA headers: neither a toolkit nor nvidia-cuda-runtime")


def require_headers() -> None:
    if not tensorrt_roots():
        pytest.skip("no TensorRT headers: pip install --no-deps kernel-lens, or set TensorRT_ROOT")


def cmake(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [tool("cmake"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


def configure(folder: Path, *options: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Configures a build in `folder` and returns what CMake said; fails the test where CMake fails."""
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    done = cmake("-S", PROJECT, "-B", folder, *generator, python, *options, environment=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def build(folder: Path, *targets: str) -> str:
    done = cmake("--build", folder, *(["--target", *targets] if targets else []))
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


class Host:
    """The program that plays TensorRT's part, and what it loads. `emulator` runs it where it is of another machine."""

    def __init__(self, build_folder: Path, emulator: tuple[str, ...] = ()) -> None:
        folder = build_folder / "tests" / "plugin" / "host"
        self.command = [*emulator, str(folder / "plugin_host")]
        self.plugins = folder / "libemra_plugins_on_host.so"
        self.registrar = folder / "libemra_plugins_register_on_host.so"
        self.nvinfer = next(folder.glob("libnvinfer.so.1?"))

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=300)

    def case(self, name: str, libraries: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a case with the libraries made with the double, or with the real ones in the folder `libraries`."""
        if libraries is None:
            return self.run(self.plugins, self.registrar, self.nvinfer, name)
        names = libraries / "libemra_plugins.so", libraries / "libemra_plugins_register.so"
        return self.run(*names, self.nvinfer, name)


def build_host(folder: Path, *options: str) -> Host:
    """The host with sanitizers, unless `options` say otherwise; warnings are errors."""
    tool("c++")
    require_headers()
    include = f"-DEMRA_CUDA_INCLUDE_DIR={cuda_include()}"
    configure(folder, "-DEMRA_CUDA=OFF", "-DEMRA_TESTS=ON", "-DCMAKE_CXX_FLAGS=-Werror", include, *options)
    build(folder)
    return Host(folder)


def case_names(*sources: str) -> list[str]:
    """The cases in files of tests/plugin/host, so that each is a test of its own before anything is built."""
    folder = PROJECT / "tests" / "plugin" / "host"
    files = [folder / source for source in sources] or sorted(folder.glob("*_cases.cpp"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line[len("CASE(") : line.index(")")] for line in lines if line.startswith("CASE(")]
