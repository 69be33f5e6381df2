"""Import rules: packages in one direction, no cycle of files, no two rooms that need each other."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("emra_deploy", "training", "export", "benchmarks")
"""Each may import those before it."""

MOST = 14
"""Rooms on a package's first level, folders and single files alike. Where there are more, a folder is missing."""


def modules() -> dict[str, str]:
    """Name and source of each module; a package goes by its own name."""
    found = {}
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def imports() -> dict[str, set[str]]:
    """For each module those that it imports, also in functions and for the type checker."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, source in known.items():
        wanted = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted |= {name if name in known else node.module for name in full}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
        found[name] = wanted & known.keys() - {name}
    return found


def room(module: str) -> str:
    """The folder or file of a package's first level that a module is in."""
    return ".".join(module.split(".")[:2])


def test_packages_import_in_one_direction() -> None:
    for module, wanted in imports().items():
        rank = PACKAGES.index(module.split(".")[0])
        upward = {name for name in wanted if PACKAGES.index(name.split(".")[0]) > rank}
        assert not upward, f"{module} imports {', '.join(sorted(upward))}"


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        tuple(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_rooms_need_each_other(package: str) -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, wanted in imports().items():
        if module.startswith(f"{package}."):
            arrows[room(module)] |= {room(name) for name in wanted if name.startswith(f"{package}.")} - {room(module)}
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"circle of rooms: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", ["emra_deploy", "export"])
def test_a_package_has_few_rooms(package: str) -> None:
    rooms = {room(module) for module in modules() if module.startswith(f"{package}.")}
    assert len(rooms) <= MOST, sorted(rooms)
