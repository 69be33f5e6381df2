"""Flags of the command line made of a frozen dataclass: one attribute, one flag, its documentation the help."""

from __future__ import annotations

import inspect
import re
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

T = TypeVar("T")


def add_flags(parser: ArgumentParser, options: type) -> None:
    """Declare a flag for each attribute of a dataclass.

    The flag's name is the attribute's, its type and default too, and its help is the attribute's text in the
    docstring. Booleans are switches; a tuple of texts is a flag that may be repeated. ``field(metadata=...)`` may say
    otherwise: ``flag`` is another name, or None for no flag; ``value`` makes a switch that sets this value; ``help``
    and ``metavar`` are those of argparse.

    Args:
        parser: Gets the flags.
        options: The dataclass. Every attribute has a default.
    """
    types, texts = get_type_hints(options), _texts(options)
    for field in fields(options):
        flag, settings = _flag(field), dict(field.metadata)
        if flag is None:
            continue
        kind = types[field.name]
        wanted: dict[str, Any] = {"help": settings.get("help", texts.get(field.name))}
        if "value" in settings or kind is bool:
            wanted["action"] = "store_true"
        elif isinstance(field.default, tuple):
            wanted |= {"type": str, "action": "append", "metavar": settings.get("metavar")}
        else:
            wanted |= {"type": kind, "default": field.default}
            wanted["metavar"] = settings.get("metavar", None if kind is str else "N")
        parser.add_argument(flag, **wanted)


def read_flags(parsed: Namespace, options: type[T]) -> T:
    """The dataclass that the flags of `add_flags` describe.

    Raises:
        EmraError: What the dataclass refuses.
    """
    values = {}
    for field in fields(options):  # type: ignore[arg-type]
        flag = _flag(field)
        if flag is None:
            continue
        value = parsed[flag.removeprefix("--").replace("-", "_")]
        if "value" in field.metadata:
            value = field.metadata["value"] if value else field.default
        elif isinstance(field.default, tuple):
            value = tuple(value or ())
        values[field.name] = value
    return options(**values)


def _flag(field: Field[Any]) -> str | None:
    flag: str | None = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
    return flag


def _texts(options: type) -> dict[str, str]:
    """The attributes' texts in the docstring; empty where Python was told to drop docstrings."""
    _, _, described = (inspect.getdoc(options) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", described.partition("\n\n")[0], re.MULTILINE)
    return {name: _as_help(" ".join(text.split())) for name, text in found}


def _as_help(text: str) -> str:
    """A sentence as argparse's own help: lower case unless it starts with a name, no full stop, no back-ticks."""
    start = text[:1].lower() if text[1:2].islower() else text[:1]
    return (start + text[1:]).removesuffix(".").replace("`", "")
