"""Dry run of a release: builds the sdist and the wheel in a clone, checks both, and prints the tag.

python -m tests.release [--output FOLDER]

Needs no network: setuptools builds, and the wheel runs with the libraries of this environment. RELEASING.md has the
steps around it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("emra_deploy", "export", "benchmarks", "training")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
TRY = (
    "import emra_deploy, sys\n"
    "for name in emra_deploy.__all__: getattr(emra_deploy, name)\n"
    "print(emra_deploy.__version__, emra_deploy.__file__)"
)


class ReleaseError(Exception):
    """A fault that must be fixed before the release."""


def run(*words: object, cwd: Path, **environment: str) -> str:
    """Stdout of a command.

    Raises:
        ReleaseError: The command failed.
    """
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, words[:3]))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def versions(repository: Path) -> dict[str, str]:
    """The version as each file states it."""
    patterns = {
        "emra_deploy/_version.py": r'^__version__ = "(.+)"$',
        "CMakeLists.txt": r"^project\(\w+ VERSION (\S+)",
        "CHANGELOG.md": r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$",
    }
    found = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, (repository / name).read_text(encoding="utf-8"), re.MULTILINE)
        if match is None:
            raise ReleaseError(f"{name} states no version")
        found[name] = match[1]
    return found


def one_version(repository: Path) -> str:
    """The version that all files agree on.

    Raises:
        ReleaseError: They differ.
    """
    found = versions(repository)
    if len(set(found.values())) != 1:
        raise ReleaseError(f"the files state different versions: {found}")
    return found["CHANGELOG.md"]


def unreleased(repository: Path) -> list[str]:
    """Entries of the changelog under "Unreleased"."""
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(r"^## Unreleased\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    if section is None:
        raise ReleaseError('CHANGELOG.md has no section "Unreleased" above the releases')
    return [line for line in section[1].splitlines() if line.strip() and not line.startswith("###")]


def check_tag(repository: Path, tag: str) -> None:
    """Refuse a tag that names another commit.

    Raises:
        ReleaseError: The tag exists and is not of HEAD.
    """
    if tag in run("git", "tag", "--list", cwd=repository).split():
        head, tagged = (run("git", "rev-list", "-n", 1, name, cwd=repository) for name in ("HEAD", tag))
        if head != tagged:
            raise ReleaseError(f"{tag} exists and names {tagged.strip()}; raise the version")


def build(clone: Path, output: Path) -> tuple[Path, Path]:
    """Build the sdist of a clone, and the wheel of that sdist."""
    output.mkdir(parents=True, exist_ok=True)
    sdist = output / run(sys.executable, "-c", BUILD, "build_sdist", output.resolve(), cwd=clone).splitlines()[-1]
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            # Our own archive, made a moment ago; the argument `filter` is not in every Python 3.10 and 3.11.
            archive.extractall(folder)
        [source] = Path(folder).iterdir()
        wheel = output / run(sys.executable, "-c", BUILD, "build_wheel", output.resolve(), cwd=source).splitlines()[-1]
    return sdist, wheel


def check_contents(clone: Path, wheel: Path) -> int:
    """Compare a wheel's files with the tracked files of the packages; benchmarks/results stays in the repository.

    Returns:
        The number of files.

    Raises:
        ReleaseError: Files are missing, superfluous or different.
    """
    names = run("git", "ls-files", *PACKAGES, cwd=clone).splitlines()
    wanted = {name for name in names if not name.startswith("benchmarks/results/")}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        if held != wanted:
            raise ReleaseError(f"missing: {sorted(wanted - held)}; superfluous: {sorted(held - wanted)}")
        different = [name for name in held if archive.read(name) != (clone / name).read_bytes()]
        if different:
            raise ReleaseError(f"not as tracked: {different}")
        if not any(name.endswith("licenses/LICENSE") for name in archive.namelist()):
            raise ReleaseError("the wheel has no LICENSE")
    return len(held)


def check_runs(wheel: Path, version: str) -> None:
    """Install a wheel into a folder, import every public name, and read the shipped model from it.

    Raises:
        ReleaseError: Something fails, or comes from elsewhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "installed")
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            place,
            wheel.resolve(),
            cwd=Path(folder),
        )
        seen, file = run(sys.executable, "-c", TRY, cwd=Path(folder), PYTHONPATH=str(place)).split()
        if seen != version or not Path(file).is_relative_to(place):
            raise ReleaseError(f"the wheel answers with version {seen} from {file}")
        run(sys.executable, "-m", "emra_deploy", "info", "--json", cwd=Path(folder), PYTHONPATH=str(place))


def dry_run(repository: Path, output: Path) -> str:
    """Check everything that a release promises.

    Returns:
        The tag.

    Raises:
        ReleaseError: What has to be mended.
    """
    version = one_version(repository)
    if entries := unreleased(repository):
        raise ReleaseError(f"move the {len(entries)} lines under Unreleased into the section of {version}")
    if changed := run("git", "status", "--porcelain", "--untracked-files=no", cwd=repository):
        raise ReleaseError(f"uncommitted changes:\n{changed}")
    check_tag(repository, f"v{version}")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        run("git", "clone", "--quiet", "--no-tags", repository, clone, cwd=Path(folder))
        sdist, wheel = build(clone, output)
        print(f"wrote {sdist}: {sdist.stat().st_size / 1e6:.1f} MB")
        print(f"wrote {wheel}: {wheel.stat().st_size / 1e6:.1f} MB, {check_contents(clone, wheel)} files as tracked")
    check_runs(wheel, version)
    print("the wheel imports, and reads the shipped model")
    return f"v{version}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 for a fault."""
    parser = argparse.ArgumentParser(description="Dry run of a release: build, check, print the tag.")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder of the archives (default: dist)")
    options = parser.parse_args(argv)
    try:
        tag = dry_run(REPOSITORY, options.output)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print("ready; after CI has passed on this commit:\n")
    print(f"    git tag -a {tag} -m 'emra-deploy {tag[1:]}' && git push origin {tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
