"""The wrapper of every ``main``: one line and a status."""

from __future__ import annotations

import ast

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.host.command import BAD_INPUT, INTERRUPTED, command
from tests.conftest import REPOSITORY

OTHERWISE = {
    "emra_deploy/cli/main.py": "with --json the error is printed as JSON, too",
    "training/data/__main__.py": "with --json the error is printed as JSON, too; no word before the message",
    "training/model/__main__.py": "no word before the message",
    "training/train.py": "errors of the recipe's parser end the same way, on one line",
    "examples/demo.py": "its own name before the message",
    "examples/drone_pipeline.py": "an example of how to do without",
}
"""Commands that end in another way than the wrapper's."""


def test_a_status_is_handed_on() -> None:
    assert [command()(lambda status: status)(status) for status in (0, 1, 130)] == [0, 1, 130]


def test_an_error_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    @command()
    def main() -> int:
        """Fail as commands do."""
        raise EmraError("image-empty", "the file has no bytes", "Copy it again", "a.png")

    assert main() == BAD_INPUT == 2
    assert capsys.readouterr() == ("", "error: a.png: the file has no bytes. Copy it again. [image-empty]\n")
    assert (main.__name__, main.__doc__) == ("main", "Fail as commands do.")


def test_an_interrupted_command_says_what_it_left(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise KeyboardInterrupt

    assert command("stopped; nothing was written")(main)() == INTERRUPTED == 130
    assert capsys.readouterr().err == "stopped; nothing was written\n"
    with pytest.raises(KeyboardInterrupt):
        command()(main)()


def test_bugs_keep_their_traceback() -> None:
    def main() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        command("stopped")(main)()


def test_no_command_prints_its_errors_by_itself() -> None:
    found = set()
    for package in ("emra_deploy", "training", "export", "benchmarks", "examples"):
        for path in (REPOSITORY / package).rglob("*.py"):
            handlers = [
                n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ExceptHandler)
            ]
            for text in (ast.unparse(handler) for handler in handlers):
                caught, _, done = text.partition("\n")
                if "EmraError" in caught and any(word in done for word in ("stderr", "_refuse", "sys.exit")):
                    found.add(path.relative_to(REPOSITORY).as_posix())
    assert found - {"emra_deploy/host/command.py"} == OTHERWISE.keys()
