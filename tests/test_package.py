"""Promises of a fresh clone: the README's commands, the extras, the installed and the tracked files."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY

LARGEST = 12_000_000
"""Bytes of the largest file that may be tracked."""

EXTRAS = "runtime raster vector video openvino export quant autocast tensorrt cuda12 cuda13 rtx train report bench"
EXTRAS += " test dev docs"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PACKAGES = ("emra_deploy", "export", "benchmarks", "training")


def read_setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def readme_commands() -> list[str]:
    """Lines of the README's indented and fenced blocks that are commands, without their comments."""
    commands = []
    for line in (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines():
        words = line.strip().removeprefix("$ ").split("#")[0].strip()
        if line.startswith(("    ", "$ ")) and re.match(r"(make|emra|pip install|python(3|) (-m )?[a-z])", words):
            commands.append(words)
    return commands


def makefile_variable(name: str) -> str:
    done = dry_run("--print-data-base", "help")
    values = dict(re.findall(r"^([A-Z_]+) [:?]?= (.*)$", done.stdout, re.MULTILINE))
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], values[name])


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in done.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def dry_run(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    # --always-make: existing targets are included. Nothing is run.
    command = ["make", "--dry-run", "--always-make", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_make_demo_installs_the_runtime_alone() -> None:
    done = dry_run("demo", "INPUT=a picture.tif")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"\.\[([a-z0-9,]+)\]", done.stdout) == ["runtime,raster"]
    assert 'examples/demo.py "a picture.tif"' in done.stdout
    assert (REPOSITORY / "examples" / "demo.py").is_file()


def test_make_test_installs_everything_that_can_be_and_runs_the_tests() -> None:
    done = dry_run("test")
    assert done.returncode == 0, done.stderr
    installed = re.findall(r"\.\[([a-z0-9,]+)\]", done.stdout)
    # NVIDIA's own TensorRT is not on the package registry, one release of cuda-python excludes the other, and
    # ModelOpt is heavy, and no test needs it.
    left_out = {"tensorrt", "autocast", "cuda12", "cuda13"}
    assert [set(extras.split(",")) for extras in installed] == [set(EXTRAS.split()) - left_out]
    assert "-m tests.parts" in done.stdout
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize("target", ["demo", "test", "test-device"])
def test_what_is_installed_is_locked(target: str) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    done = dry_run(target, f"PYTHON={sys.executable}")
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert len(installs) == 2
    for line in installs:
        assert f"--constraint requirements/python-{version}.txt" in line
    # The build tools are locked as well, so nothing is fetched to build with.
    assert "setuptools" in installs[0]
    assert "--no-build-isolation" in installs[1]


def test_the_newest_are_not_locked() -> None:
    done = dry_run("test-latest", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert "pip install" in done.stdout
    assert "--constraint" not in done.stdout


def pinned(name: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", [f"python-{version}.txt" for version in PYTHONS] + ["jetpack-6.txt", "jetpack-7.txt"])
def test_the_locked_versions_are_those_that_setup_cfg_admits(name: str) -> None:
    """A bound that was raised without `make lock` is found here."""
    pins = pinned(name)
    version = {"jetpack-6.txt": "3.10", "jetpack-7.txt": "3.12"}.get(name, name[len("python-") : -len(".txt")])
    environment = {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}
    setup = read_setup()
    extras = set(re.findall(r"[a-z0-9]+", makefile_variable("JETPACK_EXTRAS" if "jetpack" in name else "TEST_EXTRAS")))
    groups = {extra: setup["options.extras_require"][extra] for extra in extras}
    groups["base"] = setup["options"]["install_requires"]
    for group in groups.values():
        for line in group.splitlines():
            text = line.split("#")[0].strip()
            requirement = Requirement(text) if text else None
            if requirement and (requirement.marker is None or requirement.marker.evaluate(environment)):
                assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_table_of_versions_is_what_is_locked() -> None:
    names = [f"python-{version}.txt" for version in PYTHONS] + ["jetpack-6.txt", "jetpack-7.txt"]
    rows = re.findall(
        r"^\| ([a-z-]+) \|((?: [\w.]* \|){6})$", (REPOSITORY / "docs" / "install.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 10
    for library, cells in rows:
        assert [cell.strip() for cell in cells.split("|")[:-1]] == [pinned(name).get(library, "") for name in names]


def test_every_locked_python_is_declared() -> None:
    setup = read_setup()
    for version in PYTHONS:
        assert f"Programming Language :: Python :: {version}" in setup["metadata"]["classifiers"]
        assert (REPOSITORY / "requirements" / f"python-{version}.txt").is_file()
    assert set(makefile_variable("PYTHONS").split()) == set(PYTHONS)


def test_the_extras_are_those_promised() -> None:
    extras = read_setup()["options.extras_require"]
    assert list(extras) == EXTRAS.split()
    base = read_setup()["options"]["install_requires"].split()
    assert {re.split("[><=]", line)[0] for line in base} == {"numpy", "pillow", "rich", "jsonargparse"}
    assert "torch" not in extras["runtime"] + extras["raster"] + extras["rtx"]


def test_the_readmes_commands_name_what_exists() -> None:
    commands = readme_commands()
    assert {"make demo", "make test"} <= set(commands)
    extras = set(EXTRAS.split())
    for command in commands:
        if command.startswith("make"):
            assert dry_run(*command.split()[1:]).returncode == 0, command
        elif command.startswith("pip install"):
            named = re.findall(r"\[([a-z0-9,]+)\]", command)
            assert {extra for group in named for extra in group.split(",")} <= extras, command
        elif script := re.match(r"python3? (\w+(?:/\w+)*\.py)", command):
            assert (REPOSITORY / script[1]).is_file(), command
        for config in re.findall(r"--config (\S+)", command):
            assert (REPOSITORY / config).is_file(), command


def helpful(command: str) -> list[str] | None:
    """The command that prints the help of a README's command."""
    words = command.split()
    if words[0] == "emra":
        return [sys.executable, "-m", "emra_deploy", words[1], "--help"]
    if words[0].startswith("python"):
        return [sys.executable, *words[1 : 3 if words[1] == "-m" else 2], "--help"]
    return None


@pytest.mark.slow
def test_the_readmes_options_are_in_the_help() -> None:
    helps: dict[tuple[str, ...], str] = {}
    for command in readme_commands():
        asked = helpful(command)
        if asked is None:
            continue
        if tuple(asked) not in helps:
            done = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, f"{asked}: {done.stderr}"
            helps[tuple(asked)] = done.stdout
        for option in re.findall(r" (--[a-z][a-z._-]*)", command):
            assert re.search(rf"{re.escape(option)}\b", helps[tuple(asked)]), f"{option} of: {command}"
    assert len(helps) >= 4


def test_the_documents_link_to_files_that_exist() -> None:
    for document in [path for path in tracked() if path.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (document.parent / target).exists(), f"{target} in {document.name}"


def test_every_file_of_a_package_is_installed() -> None:
    patterns = {name: value.split() for name, value in read_setup()["options.package_data"].items()}
    included = read_setup()["options.packages.find"]["include"].split()
    for path in tracked():
        package, *rest = path.relative_to(REPOSITORY).parts
        if package not in PACKAGES:
            continue
        assert any(fnmatch(package, pattern) for pattern in included)
        if package == "benchmarks" and rest[0] == "results":
            continue  # evidence, read in the repository
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").is_file(), f"{path} is in no package"
        else:
            inside = "/".join(rest)
            assert any(fnmatch(inside, pattern) for pattern in patterns[package]), f"{path} is no package data"
    # The pattern under which the shipped model is found.
    assert "models/*.onnx" in patterns["emra_deploy"]


def test_no_tracked_file_is_large() -> None:
    large = {path.name: path.stat().st_size for path in tracked() if path.stat().st_size > LARGEST}
    assert large == {}
