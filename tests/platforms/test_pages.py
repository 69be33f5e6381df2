"""The pages on Jetsons and containers agree with the code: pins, extras, options, and the doctor's output."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from emra_deploy.cli.main import VERBS, build_parser
from emra_deploy.host.machine import jetpack_note, jetpack_of_release
from tests.platforms.resolving import JETPACK_6, JETPACK_7, REPOSITORY, read_extras, versions
from tests.platforms.test_images import IMAGES, argument

JETSON, CONTAINERS = (
    (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("jetpack", "containers")
)


def commands(page: str, start: str) -> list[list[str]]:
    """Words of the page's indented commands that begin with some word, continued lines joined."""
    text = page.replace("\\\n", " ")
    lines = re.findall(rf"^    ({start} .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def row(page: str, label: str) -> list[str]:
    """Cells of a table's row, without its first."""
    found = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", page, re.MULTILINE)
    assert found is not None, label
    return [cell.strip() for cell in found[1].split("|")]


def test_what_the_page_installs_is_the_lock_of_its_jetpack() -> None:
    installs = commands(JETSON, "pip install")
    assert [words[3].removeprefix("requirements/") for words in installs] == [JETPACK_6.lock, JETPACK_7.lock]
    for words, platform in zip(installs, (JETPACK_6, JETPACK_7), strict=True):
        extras = words[-1].removeprefix(".[").removesuffix("]").split(",")
        assert set(extras) <= set(platform.extras())
        assert platform.cuda in extras


def test_the_pins_are_those_of_the_locks() -> None:
    six, seven = (
        versions((REPOSITORY / "requirements" / each.lock).read_text(encoding="utf-8"))
        for each in (JETPACK_6, JETPACK_7)
    )
    assert row(JETSON, "cuda-python") == [six["cuda-python"], seven["cuda-python"], seven["cuda-python"]]
    assert row(JETSON, "`cuda-python`") == [f"{six['cuda-python']}, green", f"{seven['cuda-python']}, green"]
    assert row(JETSON, "`onnxruntime`") == [six["onnxruntime"], seven["onnxruntime"]]
    assert row(JETSON, "extra for GPU memory")[:2] == ["`cuda12`", "`cuda13`"]


def test_the_page_has_the_doctors_words() -> None:
    assert row(JETSON, "`jetson note`")[0] == jetpack_note("6.2")
    for release in ("36.4.3", "38.2.0"):
        assert f"JetPack {jetpack_of_release(release)} (Jetson Linux {release})" in JETSON
    assert jetpack_note("7.0") is None


@pytest.mark.parametrize("script", sorted({words[1] for words in commands(JETSON, "python")}))
def test_the_scripts_have_the_options(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for words in commands(JETSON, "python"):
        if words[1] == script:
            for option in (word for word in words if word.startswith("--")):
                assert re.search(rf"{option}\b", done.stdout), option


def test_emra_takes_the_commands() -> None:
    used = commands(JETSON, "emra")
    assert {words[1] for words in used} <= set(VERBS)
    for words in used:
        build_parser().parse_args(words[1:])
    for words in commands(CONTAINERS, "docker run"):
        after = words[next(at for at, word in enumerate(words) if word.startswith("emra-deploy:")) + 1 :]
        if after and after[0] in VERBS:
            build_parser().parse_args(after)


@pytest.mark.parametrize("kind", IMAGES)
def test_the_table_of_images_is_of_their_files(kind: str) -> None:
    assert row(CONTAINERS, f"`Dockerfile.{kind}`")[-1] == f"`{argument(kind, 'EXTRAS')}`"
    assert kind == "runtime" or f"make image KIND={kind}" in CONTAINERS


def test_every_extra_in_the_pages_exists() -> None:
    named = re.findall(r"EXTRAS=([a-z0-9,]+)", CONTAINERS)
    assert named
    assert {extra for extras in named for extra in extras.split(",")} <= set(read_extras())
