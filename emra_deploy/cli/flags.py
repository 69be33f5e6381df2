"""Command-line flags generated from a frozen dataclass: one flag per attribute, its docstring entry as help."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

_NUMBERS = {"int": int, "float": float}

T = TypeVar("T")


def add_flags(parser: Any, options: type) -> None:
    """Declare a flag for each attribute of a dataclass.

    Name, type and default are those of the attribute; the help is the attribute's text in the docstring. Booleans are
    switches; a tuple of strings is a flag that may be repeated; an attribute without a default is a required flag.
    ``field(metadata=...)`` overrides this:

    - ``flag``: another name, or False for no flag; ``short``: one more name, such as ``-o``;
    - ``positional``: True for an argument without a flag;
    - ``value``: makes a switch that sets this value;
    - ``parse``: converts the parser's value to the attribute's; ``nargs`` and ``type`` describe the parser's value;
    - ``one_of``: the values that the help lists; ``help`` and ``metavar`` are those of argparse.

    Args:
        parser: An ``ArgumentParser`` of argparse or jsonargparse.
        options: The dataclass, from a module with postponed annotations.
    """
    texts = help_texts(options)
    for field in _flagged(options):
        settings = field.metadata
        text = settings.get("help", texts.get(field.name, ""))
        wanted: dict[str, Any] = {"help": text + _choices(settings.get("one_of"))}
        wanted |= {name: settings[name] for name in ("metavar", "nargs") if name in settings}
        kind = settings.get("type", _kind(field))
        if settings.get("positional"):
            parser.add_argument(field.name, type=kind, **wanted)
            continue
        if "value" in settings or kind is bool:
            wanted["action"] = "store_true"
        elif isinstance(field.default, tuple):
            wanted |= {"type": str, "action": "append"}
        elif field.default is MISSING:
            wanted |= {"type": kind, "required": True}
        else:
            wanted |= {"type": kind, "default": field.default}
            if kind is not str:
                wanted.setdefault("metavar", "N")
        parser.add_argument(_flag(field), *([settings["short"]] if "short" in settings else []), **wanted)


def read_flags(parsed: Any, options: type[T]) -> T:
    """Build the dataclass from the flags of `add_flags`.

    Args:
        parsed: The namespace that the parser returned.
        options: The dataclass.

    Raises:
        EmraError: Errors of the dataclass and of the ``parse`` functions.
    """
    values = {}
    for field in _flagged(options):
        name = field.name if field.metadata.get("positional") else _flag(field).removeprefix("--").replace("-", "_")
        value = getattr(parsed, name)
        if "value" in field.metadata:
            value = field.metadata["value"] if value else field.default
        elif isinstance(field.default, tuple):
            value = tuple(value or ())
        elif value is not None and "parse" in field.metadata:
            value = field.metadata["parse"](value)
        values[field.name] = value
    return options(**values)


def _flagged(options: type) -> list[Field[Any]]:
    return [field for field in fields(options) if field.metadata.get("flag", True)]


def _flag(field: Field[Any]) -> str:
    flag: str = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
    return flag


def _kind(field: Field[Any]) -> type:
    """Its type, read from the text of the annotation: evaluating that would import the type's module."""
    names = set(str(field.type).split(" | ")) - {"None"}
    if names == {"bool"}:
        return bool
    return _NUMBERS.get(names.pop(), str) if len(names) == 1 else str


def _choices(names: tuple[str, ...] | None) -> str:
    return f" (one of {', '.join(names)})" if names else ""


def help_texts(options: type) -> dict[str, str]:
    """The attributes' texts in the docstring; empty if Python runs with ``-OO``, which drops docstrings."""
    _, _, described = (inspect.getdoc(options) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", described.partition("\n\n")[0], re.MULTILINE)
    return {name: _as_help(" ".join(text.split())) for name, text in found}


def _as_help(text: str) -> str:
    """A sentence in argparse's style: lower case unless it starts with a name, without full stop and back-ticks."""
    start = text[:1].lower() if text[1:2].islower() else text[:1]
    return (start + text[1:]).removesuffix(".").replace("`", "")


def describe(parser: Any, options: type, prefix: str = "") -> None:
    """Give the arguments that jsonargparse made of a dataclass, and of those in it, the texts of their docstrings.

    Args:
        parser: The parser, after ``add_class_arguments``.
        options: The dataclass.
        prefix: Of the keys, for a dataclass within another.
    """
    texts, inner = help_texts(options), get_type_hints(options)
    for action in parser._actions:
        if action.dest.startswith(prefix) and (text := texts.get(action.dest.removeprefix(prefix))):
            action.help = text.replace("%", "%%")
    for group in parser._action_groups:
        if group.title == str(options):
            title = (inspect.getdoc(options) or "").partition("\n")[0].rstrip(".").replace("`", "")
            group.title = title + (f" ({prefix}*)" if prefix else "")
    for name, kind in inner.items():
        if isinstance(kind, type) and is_dataclass(kind):
            describe(parser, kind, f"{prefix}{name}.")
