"""Every promised machine gets binary wheels of everything that it may install.

The package registry is asked, so the tests run by ``make test-platforms``, where a registry that does not answer is a
failure; elsewhere they skip. What can be checked without it always runs.
"""

from __future__ import annotations

import os
import re

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.platforms.resolving import (
    CUDA,
    JETPACK_6,
    JETPACK_7,
    NOT_ON_DEVICES,
    PLATFORMS,
    REPOSITORY,
    SHOWN,
    Platform,
    read_extras,
    requirements_of,
    resolve,
    versions,
)

LOCKS = REPOSITORY / "requirements"
EACH = pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)


@pytest.fixture
def registry() -> None:
    if not os.environ.get("EMRA_PLATFORMS"):
        pytest.skip("asks the package registry: run make test-platforms, or set EMRA_PLATFORMS=1")


def test_each_extra_is_for_devices_or_says_why_not() -> None:
    assert set(NOT_ON_DEVICES) <= set(read_extras())
    assert set(JETPACK_6.extras()) | {"cuda13"} == set(JETPACK_7.extras()) | {"cuda12"}
    assert set(read_extras()) == set(JETPACK_6.extras()) | set(NOT_ON_DEVICES) | CUDA


@EACH
def test_a_lock_holds_what_its_platform_asks_for(platform: Platform) -> None:
    locked = versions((LOCKS / platform.lock).read_text(encoding="utf-8"))
    assert len(locked) > 20
    environment = {"python_version": platform.python, "sys_platform": "linux"}
    # A file for a Jetson is not for the runtime's tests; a desktop's driver decides on its cuda-python.
    left_out = {"test"} if platform.cuda else CUDA
    for line in requirements_of(extra for extra in platform.extras() if extra not in left_out):
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate(environment):
            release = locked.get(canonicalize_name(asked.name))
            assert release is not None, f"requirements/{platform.lock} has no {asked.name}"
            assert SpecifierSet(str(asked.specifier), prereleases=True).contains(release), line


def test_the_page_has_the_locked_versions() -> None:
    page = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", page, re.MULTILINE)]
    at = next(number for number, row in enumerate(rows) if row[0] == "library")
    locked = [versions((LOCKS / each.lock).read_text(encoding="utf-8")) for each in PLATFORMS]
    shown = {row[0]: row[1:] for row in rows[at + 2 :] if len(row) == len(PLATFORMS) + 1}
    assert len(shown) >= 10
    for library, cells in shown.items():
        assert cells == [releases.get(library, "") for releases in locked], library


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("extra", [None, *sorted({extra for each in PLATFORMS for extra in each.extras()})])
@EACH
def test_an_extra_resolves_to_wheels(platform: Platform, extra: str | None) -> None:
    if extra is not None and extra not in platform.extras():
        pytest.skip(f"{platform.name} takes {platform.cuda}")
    done = resolve(platform, [extra] if extra else [])
    assert done.returncode == 0, done.stderr
    found = versions(done.stdout)
    assert "numpy" in found
    if extra == "cuda12" and platform is JETPACK_6:
        assert found["cuda-python"].startswith("12.6.")
    if extra == "cuda13":
        assert found["cuda-python"].startswith("13.0.")


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
@EACH
def test_the_locked_releases_have_wheels(platform: Platform) -> None:
    extras = [extra for extra in platform.extras() if extra not in CUDA or extra == platform.cuda]
    done = resolve(platform, extras, LOCKS / platform.lock)
    assert done.returncode == 0, done.stderr
    locked = versions((LOCKS / platform.lock).read_text(encoding="utf-8"))
    got = versions(done.stdout)
    assert {library: got[library] for library in SHOWN if library in locked and library in got} == {
        library: locked[library] for library in SHOWN if library in locked and library in got
    }


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
def test_what_has_no_wheel_is_seen() -> None:
    # OpenVINO's wheels for aarch64 need glibc 2.35, and JetPack 7's releases a newer Python than 3.10.
    old_system = Platform("glibc 2.31", "3.10", "aarch64-manylinux_2_31", "jetpack-6.txt")
    for platform, extra, lock in ((old_system, "openvino", JETPACK_6.lock), (JETPACK_6, "runtime", JETPACK_7.lock)):
        done = resolve(platform, [extra], LOCKS / lock)
        assert done.returncode != 0
        assert "unsatisfiable" in done.stderr
