"""The build of plugin/: found and refused dependencies, installed files, and the real libraries.

The kernels are compiled for one architecture. What needs a GPU is elsewhere: here their host code runs alone.
"""

import ctypes
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.plugin.building import (
    PROJECT,
    Host,
    build_host,
    case_names,
    cmake,
    configure,
    cuda_include,
    nvcc,
    require_headers,
    tool,
)
from tests.plugin.conftest import Installed
from tests.plugin.headers import tensorrt_roots, version_of

PLUGIN_SOURCES = sorted((PROJECT / "plugin" / "tensorrt").glob("*.cpp"))


def headers_only(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Configures what needs no nvcc: the search for headers alone."""
    arguments = ["-DEMRA_CUDA=OFF", f"-DEMRA_CUDA_INCLUDE_DIR={cuda_include()}", *options]
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    return cmake("-S", PROJECT, "-B", folder, *generator, *arguments, environment=os.environ | environment)


def fake_headers(folder: Path, version: str, old_style: bool) -> Path:
    folder.mkdir()
    (folder / "NvInferRuntime.h").write_text("")
    lines = []
    for part, number in zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True):
        if old_style:
            lines.append(f"#define NV_TENSORRT_{part} {number} //!< TensorRT {part.lower()} version.")
        else:
            lines += [
                f"#define TRT_{part}_ENTERPRISE {number}",
                f"#define NV_TENSORRT_{part} TRT_{part}_ENTERPRISE //!<",
            ]
    (folder / "NvInferVersion.h").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(("version", "old_style"), [("10.3.0", True), ("10.13.3", False), ("11.4.0", False)])
def test_headers_of_tensorrt_root_are_taken_and_said(tmp_path: Path, version: str, old_style: bool) -> None:
    headers = fake_headers(tmp_path / "include", version, old_style)
    assert version_of(headers) == version
    for options, environment in (([f"-DTensorRT_ROOT={tmp_path}"], {}), ([], {"TensorRT_ROOT": str(headers)})):
        done = headers_only(tmp_path / f"build{len(options)}", *options, **environment)
        assert done.returncode == 0, done.stderr
        assert f"-- TensorRT {version} headers of TensorRT_ROOT: {headers}" in done.stdout


def test_old_headers_are_refused(tmp_path: Path) -> None:
    done = headers_only(tmp_path / "build", f"-DTensorRT_ROOT={fake_headers(tmp_path / 'old', '8.6.2', True)}")
    assert done.returncode != 0
    assert "TensorRT 8.6.2" in done.stderr
    assert "older than 10.3" in " ".join(done.stderr.split())


def test_a_wrong_root_is_refused_and_not_replaced(tmp_path: Path) -> None:
    done = headers_only(tmp_path / "build", f"-DTensorRT_ROOT={tmp_path}")
    assert done.returncode != 0
    assert f"TensorRT_ROOT is '{tmp_path}'" in " ".join(done.stderr.split())


def test_without_headers_the_remedy_is_said(tmp_path: Path) -> None:
    if any(str(folder).startswith("/usr") for folder in tensorrt_roots().values()):
        pytest.skip("TensorRT is installed on this system")
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    done = headers_only(tmp_path / "build", f"-DPython3_EXECUTABLE={tmp_path / 'python'}", TensorRT_ROOT="")
    assert done.returncode != 0
    assert "kernel-lens" in done.stderr
    assert "-DEMRA_TENSORRT=OFF" in done.stderr


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        # CUDA 11.8 to 12.7; JetPack 6 has 12.6.
        ("50 75 80 86 87 89 90 90a", "80-real;86-real;87-real;89-real;90-real;90-virtual"),
        # 12.8 and 12.9, which call Thor 101.
        (
            "75 80 86 87 89 90 100 101 120",
            "80-real;86-real;87-real;89-real;90-real;100-real;120-real;90-virtual;120-virtual",
        ),
        # 13.
        (
            "75 80 86 87 88 89 90 100 110 103 120 121",
            "80-real;86-real;87-real;89-real;90-real;100-real;110-real;120-real;90-virtual;120-virtual",
        ),
        ("72 87", "87-real;87-virtual"),
    ],
)
def test_default_architectures_are_what_cuda_knows(tmp_path: Path, known: str, expected: str) -> None:
    done = default_architectures(tmp_path, known)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == expected


def test_a_cuda_that_knows_none_of_the_devices_is_refused(tmp_path: Path) -> None:
    done = default_architectures(tmp_path, "50 60 70")
    assert done.returncode != 0
    assert "-DCMAKE_CUDA_ARCHITECTURES" in done.stderr


def test_the_nvcc_here_builds_for_what_the_documents_promise(tmp_path: Path) -> None:
    """Each GPU of docs/plugin.md's table that this CUDA knows has machine code, or code that its major version runs."""
    listed = subprocess.run([nvcc(), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    done = default_architectures(tmp_path, " ".join(re.findall(r"compute_(\d+)", listed)))
    built = {int(number) for number in re.findall(r"(\d+)-real", done.stderr)}
    table = (PROJECT / "docs/plugin.md").read_text()
    rows = re.findall(r"^\| (\d+)\.(\d) \| .* \| `sm_(\d+)` \|$", table, re.MULTILINE)
    assert len(rows) >= 10
    for major, minor, code in rows:
        assert int(code) // 10 == int(major)
        assert int(code) <= int(major + minor)
        assert int(code) in built or f"compute_{code}\n" not in listed, (major, minor)


def default_architectures(folder: Path, known: str) -> subprocess.CompletedProcess[str]:
    lines = "".join(f"echo compute_{architecture}\n" for architecture in known.split())
    (folder / "nvcc").write_text(f"#!/bin/sh\n{lines}")
    (folder / "nvcc").chmod(0o755)
    (folder / "ask.cmake").write_text(
        f'cmake_minimum_required(VERSION 3.22)\ninclude("{PROJECT}/cmake/EmraArchitectures.cmake")\n'
        f'emra_default_architectures("{folder}/nvcc" found)\nmessage("${{found}}")\n'
    )
    return cmake("-P", folder / "ask.cmake")


@pytest.mark.parametrize("version", sorted(tensorrt_roots()))
def test_the_plugin_compiles_without_a_warning(version: str) -> None:
    """Against every TensorRT whose headers are here (EMRA_TENSORRT_ROOTS), with more warnings than the build has."""
    warnings = "-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wnon-virtual-dtor"
    warnings += " -Wcast-align -Wundef -Wduplicated-cond -Wlogical-op -Wuseless-cast -Wformat=2 -Werror"
    includes = ["-I", PROJECT / "plugin", "-isystem", tensorrt_roots()[version], "-isystem", cuda_include()]
    for source in PLUGIN_SOURCES:
        command = [tool("g++"), "-std=c++17", "-fsyntax-only", *warnings.split(), *includes, source]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_build_says_what_it_took(installed: Installed) -> None:
    assert "architectures 90\n" in installed.said
    assert "-- TensorRT " in installed.said
    assert "warning" not in installed.said.lower()


def test_what_is_installed(installed: Installed) -> None:
    files = sorted(str(path.relative_to(installed.prefix)) for path in installed.prefix.rglob("*") if path.is_file())
    assert files == [
        "include/emra/attention_aggregation.h",
        "lib/libemra_kernels.so",
        "lib/libemra_plugins.so",
        "lib/libemra_plugins_register.so",
    ]


def symbols(library: Path, which: str) -> set[str]:
    done = subprocess.run([tool("nm"), "-D", which, library], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines() if " w " not in line}


def needed(library: Path) -> set[str]:
    done = subprocess.run([tool("readelf"), "-d", library], capture_output=True, text=True, check=True)
    return {line.split("[")[1].rstrip("]") for line in done.stdout.splitlines() if "(NEEDED)" in line}


def test_libraries_show_their_interface_and_nothing_else(installed: Installed) -> None:
    kernels = {f"emra_aggregation_{name}" for name in ("version", "check", "workspace", "launch")}
    assert symbols(installed.libraries / "libemra_kernels.so", "--defined-only") == kernels
    assert symbols(installed.libraries / "libemra_plugins.so", "--defined-only") == {"getCreators", "setLoggerFinder"}


def test_the_plugin_travels_alone(installed: Installed) -> None:
    """An engine carries the library's file and nothing beside it: no libnvinfer, no libcudart, no libemra_kernels."""
    system = ("libstdc++.so", "libm.so", "libgcc_s.so", "libc.so", "libdl.so", "librt.so", "libpthread.so", "ld-linux")
    for library in ("libemra_plugins.so", "libemra_kernels.so"):
        assert {name for name in needed(installed.libraries / library) if not name.startswith(system)} == set()


def test_the_plugin_says_which_tensorrt_it_is_for(installed: Installed) -> None:
    """emra_deploy.backends.tensorrt.plugins looks for it before it loads a library."""
    major = installed.said.split("-- TensorRT ")[1].split(".")[0]
    linked = re.findall(rb"libnvinfer\.so\.(\d+)", (installed.libraries / "libemra_plugins.so").read_bytes())
    assert linked == [major.encode()]


@pytest.mark.parametrize("name", case_names("creator_cases.cpp", "build_cases.cpp", "registration_cases.cpp"))
def test_the_real_plugin_answers_like_the_one_with_the_double(installed: Installed, host: Host, name: str) -> None:
    done = host.case(name, installed.libraries)
    assert done.returncode == 0, done.stderr


def test_the_kernels_load_without_a_gpu(installed: Installed) -> None:
    library = ctypes.CDLL(str(installed.libraries / "libemra_kernels.so"))
    library.emra_aggregation_check.restype = ctypes.c_char_p
    library.emra_aggregation_workspace.restype = ctypes.c_size_t
    shape = (ctypes.c_int32 * 8)(1, 1031, 7, 12, 64, 4, 0, 1)
    ctypes.c_float.from_buffer(shape, 24).value = 0.125
    assert library.emra_aggregation_version() == 1
    assert library.emra_aggregation_check(shape) is None
    assert 0 < library.emra_aggregation_workspace(shape) < 1031 * 1031 * 4
    shape[4] = 65
    assert b"head width" in library.emra_aggregation_check(shape)
    assert library.emra_aggregation_workspace(shape) == 0


def test_kernels_need_no_tensorrt(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    options = [f"-DCMAKE_CUDA_COMPILER={nvcc()}", "-DCMAKE_CUDA_ARCHITECTURES=90", "-DEMRA_TENSORRT=OFF"]
    said = configure(tmp_path / "build", *options, f"-DPython3_EXECUTABLE={tmp_path / 'python'}")
    assert "TensorRT" not in said
    targets = cmake("--build", tmp_path / "build", "--target", "help").stdout
    assert "emra_kernels" in targets
    assert "emra_plugins" not in targets


def test_the_host_runs_on_aarch64(tmp_path: Path) -> None:
    """The plugin compiled by the cross-compiler and run in an emulator."""
    emulator = (tool("qemu-aarch64", "qemu-aarch64-static"), "-L", "/usr/aarch64-linux-gnu")
    tool("aarch64-linux-gnu-g++")
    toolchain = PROJECT / "cmake" / "aarch64-linux-gnu.cmake"
    build_host(tmp_path, "--toolchain", str(toolchain), "-DEMRA_SANITIZE=")
    host = Host(tmp_path, emulator)
    assert "aarch64" in host.plugins.read_bytes()[:64].hex() or host.plugins.read_bytes()[18] == 0xB7  # EM_AARCH64
    failed = [name for name in case_names() if host.case(name).returncode != 0]
    assert failed == []


@pytest.mark.slow
def test_cross_build_for_jetson(tmp_path: Path, host: Host) -> None:
    """All libraries for Orin, linked. `make plugin-aarch64` fetches the CUDA runtime of the target."""
    runtime = Path(os.environ.get("EMRA_CUDART_AARCH64", PROJECT / "build/cudart-aarch64/lib/libcudart_static.a"))
    if not runtime.is_file():
        pytest.skip("no CUDA runtime for aarch64: run make plugin-aarch64, or set EMRA_CUDART_AARCH64")
    tool("aarch64-linux-gnu-g++")
    nvcc()
    require_headers()
    toolchain = PROJECT / "cmake" / "aarch64-linux-gnu.cmake"
    options = ["--toolchain", toolchain, "-DCMAKE_CUDA_ARCHITECTURES=87", f"-DEMRA_CUDART_STATIC={runtime}"]
    configure(tmp_path, *options, "-DCMAKE_CXX_FLAGS=-Werror")
    assert cmake("--build", tmp_path).returncode == 0
    for library in tmp_path.rglob("libemra_*.so"):
        assert library.read_bytes()[18] == 0xB7  # EM_AARCH64
        assert not {name for name in needed(library) if name.startswith(("libcudart", "libnvinfer"))}
