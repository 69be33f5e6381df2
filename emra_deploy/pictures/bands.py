"""The one place that decides which bands of a raster are red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

from emra_deploy.errors import EmraError


def alpha_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Numbers, from 1, of the bands that hold opacity."""
    return tuple(number for number, name in enumerate(names, 1) if name == "alpha")


def choose_bands(names: Sequence[str], wanted: Sequence[int] | None, path: str) -> tuple[int, ...]:
    """Numbers, from 1, of the bands to read: three, or one that is grey or a palette.

    Args:
        names: What the file calls each of its bands: GDAL's colour interpretations.
        wanted: Three numbers that the user gave, or None.
        path: Of the file, for errors.

    Raises:
        EmraError: ``image-bands`` for numbers that are out of range, or bands that the file does not name.
    """
    count = len(names)
    if wanted is not None:
        if len(wanted) != 3 or not all(1 <= band <= count for band in wanted):
            raise EmraError(
                "image-bands",
                f"bands {','.join(map(str, wanted))} of a raster with {count}, expected three of 1 to {count}",
                "Correct --bands R,G,B",
                path,
            )
        return tuple(wanted)
    if {"red", "green", "blue"} <= set(names):
        return tuple(names.index(colour) + 1 for colour in ("red", "green", "blue"))
    data = tuple(number for number in range(1, count + 1) if number not in alpha_bands(names))
    if len(data) in (1, 3):
        return data
    raise EmraError(
        "image-bands",
        f"{count} bands ({', '.join(names)}), and the file does not say which are red, green and blue",
        "Name them with --bands R,G,B, such as --bands 3,2,1",
        path,
    )
