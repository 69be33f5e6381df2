"""Options of the command line from the fields of a dataclass, and the dataclass from what was given."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_T = TypeVar("_T")


def add_fields(parser: ArgumentParser, kind: type, *, positional: str, short: dict[str, str]) -> None:
    """Declare an option for each field of a dataclass, ``--field-name``, described as its docstring does.

    A field's type is that of its default; text where that is None. Its metadata may hold ``metavar``, ``nargs`` and
    ``type`` for the parser, and ``parse``, which makes the field's value of what the parser read.

    Args:
        parser: Where to declare them.
        kind: The dataclass.
        positional: Name of the field that is given without an option.
        short: Short options by field names, such as ``{"output": "-o"}``.
    """
    described = _descriptions(kind)
    for one in _fields(kind):
        about = {name: one.metadata[name] for name in ("metavar", "nargs", "type") if name in one.metadata}
        about["help"] = described[one.name]
        if one.name == positional:
            parser.add_argument(one.name, type=str, **about)
            continue
        if one.default is False:
            about["action"] = "store_true"
        elif one.default is MISSING:
            about |= {"type": str, "required": True}
        else:
            about.setdefault("type", str if one.default is None else type(one.default))
            about["default"] = one.default
        names = ["--" + one.name.replace("_", "-"), *([short[one.name]] if one.name in short else [])]
        parser.add_argument(*names, **about)


def build(kind: type[_T], options: Namespace) -> _T:
    """The dataclass, of the options that `add_fields` declared.

    Raises:
        EmraError: Those of the dataclass, and of its fields' ``parse``.
    """
    values = {}
    for one in _fields(kind):
        value = options[one.name]
        parse = one.metadata.get("parse")
        values[one.name] = value if value is None or parse is None else parse(value)
    return kind(**values)


def _fields(kind: type) -> tuple[Field[Any], ...]:
    return fields(kind)


def _descriptions(kind: type) -> dict[str, str]:
    """What the section "Attributes" of a class's docstring says of each."""
    _, _, section = (kind.__doc__ or "").partition("Attributes:\n")
    section = re.split(r"\n\s*\n", section)[0]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
