"""Sources of data sets, the same in the command and the document; and the generated data set that a clone can make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from training.data import KINDS, open_dataset, summarise
from training.data.public import PUBLIC
from training.data.scenes import DUBAI_CLASSES, generate


def run(*words: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.data", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=cwd)


def test_the_document_holds_what_the_command_prints() -> None:
    text = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    everything = run("fetch-help")
    assert everything.returncode == 0
    for data in PUBLIC:
        done = run("fetch-help", data.kind)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() in everything.stdout
        shown = "".join(f"    {line}\n" for line in done.stdout.splitlines())
        assert f"## {data.kind}\n\n    $ python -m training.data fetch-help {data.kind}\n{shown}" in text


def test_every_kind_is_reported_with_page_and_licence() -> None:
    assert {data.kind for data in PUBLIC} == set(KINDS) - {"auto"}
    for data in PUBLIC:
        assert data.licence
        assert data.page.startswith("https://") or data.kind == "folder"
        assert any(data.root in line for line in data.layout)


def test_an_unknown_name_is_refused() -> None:
    done = run("fetch-help", "nothing")
    assert done.returncode == 2
    assert "dubai" in done.stderr


def test_a_missing_folder_says_how_to_get_the_data(tmp_path: Path) -> None:
    done = run("dubai", tmp_path / "nothing")
    assert done.returncode == 2
    assert "python -m training.data fetch-help" in done.stderr


def test_a_generated_set_is_read_as_it_was_made(tmp_path: Path) -> None:
    done = run("generate", tmp_path / "new" / "set", "--train", 2, "--val", 1, "--side", 64, "--seed", 7)
    assert (done.returncode, done.stderr) == (0, "")
    for split, seeds in (("train", (7, 8)), ("val", (9,))):
        data = open_dataset("auto", tmp_path / "new" / "set", split)
        assert (data.classes, data.gsd) == (DUBAI_CLASSES, 1.5)
        assert not summarise(data).problems
        for tile, seed in zip(data.tiles, seeds, strict=True):
            scene = generate(seed, 64, 64)
            np.testing.assert_array_equal(tile.read_image(), scene.image)
            np.testing.assert_array_equal(tile.read_labels(), scene.labels)
    again = run("generate", tmp_path / "new" / "set")
    assert again.returncode == 2
    assert "[output-exists]" in again.stderr


@pytest.mark.parametrize("words", [("--train", 0), ("--side", 8)])
def test_what_cannot_be_generated_is_refused(tmp_path: Path, words: tuple[object, ...]) -> None:
    done = run("generate", tmp_path / "set", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "set" / "classes.yaml").exists()
