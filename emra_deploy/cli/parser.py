"""The parser of ``emra`` and of training, whose help and messages speak of flags and words, not of Python."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_KINDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}


class Help(DefaultHelpFormatter):
    """Names defaults where there are any and the text does not, in words of the command line."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not action.option_strings or isinstance(action, argparse._HelpAction | argparse._VersionAction):
            return text
        if action.required:
            return f"{text} (required)"
        default = action.default
        if default is None or default is False or default in (argparse.SUPPRESS, "") or "default" in text.lower():
            return text
        shown = f"[{', '.join(map(str, default))}]" if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {shown.lower() if default is True else shown})".lstrip().replace("%", "%%")


class Parser(ArgumentParser):
    """jsonargparse's parser, with `Help`, and errors that name flags as they are typed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Help, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with a message, the keys and types in it as the user knows them."""
        needed = "the following arguments are required: "
        if message.startswith(needed):
            message = needed + ", ".join(self._typed(key) for key in message.removeprefix(needed).split(", "))
        wrong = re.fullmatch(
            r"Parser key \"([^\"]+)\"(?: element \d+)?:\s+Expected an? <class '(\w+)'>\. Got value: (.*)",
            message,
            re.S,
        )
        if wrong is not None:
            key, kind, value = wrong.groups()
            message = f"{self._typed(key)}: expected {_KINDS.get(kind, kind)}, got {value.strip()!r}"
        super().error(re.sub(r'^Parser key "([\w.]+)"', lambda key: self._typed(key.group(1)), message), ex)

    def _typed(self, key: str) -> str:
        """A key of the parser or of one of its verbs, as its user types it."""
        verbs = [
            parser for action in self._actions for parser in (getattr(action, "_name_parser_map", None) or {}).values()
        ]
        for parser in (self, *verbs):
            for action in parser._actions:
                if action.dest in (key, key.partition(".")[2]):
                    return str(action.option_strings[0]) if action.option_strings else action.dest
        return key
