"""The package as a device installs it: from a wheel, with nothing but the base dependencies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.models import SHIPPED
from tests.conftest import REPOSITORY
from tests.emra_deploy.cli.cli_helpers import save_png
from tests.onnx_models import build_model

SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "emra_deploy", "export", "benchmarks", "training")
ABSENT = ("torch", "timm", "onnx", "onnxruntime", "openvino", "rasterio", "jinja2", "matplotlib", "tensorrt")

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=900, cwd=cwd)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the package and its base dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    made = run(sys.executable, "-m", "venv", folder / "environment", cwd=folder)
    if made.returncode:
        pytest.skip(f"no environment can be made here: {made.stderr.strip()}")
    commands = folder / "environment" / "bin"
    reached = run(commands / "pip", "download", "--no-deps", "--dest", folder / "seen", "setuptools>=77", cwd=folder)
    if reached.returncode:
        pytest.skip(f"pip reaches no index: {(reached.stderr.strip().splitlines() or ['?'])[-1]}")
    # A copy, because building leaves files beside the sources.
    for name in SOURCES:
        source, copy = REPOSITORY / name, folder / "source" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    installed = run(commands / "pip", "install", folder / "source", cwd=folder)
    assert installed.returncode == 0, installed.stderr
    shutil.rmtree(folder / "source")
    return commands


def test_every_module_imports_with_the_base_dependencies_alone(bare: Path, tmp_path: Path) -> None:
    program = (
        "import importlib, importlib.util, json, pkgutil, emra_deploy\n"
        f"assert [n for n in {ABSENT!r} if importlib.util.find_spec(n)] == []\n"
        "names = [info.name for info in pkgutil.walk_packages(emra_deploy.__path__, 'emra_deploy.')]\n"
        "names = [name for name in names if not name.endswith('__main__')]\n"
        "for name in names: importlib.import_module(name)\n"
        "for name in emra_deploy.__all__: getattr(emra_deploy, name)\n"
        "print(json.dumps([emra_deploy.__file__, names]))\n"
    )
    done = run(bare / "python", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place, names = json.loads(done.stdout)
    assert Path(place).is_relative_to(bare.parent), "the installed copy, not the sources"
    sources = (REPOSITORY / "emra_deploy").rglob("*.py")
    expected = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in sources}
    expected = {name.removesuffix(".__init__") for name in expected if not name.endswith("__main__")}
    assert {"emra_deploy", *names} == expected


def test_data_files_are_installed(bare: Path, tmp_path: Path) -> None:
    [site] = (bare.parent / "lib").glob("python*/site-packages")
    assert (site / "emra_deploy" / "py.typed").is_file()
    recipes = {path.name for path in (REPOSITORY / "training" / "recipes").glob("*.yaml")}
    assert {path.name for path in (site / "training" / "recipes").iterdir()} == recipes
    shipped = Path("emra_deploy", "models", SHIPPED)
    if (REPOSITORY / shipped).is_file():
        assert [path.name for path in (site / "emra_deploy").rglob("*.onnx")] == [SHIPPED]
        assert (site / shipped).read_bytes() == (REPOSITORY / shipped).read_bytes()


def test_the_command_says_what_is_missing_and_how_to_get_it(bare: Path, tmp_path: Path) -> None:
    assert run(bare / "emra", "--help", cwd=tmp_path).returncode == 0
    build_model(tmp_path / "model.onnx")
    save_png(tmp_path / "in.png", np.zeros((20, 20, 3), np.uint8))
    words = ("segment", "in.png", "--output", "out.png", "--model", "model.onnx")
    done = run(bare / "emra", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'onnxruntime>=1." in done.stderr
    assert done.stderr.count("\n") == 1
    doctor = run(bare / "emra", "doctor", "--json", "--model", "model.onnx", cwd=tmp_path)
    assert doctor.returncode == 1
    assert json.loads(doctor.stdout)["model"]["error"]["code"] == "backend-missing"
