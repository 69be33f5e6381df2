"""Every remedy of the code names a command that works: extras that exist, requirements of setup.cfg, known packages."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emra_deploy.host.extras import install_command, requirements
from tests.conftest import REPOSITORY

ROOMS = ("emra_deploy", "export", "benchmarks", "training", "examples")

# Beside those of setup.cfg: each was resolved by pip for Python 3.10 and 3.13.
PACKAGES = {"opencv-python", "av", "pycuda", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-nv-tensorrt-rtx"}

# Of Debian 12, Ubuntu 22.04 and JetPack.
DEBIAN = {
    "tensorrt",
    "python3-libnvinfer",
    "python3-gi",
    "gstreamer1.0-tools",
    "gir1.2-gstreamer-1.0",
    "gir1.2-gst-rtsp-server-1.0",
    "gstreamer1.0-plugins-ugly",
}

DISTRIBUTIONS = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "tensorboard": "tensorboard"}
"""Modules whose distribution has another name."""


def extras() -> dict[str, str]:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return dict(setup["options.extras_require"])


def sources() -> list[Path]:
    found = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    assert len(found) > 200
    return found


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield path, node


def texts(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def strings(path: Path) -> list[str]:
    """Each string of a file, those of f-strings with blanks for what is computed."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_no_text_names_a_package_that_is_on_no_registry() -> None:
    documents = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    for path in [*sources(), *documents]:
        assert "emra-deploy[" not in path.read_text(encoding="utf-8"), path


def test_commands_that_install_are_made_in_one_place() -> None:
    for path in sources():
        if path.name == "extras.py":
            continue
        for text in strings(path):
            for command in re.findall(r"pip3? install ([^`;)]*)", text):
                assert command.startswith("-e '.["), f"{path}: write install_command or pip_install for: {text}"


def test_the_extras_of_remedies_exist_and_hold_what_is_missing() -> None:
    known = extras()
    counted = 0
    for path, call in calls("install_command"):
        counted += 1
        for extra in texts(call.args):
            assert extra in known, f"{path}: {extra}"
    for path, call in calls("script_imports"):
        counted += 1
        assert texts(call.args), path
        for extra in texts(call.args):
            assert extra in known, f"{path}: {extra}"
    for path, call in calls("need"):
        counted += 1
        if not isinstance(call.args[0], ast.Constant):
            continue
        extra, *modules = texts(call.args)
        assert extra in known, f"{path}: {extra}"
        for module in modules:
            wanted = DISTRIBUTIONS.get(module, module)
            assert re.search(rf"^{wanted}\b", known[extra], re.MULTILINE), f"{path}: {module} is not of {extra}"
    assert counted > 25


def test_tables_of_extras_name_extras() -> None:
    from benchmarks.candidates.open import _EXTRAS

    assert set(_EXTRAS.values()) <= set(extras())


def test_single_packages_are_known_ones() -> None:
    for name in ("pip_install", "pip_replace"):
        for path, call in calls(name):
            for word in texts(call.args):
                assert word.startswith("--") or re.split(r"[\[><=]", word)[0] in PACKAGES, f"{path}: {word}"


def test_debian_packages_are_known_ones() -> None:
    found = set()
    for path in sources():
        for text in strings(path):
            for command in re.findall(r"apt(?:-get)? install ((?:[a-z0-9.+-]+ ?)+)", text):
                found |= {word for word in command.split() if not word.startswith("-")}
    assert found
    assert found <= DEBIAN


def test_scripts_are_named_as_modules_that_a_wheel_holds() -> None:
    """``python export/check.py`` is no file where a wheel was installed; ``python -m export.check`` works in both."""
    for path in sources():
        for text in strings(path):
            if re.search(r"python3? (?:export|benchmarks|training)/", text):
                raise AssertionError(f"{path}: {text}")
            for module in re.findall(r"python3? -m ((?:export|benchmarks|training|emra_deploy)[\w.]*)", text):
                place = REPOSITORY / module.replace(".", "/")
                assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), f"{path}: {module}"


def test_every_requirement_applies_to_one_python_at_a_time() -> None:
    """The markers are of the few forms that `emra_deploy.host.extras` evaluates."""
    for text in extras().values():
        for line in text.split("\n"):
            _, _, marker = line.partition(";")
            assert not marker or re.fullmatch(
                r'python_version (<|>=) "3\.\d+"|sys_platform == "linux"', marker.strip()
            ), line
    for extra in extras():
        names = [re.split("[><=]", line)[0] for line in requirements(extra)]
        assert len(names) == len(set(names)), extra


def pip(command: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    words = words[words.index("install") :]
    line = [sys.executable, "-m", "pip", "install", "--dry-run", *more, *words[1:]]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("extra", sorted(extras()))
def test_pip_takes_the_command(extra: str) -> None:
    """Without a network, where all of it is installed; with ``EMRA_NETWORK=1``, by resolving it."""
    if os.environ.get("EMRA_NETWORK"):
        if extra == "tensorrt":
            pytest.skip("NVIDIA's own package downloads from the vendor's index")
        done = pip(install_command(extra))
        assert done.returncode == 0, done.stderr
        return
    done = pip(install_command(extra), "--no-index")
    if "No matching distribution" in done.stderr:
        pytest.skip(f"not all of it is installed here; EMRA_NETWORK=1 resolves it: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
