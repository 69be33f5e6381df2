"""Damage to bytes by disks, networks and attackers. Each function is pure: the same random state, the same damage."""

from __future__ import annotations

import random
from collections.abc import Callable

ODD_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
"""Lengths and sizes that readers often mishandle."""

Damage = Callable[[bytes, random.Random], bytes]


def mutate(data: bytes, chance: random.Random, extra: tuple[tuple[str, Damage], ...] = ()) -> tuple[bytes, str]:
    """Damage a file's content.

    Args:
        data: At least two bytes.
        chance: Decides the damage.
        extra: More kinds of damage, for this file format; half of all damage is one of these.

    Returns:
        Bytes that differ from ``data``, and the name of the damage.
    """
    while True:
        kinds = extra if extra and chance.random() < 0.5 else BYTES
        name, damage = chance.choice(kinds)
        changed = damage(data, chance)
        if changed != data:
            return changed, name


def _place(data: bytes, chance: random.Random) -> int:
    """An offset in the file; half of them near an end, where headers and tables are."""
    near = min(len(data), 512)
    kind = chance.random()
    if kind < 0.35:
        return chance.randrange(near)
    if kind < 0.5:
        return len(data) - 1 - chance.randrange(near)
    return chance.randrange(len(data))


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = _place(data, chance)
    return start, min(len(data), start + chance.choice((1, 2, 4, 16, 64, 512, 4096)))


def _flip_bit(data: bytes, chance: random.Random) -> bytes:
    place = _place(data, chance)
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(2, 33)):
        changed[_place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _truncate_end(data: bytes, chance: random.Random) -> bytes:
    return data[: -chance.randrange(1, min(len(data), 200))]


def _delete(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 2, 50)) + data[end:]


def _swap_blocks(data: bytes, chance: random.Random) -> bytes:
    size = max(1, min(chance.choice((4, 64, 512, 4096)), len(data) // 3))
    first, second = sorted((chance.randrange(len(data) - 2 * size + 1), chance.randrange(len(data) - 2 * size + 1)))
    second += size
    middle = data[first + size : second]
    return data[:first] + data[second : second + size] + middle + data[first : first + size] + data[second + size :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    place = _place(data, chance)
    return data[:place] + chance.randbytes(chance.choice((1, 2, 4, 100))) + data[place:]


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    fill = chance.choice((b"\0", b"\xff", None))
    return data[:start] + (chance.randbytes(end - start) if fill is None else fill * (end - start)) + data[end:]


def _odd_number(data: bytes, chance: random.Random) -> bytes:
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice(ODD_NUMBERS) & (256**size - 1)
    place = _place(data, chance)
    number: bytes = value.to_bytes(size, chance.choice(("little", "big")))
    return (data[:place] + number + data[place + size :])[: max(len(data), place + size)]


def _append(data: bytes, chance: random.Random) -> bytes:
    return data + chance.randbytes(chance.choice((1, 16, 5000)))


BYTES: tuple[tuple[str, Damage], ...] = (
    ("bit flipped", _flip_bit),
    ("bits flipped", _flip_bits),
    ("cut short", _truncate),
    ("end cut off", _truncate_end),
    ("block lost", _delete),
    ("block repeated", _repeat),
    ("blocks swapped", _swap_blocks),
    ("bytes inserted", _insert),
    ("block overwritten", _overwrite),
    ("odd number", _odd_number),
    ("bytes appended", _append),
)
"""Damage independent of the file's format."""
