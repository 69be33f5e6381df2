"""A release has one version, one changelog section and one tag, and its archive contains the tracked files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emra_deploy import __version__
from tests import release
from tests.conftest import REPOSITORY


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A repository of the three files that state the version."""
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    folder = tmp_path / "house"
    for name in release.versions(REPOSITORY):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    git(folder.parent, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "First")
    return folder


def test_all_files_state_one_version() -> None:
    assert set(release.versions(REPOSITORY).values()) == {__version__}


def test_releases_are_in_order_and_each_is_named_once() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    numbers = [tuple(map(int, heading.split(" - ")[0].split("."))) for heading in headings[1:]]
    assert numbers == sorted(set(numbers), reverse=True)
    assert numbers[-1] == (0, 2, 0), "the first release"


def test_every_tag_is_a_release() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    for tag in git(REPOSITORY, "tag", "--list", "v*").split():
        assert f"\n## {tag[1:]} - " in text, tag


def test_different_versions_are_refused(house: Path) -> None:
    (house / "CMakeLists.txt").write_text("project(emra_plugins VERSION 0.0.9 LANGUAGES CXX)\n")
    with pytest.raises(release.ReleaseError, match=r"CMakeLists\.txt': '0\.0\.9'"):
        release.one_version(house)


def test_lines_left_under_unreleased_are_refused(house: Path) -> None:
    changelog = house / "CHANGELOG.md"
    text = re.sub(r"(?s)## Unreleased.*?(?=\n## )", "## Unreleased\n\n### Added\n\n- A thing.\n", changelog.read_text())
    changelog.write_text(text)
    with pytest.raises(release.ReleaseError, match="1 lines under Unreleased"):
        release.dry_run(house, house / "dist")


def test_a_tag_of_another_commit_is_refused(house: Path) -> None:
    tag = f"v{__version__}"
    git(house, "tag", tag)
    release.check_tag(house, tag)
    git(house, "commit", "-q", "--allow-empty", "-m", "Second")
    with pytest.raises(release.ReleaseError, match="raise the version"):
        release.check_tag(house, tag)


@pytest.mark.slow
def test_a_clone_builds_what_is_tracked(tmp_path: Path) -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    pytest.importorskip("setuptools")
    pytest.importorskip("onnxruntime")
    # Without tags: the release that is tried may have been tagged, and commits follow it.
    git(tmp_path, "clone", "-q", "--no-tags", str(REPOSITORY), "clone")
    changelog = tmp_path / "clone" / "CHANGELOG.md"
    changelog.write_text(re.sub(r"(?s)## Unreleased.*?(?=\n## )", "## Unreleased\n", changelog.read_text()))
    git(tmp_path / "clone", "commit", "-q", "--allow-empty", "-am", "Empty what is unreleased")
    command = [sys.executable, "-m", "tests.release", "--output", str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=tmp_path / "clone", capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"git tag -a v{__version__} " in done.stdout
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == [
        f"emra_deploy-{__version__}-py3-none-any.whl",
        f"emra_deploy-{__version__}.tar.gz",
    ]
