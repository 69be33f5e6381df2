"""Damage aware of a file's format: protobuf, JSON, PNG, JPEG, TIFF. Its output often still parses."""

from __future__ import annotations

import json
import random
import struct
import zlib
from typing import Any

from tests.reliability.mutate import ODD_NUMBERS, Damage

_ODD_TEXT = ("", "\0", "../../x", "A" * 5000, "\x1b[2J", "é" * 100, "Conv", "float16")
_ODD_VALUES: tuple[Any, ...] = (None, True, -1, 0, 1, 2, 255, 2**31, 2**63, 10**400, 0.5, -1e308, [], {}, *_ODD_TEXT)


def damage_json(data: bytes, chance: random.Random) -> bytes:
    """A value of a JSON text replaced, left out, doubled or swapped with another."""
    content = json.loads(data)
    places = _json_places(content)
    for _ in range(chance.choice((1, 1, 1, 3))):
        holder, key = chance.choice(places)
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue
        kind = chance.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, another = chance.choice(places)
            if another in (other if isinstance(other, dict) else range(len(other))):
                # Copies, as a value that holds itself cannot be written.
                first, second = json.dumps(holder[key]), json.dumps(other[another])
                holder[key], other[another] = json.loads(second), json.loads(first)
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key}2"] = holder[key]
        elif kind == 3 and isinstance(holder[key], (int, float)):
            holder[key] = holder[key] + chance.choice((-1, 1, 1e-3, 1000))
        elif kind == 4 and isinstance(holder[key], str):
            holder[key] = holder[key][: len(holder[key]) // 2] + chance.choice(("", "x", "\0", "é"))
        else:
            holder[key] = chance.choice(_ODD_VALUES)
    return json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _json_places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        for key, item in value.items():
            found += [(value, key), *_json_places(item)]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += [(value, index), *_json_places(item)]
    return found


def damage_onnx(data: bytes, chance: random.Random) -> bytes:
    """A field of an ONNX file changed, left out or doubled; all lengths around it stay correct."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        _damage_message(model, chance)
    return bytes(model.SerializeToString())


def _damage_message(model: Any, chance: random.Random) -> None:
    """Walk down to a random field and change it."""
    message = model
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = chance.choice(fields)
        repeated = getattr(field, "is_repeated", None)
        if repeated is None:
            repeated = field.label == field.LABEL_REPEATED
        if field.message_type is None:
            if repeated:
                at = chance.randrange(len(value))
                changed = _odd_scalar(value[at], chance)
                _try(lambda value=value, at=at, changed=changed: value.__setitem__(at, changed))
            else:
                changed = _odd_scalar(value, chance)
                _try(lambda message=message, field=field, changed=changed: setattr(message, field.name, changed))
            return
        if chance.random() < 0.12:
            if not repeated:
                message.ClearField(field.name)
            elif chance.random() < 0.5:
                del value[chance.randrange(len(value))]
            else:
                value.add().CopyFrom(value[chance.randrange(len(value))])
            return
        message = value[chance.randrange(len(value))] if repeated else value


def _try(change: Any) -> None:
    try:
        change()
    except (ValueError, TypeError, OverflowError):
        # Protobuf itself refuses some values, such as a number beyond an enum.
        return


def _odd_scalar(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bytes):
        if not value:
            return chance.randbytes(8)
        place = chance.randrange(len(value))
        return chance.choice(
            (
                value[:place],
                value + chance.randbytes(4),
                value[:place] + chance.randbytes(1) + value[place + 1 :],
                bytes(len(value)),
                b"\xff" * len(value),
            )
        )
    if isinstance(value, str):
        return chance.choice((*_ODD_TEXT, value + "x", value[:-1], value[::-1]))
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    return chance.choice((*(number & (2**63 - 1) for number in ODD_NUMBERS), -1, -(2**31), value + 1, value ^ 1))


def damage_png(data: bytes, chance: random.Random) -> bytes:
    """A chunk changed, left out, doubled or moved; half of the time checksums are corrected."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    at = chance.randrange(len(chunks))
    kind, body = chunks[at]
    change = chance.randrange(5)
    if change == 0:
        del chunks[at]
    elif change == 1:
        chunks.insert(chance.randrange(len(chunks)), chunks[at])
    elif change == 2:
        chunks[at] = (chance.choice((b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"zTXt", b"abcd")), body)
    elif body:
        spot = chance.randrange(min(len(body), 16))
        number = chance.choice(ODD_NUMBERS) & 0xFFFFFFFF
        piece = number.to_bytes(4, "big") if change == 3 else chance.randbytes(1)
        chunks[at] = (kind, (body[:spot] + piece + body[spot + len(piece) :])[: max(len(body), 1)])
    mend = chance.random() < 0.5
    out = data[:8]
    for index, (kind, body) in enumerate(chunks):
        check = zlib.crc32(kind + body) if mend or index != at else chance.randrange(2**32)
        size = len(body) if chance.random() < 0.98 else chance.choice(ODD_NUMBERS) & 0xFFFFFFFF
        out += struct.pack(">I", size) + kind + body + struct.pack(">I", check)
    return out


def damage_jpeg(data: bytes, chance: random.Random) -> bytes:
    """A segment in front of the picture changed, left out, doubled, or given a wrong length."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        segments.append(data[place : place + 2 + size])
        place += 2 + size
    rest = data[place:]
    at = chance.randrange(len(segments))
    piece = segments[at]
    change = chance.randrange(5)
    if change == 0:
        del segments[at]
    elif change == 1:
        segments.insert(chance.randrange(len(segments)), piece)
    elif change == 2:
        segments[at] = piece[:2] + struct.pack(">H", chance.choice(ODD_NUMBERS) & 0xFFFF) + piece[4:]
    else:
        spot = chance.randrange(4, len(piece))
        segments[at] = piece[:spot] + bytes([chance.choice((0, 1, 0xFF, chance.randrange(256)))]) + piece[spot + 1 :]
    if change == 4 and len(rest) > 20:
        spot = chance.randrange(len(rest) - 2)
        rest = rest[:spot] + b"\xff" + bytes([chance.choice((0xD0, 0xD9, 0xC4, 0xDA, 0x01))]) + rest[spot + 2 :]
    return data[:2] + b"".join(segments) + rest


def damage_tiff(data: bytes, chance: random.Random) -> bytes:
    """An entry of the first directory of a TIFF or BigTIFF changed: its tag, type, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2 if order == "<" else 3] == 43
    if big:
        start = struct.unpack_from(order + "Q", data, 8)[0]
        count, entry, first = struct.unpack_from(order + "Q", data, start)[0], 20, start + 8
    else:
        start = struct.unpack_from(order + "I", data, 4)[0]
        count, entry, first = struct.unpack_from(order + "H", data, start)[0], 12, start + 2
    at = first + entry * chance.randrange(count)
    changed = bytearray(data)
    change = chance.randrange(5)
    wide = "Q" if big else "I"
    number = chance.choice((*ODD_NUMBERS, 2, 3, 4, 5, 7, 16, 100, chance.randrange(2**16), len(data) - 4))
    number &= 256 ** struct.calcsize(wide) - 1
    if change == 0:
        struct.pack_into(
            order + "H", changed, at, chance.choice((256, 257, 258, 259, 262, 273, 277, 279, 322, 324, 339))
        )
    elif change == 1:
        struct.pack_into(order + "H", changed, at + 2, chance.choice((0, 1, 2, 3, 4, 5, 11, 12, 16, 99)))
    elif change == 2:
        struct.pack_into(order + wide, changed, at + 4, number)
    elif change == 3:
        struct.pack_into(order + wide, changed, at + 4 + struct.calcsize(wide), number)
    else:
        # A small value stands at the start of its place, whatever the width.
        struct.pack_into(order + "H", changed, at + 4 + struct.calcsize(wide), number & 0xFFFF)
    return bytes(changed)


ONNX: tuple[tuple[str, Damage], ...] = (("field changed", damage_onnx),)
JSON: tuple[tuple[str, Damage], ...] = (("value changed", damage_json),)
PNG: tuple[tuple[str, Damage], ...] = (("chunk changed", damage_png),)
JPEG: tuple[tuple[str, Damage], ...] = (("segment changed", damage_jpeg),)
TIFF: tuple[tuple[str, Damage], ...] = (("entry changed", damage_tiff),)
