"""Verification of the checksums of deflated TIFF blocks, which GDAL ignores.

A zlib stream ends with an Adler-32 of what it unpacks to (RFC 1950). libtiff stops reading when a block is full, so
that a flipped bit may be read as other pixels without an error.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

_PIECE = 2**20
"""Bytes that are unpacked at a time, which bounds the memory for blocks of any size."""


class DeflateSums:
    """Verifier of the blocks of a TIFF, each of them once.

    Args:
        path: Of the file.
        columns: Blocks side by side.
        rows: Blocks one below the other.
        planes: Bands that are stored apart; 1 where blocks hold all bands.
        block: Bytes of an unpacked block.
    """

    def __init__(self, path: Path, columns: int, rows: int, planes: int, block: int) -> None:
        self._block = block
        self._handle = os.open(path, os.O_RDONLY)
        self._columns, self._rows = columns, rows
        self._done = bytearray(columns * rows * planes)

    def done(self, column: int, row: int, plane: int) -> bool:
        """Whether a block was checked before."""
        return bool(self._done[(plane * self._rows + row) * self._columns + column])

    def check(self, column: int, row: int, plane: int, start: int, size: int) -> None:
        """Unpack a block that lies at ``start`` of the file and has ``size`` bytes, and discard the result.

        Raises:
            OSError: It is damaged, cut short, or holds more than a block.
        """
        unpacker, unpacked = zlib.decompressobj(), 0
        try:
            end = start + size
            while start < end and not unpacker.eof:
                packed = os.pread(self._handle, min(_PIECE, end - start), start)
                if not packed:
                    break
                start += len(packed)
                while packed and not unpacker.eof:
                    unpacked += len(unpacker.decompress(packed, _PIECE))
                    if unpacked > self._block:
                        raise OSError(f"block {column}, {row} holds more than {self._block} bytes")
                    packed = unpacker.unconsumed_tail
        except zlib.error as error:
            raise OSError(f"block {column}, {row}: {error}") from error
        if not unpacker.eof:
            raise OSError(f"block {column}, {row} is cut short")
        self._done[(plane * self._rows + row) * self._columns + column] = 1

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
