"""Plain engineering English: docstrings open with what an object is or does, and no text uses the words below.

`NOT_YET` shrinks until it is empty.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TREES = (
    ".github",
    "Makefile",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "RELEASING.md",
    "SECURITY.md",
    "benchmarks",
    "cmake",
    "docker",
    "docs",
    "emra_deploy",
    "examples",
    "export",
    "plugin",
    "tests",
    "training",
)
"""Folders and files with text of the project."""

NOT_YET = (
    "emra_deploy/maps",
    "emra_deploy/pictures",
    "emra_deploy/segmenting/overlay.py",
    "emra_deploy/stream",
    "training/losses.py",
    "training/model",
)
"""Within `TREES`, text that is not revised yet."""

SUFFIXES = {".c", ".cpp", ".cu", ".cuh", ".h", ".md", ".py", ".txt", ".yaml", ".yml"}

OPENERS = re.compile(r"(What|How|As|See|Where|Which|Who|Whoever|Whatever|That)\b")
"""A docstring names the object or its action instead."""

WORDS = {
    "told": "reported",
    "diary": "journal",
    "sureness": "confidence",
    "bars": "limits, or progress bars",
    "judge": "acceptance",
    "judges": "accepts, evaluates",
    "judged": "accepted, evaluated",
    "for who": "for users who",
    "whoever": "anyone who, or a passive",
    "is had": "is available",
    "are had": "are available",
    "is then for those who": "must be selected by name",
    "gone on with": "resumed",
    "goes on where": "resumes",
    "going on where": "resuming",
    "that is none": "that is invalid or missing",
    "in the place of": "instead of",
}
"""Words of a private dialect, and what a reader of the field expects."""

# A progress bar is a term of the field.
PATTERN = re.compile(
    "|".join(rf"(?<![A-Za-z])(?<!progress[ _]){re.escape(word)}(?![A-Za-z])" for word in WORDS), re.IGNORECASE
)


def files() -> list[Path]:
    found = []
    for name in TREES:
        place = REPOSITORY / name
        assert place.exists(), name
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        found += [path for path in inside if path.suffix in SUFFIXES or path.name == "Makefile"]
    # This file lists the words.
    left_out = [REPOSITORY / name for name in (*NOT_YET, "tests/test_language.py")]
    return [path for path in found if not any(path == other or other in path.parents for other in left_out)]


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text


FILES = files()


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(REPOSITORY)) for path in FILES])
def test_the_text_is_plain(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # A word of the dialect may be split by the end of a line.
    flat = re.sub(r"\s*\n\s*(?:[#*/|>-]+ )?", " ", text)
    found = [f"{match[0]!r}: write {WORDS[match[0].lower()]}" for match in PATTERN.finditer(flat)]
    if path.suffix == ".py":
        opened = ((name, text.splitlines()[0]) for name, text in docstrings(text))
        found += [f"{name} opens with {first!r}" for name, first in opened if OPENERS.match(first)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("word", WORDS)
def test_the_check_finds_each_word(word: str) -> None:
    assert PATTERN.search(f"The cost {word} beforehand.")
    assert not PATTERN.search(f"x{word}x")


def test_the_check_finds_openers() -> None:
    source = 'def f():\n    """What a run is."""\n\n\ndef g():\n    """A run."""\n'
    assert [name for name, text in docstrings(source) if OPENERS.match(text)] == ["f"]
