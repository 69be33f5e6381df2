"""`make test` runs every part, counts what happened, and fails if one failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import parts

BODIES = {
    "good": "def test_a(): pass\ndef test_b(): pass\n",
    "bad": "import pytest\ndef test_a(): assert False\ndef test_b(): pass\ndef test_c(): pytest.skip('no')\n",
    "broken": "import nothing_of_that_name\n",
    "crash": "import os, signal\ndef test_a(): pass\ndef test_b(): os.kill(os.getpid(), signal.SIGSEGV)\n",
    "empty": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, body in BODIES.items():
        (tmp_path / f"test_{name}.py").write_text(body)
    monkeypatch.setattr(parts, "REPOSITORY", tmp_path)
    monkeypatch.setattr(parts, "TESTS", {name: (f"test_{name}.py",) for name in BODIES})
    return tmp_path


@pytest.mark.parametrize(
    ("part", "counts", "note"),
    [
        ("good", (2, 0, 0), ""),
        ("bad", (1, 1, 1), ""),
        ("broken", (0, 2, 0), "exit status 2"),
        ("crash", (0, 1, 0), "ended by SIGSEGV"),
        ("empty", (0, 1, 0), "exit status 5"),
    ],
)
def test_each_end_is_counted(folder: Path, part: str, counts: tuple[int, int, int], note: str) -> None:
    outcome = parts.run_tests(part, ["-p", "no:cacheprovider"])
    assert ((outcome.passed, outcome.failed, outcome.skipped), outcome.note) == (counts, note)


def test_a_part_that_fails_hides_no_other(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert parts.main(["--only", "crash", "bad", "good", "-p", "no:cacheprovider"]) == 1
    assert capfd.readouterr().out.splitlines()[-1] == "3 passed, 2 failed, 1 skipped"
    assert parts.main(["--only", "good", "-p", "no:cacheprovider"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "2 passed, 0 failed, 0 skipped"


def test_a_command_that_fails_is_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "COMMANDS", {"good": (("this",),), "bad": (("no_module_of_this_name",), ("this",))})
    assert (parts.run_commands("good").passed, parts.run_commands("good").failed) == (1, 0)
    bad = parts.run_commands("bad")
    assert (bad.passed, bad.failed, bad.note) == (0, 1, "no_module_of_this_name: exit status 1")


def test_all_tests_run_by_default() -> None:
    assert parts.DEFAULT == ("style", "types", "tests")
    assert parts.TESTS["tests"] == ("tests",)
