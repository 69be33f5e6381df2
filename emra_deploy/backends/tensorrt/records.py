"""Strict JSON for frozen dataclasses: every field present, none unknown, each of its declared type."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

_T = TypeVar("_T")


def encode(record: Any) -> Any:
    """A dataclass as JSON values; tuples become lists."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {entry.name: encode(getattr(record, entry.name)) for entry in dataclasses.fields(record)}
    if isinstance(record, tuple):
        return [encode(item) for item in record]
    if isinstance(record, dict):
        return {key: encode(item) for key, item in record.items()}
    return record


def decode(kind: type[_T], value: object, where: str) -> _T:
    """Build a dataclass from the output of `encode`, checking everything.

    Args:
        kind: The dataclass.
        value: Parsed JSON.
        where: Name of the value, for errors.

    Raises:
        ValueError: For invalid JSON; its text names the fault and its place.
    """
    decoded: _T = _decode(kind, value, where)
    return decoded


def _decode(kind: Any, value: object, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        # Only "X | None" is used.
        [inner] = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(value) != len(arguments):
            raise _wrong(where, value, f"a list of {len(arguments)}")
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(_decode(item, part, f"{where}[{index}]") for index, (item, part) in pairs)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {key: _decode(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value, where)
    # bool is an int in Python, but not in JSON.
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, value, {str: "text", int: "a whole number", bool: "true or false", float: "a number"}[kind])
    return value


def _decode_record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints = typing.get_type_hints(kind)
    known = [entry.name for entry in dataclasses.fields(kind)]
    missing = [name for name in known if name not in value]
    unknown = sorted(set(value) - set(known))
    if missing or unknown:
        raise ValueError(f"{where} lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}"[:400])
    return kind(**{name: _decode(hints[name], value[name], f"{where}.{name}") for name in known})


def _wrong(where: str, value: object, expected: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{where} is {shown if len(shown) <= 80 else shown[:80] + '…'}, expected {expected}")
