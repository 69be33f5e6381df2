"""The command that installs an extra: read from a clone or a wheel, for the Python in use, into its environment."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.host import extras
from tests.conftest import REPOSITORY

# As setuptools writes them, in two of its styles.
METADATA = [
    "numpy>=1.26",
    'onnxruntime>=1.23.2; python_version < "3.11" and extra == "runtime"',
    "onnxruntime>=1.30; (python_version >= '3.11') and extra == 'runtime'",
    'pyogrio>=0.9; extra == "vector"',
    'shapely>=2.0; extra == "vector"',
    'kernel-lens>=2.0.1; sys_platform == "linux" and extra == "dev"',
    'ninja; extra == "dev"',
]


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The module as a wheel installs it: without setup.cfg beside the package."""
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "emra_deploy" / "host" / "extras.py"))
    monkeypatch.setattr(metadata, "requires", lambda name: METADATA if name == "emra-deploy" else [])
    monkeypatch.setattr(extras, "_other_onnxruntime", lambda: False)


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(("version", "bound"), [((3, 10), "1.23.2"), ((3, 11), "1.30"), ((3, 13), "1.30")])
def test_a_wheels_metadata_is_read_for_the_python_in_use(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], bound: str
) -> None:
    monkeypatch.setattr(extras.sys, "version_info", (*version, 0))
    assert extras.requirements("runtime") == [f"onnxruntime>={bound}"]
    assert extras.requirements("vector") == ["pyogrio>=0.9", "shapely>=2.0"]
    assert extras.install_command("vector").endswith("pip install 'pyogrio>=0.9' 'shapely>=2.0'")


@pytest.mark.usefixtures("wheel")
def test_a_platforms_requirement_is_named_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.sys, "platform", "linux")
    assert extras.requirements("dev") == ["kernel-lens>=2.0.1", "ninja"]
    monkeypatch.setattr(extras.sys, "platform", "darwin")
    assert extras.requirements("dev") == ["ninja"]


@pytest.mark.usefixtures("wheel")
def test_several_extras_are_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: [*METADATA, 'shapely>=2.0; extra == "dev"'])
    assert extras.install_command("vector", "dev").count("shapely>=2.0") == 1


@pytest.mark.usefixtures("wheel")
def test_another_onnxruntime_is_not_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ['onnx>=1.20; extra == "quant"', *METADATA])
    assert "onnxruntime" in extras.install_command("runtime", "quant")
    monkeypatch.setattr(extras, "_other_onnxruntime", lambda: True)
    assert extras.install_command("runtime", "quant").endswith("pip install 'onnx>=1.20'")


@pytest.mark.usefixtures("wheel")
def test_code_without_metadata_names_the_clones_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert "pip install -e '.[vector]' in a clone" in extras.install_command("vector")


def test_a_clone_is_read_from_its_setup_file() -> None:
    assert extras.requirements("vector") == ["pyogrio>=0.9", "shapely>=2.0"]
    bound = "1.30" if sys.version_info >= (3, 11) else "1.23.2"
    assert extras.requirements("quant")[0] == "onnx>=1.20"
    assert f"onnxruntime>={bound}" in extras.requirements("quant") or extras._other_onnxruntime()


def test_the_command_installs_into_this_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def say(pip: str | None, prefix: str, uv: str | None = None) -> str:
        monkeypatch.setattr(extras.shutil, "which", {"pip": pip, "uv": uv}.get)
        monkeypatch.setattr(extras.sys, "prefix", prefix)
        return extras.pip_install("shapely>=2.0")

    monkeypatch.setattr(extras.sys, "executable", "/env/bin/python")
    monkeypatch.setattr(extras.sys, "base_prefix", "/usr")
    monkeypatch.setattr(extras, "_is_installed", lambda name: True)
    assert say("/env/bin/pip", "/env") == "pip install 'shapely>=2.0'"
    # The environment is not activated, or is the system's, whose pip may be another Python's.
    assert say("/usr/bin/pip", "/env") == "/env/bin/python -m pip install 'shapely>=2.0'"
    assert say("/env/bin/pip", "/usr") == "/env/bin/python -m pip install 'shapely>=2.0'"
    monkeypatch.setattr(extras, "_is_installed", lambda name: False)
    assert say(None, "/env", "/usr/bin/uv") == "uv pip install --python /env/bin/python 'shapely>=2.0'"
    monkeypatch.setattr(extras.sys, "executable", "")
    assert say(None, "/env") == "pip install 'shapely>=2.0'"


def test_naming_a_command_leaves_setuptools_whole() -> None:
    """A search for the module pip makes setuptools give distutils back, and fail later, where torch needs it."""
    pytest.importorskip("setuptools")
    program = (
        "import sys; from emra_deploy.host import extras\n"
        "extras.shutil.which = lambda name: name\n"
        "extras.install_command('raster'); assert 'setuptools' not in sys.modules\n"
        "import setuptools"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_what_is_missing_or_broken_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extras.need("vector", "json", purpose="this")
    with pytest.raises(EmraError) as caught:
        extras.need("vector", "no_such_library", purpose="the plot")
    assert caught.value.code == "library-missing"
    assert caught.value.cause == "the plot needs no_such_library, which is not installed"
    assert caught.value.remedy == f"Run: {extras.install_command('vector')}"
    (tmp_path / "broken_library.py").write_text("raise ImportError('libX.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EmraError, match=r"cannot be loaded \(libX"):
        extras.need("vector", "broken_library", purpose="the plot")


@pytest.mark.parametrize(("script", "name"), [("__main__", "no_such_library"), ("__main__", "export.nothing")])
def test_a_scripts_imports_end_in_one_line(script: str, name: str) -> None:
    opening = "from emra_deploy.host.extras import script_imports\n"
    program = f"{opening}with script_imports({script!r}, 'export'):\n import {name}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60
    )
    if name.startswith("export"):
        assert "Traceback" in done.stderr, "a fault of ours is no missing library"
    else:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no_such_library is not installed. Run: " in done.stderr


def test_an_imported_module_raises_as_always() -> None:
    with pytest.raises(ModuleNotFoundError), extras.script_imports("export.check", "export"):
        importlib.import_module("no_such_library")
