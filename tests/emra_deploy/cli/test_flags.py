"""Flags that are made of a dataclass: names, types, defaults and help come from one place."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field, fields
from typing import Any

import jsonargparse
import pytest

from emra_deploy.cli.flags import add_flags, read_flags
from emra_deploy.errors import EmraError
from emra_deploy.stream import StreamOptions


@dataclass(frozen=True)
class Options:
    """Options set by the flags.

    Attributes:
        max_age: Discard what is older than N seconds,
            or 5 % older.
        name: FFmpeg's name of it.
        fast: Hurry, by 5 %.
        pairs: A pair.
        order: What Python calls it.
        hidden: Only for Python.
        folder: Where to look.
    """

    max_age: float | None = None
    name: str = "x"
    fast: bool = False
    pairs: tuple[str, ...] = field(default=(), metadata={"flag": "--pair", "metavar": "A=B"})
    order: int | None = field(default=None, metadata={"flag": "--in-order", "value": 7, "help": "as a switch"})
    hidden: int = field(default=3, metadata={"flag": False})
    folder: str | os.PathLike[str] | None = field(default=None, metadata={"one_of": ("a", "b")})


def parser_of(options: type, library: Any = jsonargparse) -> Any:
    parser = library.ArgumentParser()
    add_flags(parser, options)
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Options()),
        (["--max-age", "1.5", "--name", "y", "--fast"], Options(max_age=1.5, name="y", fast=True)),
        (["--pair", "a=1", "--pair", "b=2"], Options(pairs=("a=1", "b=2"))),
        (["--in-order"], Options(order=7)),
        (["--folder", "a"], Options(folder="a")),
    ],
)
@pytest.mark.parametrize("library", [argparse, jsonargparse], ids=["argparse", "jsonargparse"])
def test_flags_make_the_dataclass(words: list[str], expected: Options, library: Any) -> None:
    assert read_flags(parser_of(Options, library).parse_args(words), Options) == expected


def test_the_help_is_the_docstring_s() -> None:
    text = " ".join(parser_of(Options).format_help().split())
    assert "--max-age N discard what is older than N seconds, or 5 % older (" in text
    assert "hurry, by 5 % (" in text
    assert "FFmpeg's name of it (type: str, default: x)" in text
    assert "--pair A=B" in text
    assert "--in-order as a switch" in text
    assert "where to look (one of a, b) (" in text
    assert "hidden" not in text


def test_what_the_dataclass_refuses_is_refused() -> None:
    with pytest.raises(EmraError, match="max_age"):
        read_flags(parser_of(StreamOptions).parse_args(["--max-age", "-1"]), StreamOptions)


def test_every_option_of_a_stream_is_a_flag_with_help() -> None:
    parser = parser_of(StreamOptions)
    helps = {action.option_strings[-1]: action.help for action in parser._actions if action.option_strings}
    for option in fields(StreamOptions):
        flag = option.metadata.get("flag", f"--{option.name.replace('_', '-')}")
        assert not flag or helps[flag]
