"""Flags of the command line made of a frozen dataclass: one attribute, one flag, its documentation the help."""

from __future__ import annotations

import inspect
import re
from dataclasses import Field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def add_flags(parser: Any, options: type) -> None:
    """Declare a flag for each attribute of a dataclass.

    A flag has the name, type and default of its attribute, and as help the attribute's text in the docstring. Booleans
    are switches; a tuple of texts is a flag that may be repeated. The ``metadata`` of a field overrides this:

    - ``flag``: another name, or False for no flag;
    - ``value``: makes a switch that sets this value;
    - ``one_of``: allowed values, for the help; the dataclass checks them;
    - ``help``, ``metavar``: as in argparse.

    Args:
        parser: An ``ArgumentParser`` of argparse or jsonargparse.
        options: The dataclass. Every attribute has a default.
    """
    hints, texts = get_type_hints(options), _texts(options)
    for field in fields(options):
        flag, extra = _flag(field), field.metadata
        if flag is None:
            continue
        text = extra.get("help", texts.get(field.name, ""))
        if "one_of" in extra:
            text += f" (one of {', '.join(extra['one_of'])})"
        kind = _kind(hints[field.name])
        if "value" in extra or kind is bool:
            parser.add_argument(flag, action="store_true", help=text)
        elif isinstance(field.default, tuple):
            parser.add_argument(flag, action="append", type=str, metavar=extra.get("metavar"), help=text)
        else:
            metavar = extra.get("metavar", None if kind is str else "N")
            parser.add_argument(flag, type=kind, default=field.default, metavar=metavar, help=text)


def read_flags(parsed: Any, options: type[T]) -> T:
    """The dataclass that the flags of `add_flags` describe.

    Args:
        parsed: The parser's ``Namespace``.
        options: The dataclass.

    Raises:
        EmraError: Those of the dataclass.
    """
    values = {}
    for field in fields(options):  # type: ignore[arg-type]
        flag = _flag(field)
        if flag is None:
            continue
        value = getattr(parsed, flag.removeprefix("--").replace("-", "_"))
        if "value" in field.metadata:
            value = field.metadata["value"] if value else field.default
        elif isinstance(field.default, tuple):
            value = tuple(value or ())
        values[field.name] = value
    return options(**values)


def _flag(field: Field[Any]) -> str | None:
    flag = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
    return flag or None


def _kind(hint: Any) -> Any:
    """The type of a flag's value: that of the attribute without None, and text for paths."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    return str if str in kinds else kinds[0]


def _texts(options: type) -> dict[str, str]:
    """Help by attribute, from the docstring; empty if Python was told to drop docstrings."""
    _, _, described = (inspect.getdoc(options) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", described.partition("\n\n")[0], re.MULTILINE)
    return {name: _as_help(" ".join(text.split())) for name, text in found}


def _as_help(text: str) -> str:
    """A sentence in argparse's style: lower case unless it starts with an abbreviation, no full stop, no back-ticks."""
    start = text[:1].lower() if text[1:2].islower() else text[:1]
    return (start + text[1:]).removesuffix(".").replace("`", "")
