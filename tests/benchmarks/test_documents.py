"""The commands that README and docs promise are commands that exist, on files that exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from typing import Any

import pytest

from tests.conftest import REPOSITORY

DOCUMENTS = ("README.md", "docs/benchmarks.md", "docs/plugin.md")
SHOWN = re.compile(r"^ {4,}(?:- run: )?python benchmarks/(?P<name>\w+)\.py(?P<words>[^\n]*)$", re.MULTILINE)


def commands() -> list[tuple[str, str, list[str]]]:
    found = []
    for document in DOCUMENTS:
        text = (REPOSITORY / document).read_text(encoding="utf-8").replace("\\\n", " ")
        for match in SHOWN.finditer(text):
            words = shlex.split(match["words"].split("&&")[0], comments=True)
            found.append((document, match["name"], words))
    return found


def test_there_are_commands() -> None:
    assert {"latency", "memory", "roofline", "report", "compare", "gpu_suite"} <= {name for _, name, _ in commands()}


class ParsedError(Exception):
    """Instead of running the command."""


@pytest.mark.parametrize(("document", "name", "words"), commands())
def test_a_shown_command_is_one(document: str, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        parse(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(ParsedError):
        importlib.import_module(f"benchmarks.{name}").main(words)
    for word in words:
        if word.endswith(".onnx") and "/" in word:
            assert (REPOSITORY / word).is_file(), f"{document}: {word}"
