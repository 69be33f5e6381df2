"""Builds that several files of tests share, made once."""

from pathlib import Path

import pytest

from tests.plugin.building import Host, build, build_host, cmake, configure, nvcc, require_headers, tool


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The plugin with the double of the kernels and the host that holds it, under sanitizers."""
    return build_host(tmp_path_factory.mktemp("plugin-host"))


class Installed:
    """The project's libraries, built for one architecture and installed."""

    def __init__(self, prefix: Path, build_folder: Path, said: str) -> None:
        self.prefix = prefix
        self.build_folder = build_folder
        self.said = said
        self.libraries = next(folder for folder in (prefix / "lib", prefix / "lib64") if folder.is_dir())


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    tool("c++")
    compiler = nvcc()
    require_headers()
    folder = tmp_path_factory.mktemp("plugin-build")
    prefix = tmp_path_factory.mktemp("plugin-install")
    options = [f"-DCMAKE_CUDA_COMPILER={compiler}", "-DCMAKE_CUDA_ARCHITECTURES=90", "-DCMAKE_CXX_FLAGS=-Werror"]
    said = configure(folder, *options, "-DCMAKE_INSTALL_LIBDIR=lib")
    said += build(folder)
    done = cmake("--install", folder, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    return Installed(prefix, folder, said)
