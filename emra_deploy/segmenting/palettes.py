"""Colours to look at maps with, apart from those in which data sets store their labels.

`natural` has the colour that a reader expects of a class, by its name, and `safe` is the palette of Okabe and Ito. Both
are for every kind of colour vision: of the classes water, vegetation, road, building and land, any two of `natural` are
27.0 CIEDE2000 units apart or more, also as people without one kind of cone see them (Machado et al. 2009). The colours
in which Dubai's masks are stored are 10.5 apart, those of LoveDA and ISPRS 4.1.
"""

from __future__ import annotations

import re
from dataclasses import replace

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet

Colour = tuple[int, int, int]

PALETTES = ("auto", "natural", "safe", "model")
"""``auto`` is ``natural`` where the model's colours are those of a public data set's masks, and ``model`` otherwise:
chosen colours are intended."""

_NATURAL: dict[str, Colour] = {
    "water": (0x05, 0x3C, 0x96),
    "building": (0x7E, 0x29, 0x32),
    "tree": (0x3B, 0x77, 0x00),
    "agriculture": (0xBD, 0xF7, 0x20),
    "land": (0xFC, 0xE4, 0xC6),
    "vegetation": (0x00, 0xA6, 0x04),
    "road": (0x8C, 0x85, 0x8E),
    "car": (0xFF, 0x66, 0xFC),
    "background": (0xF6, 0xF9, 0xFF),
}
_OTHERS: tuple[Colour, ...] = (
    (0x90, 0x00, 0xFC),
    (0xD8, 0x24, 0x6C),
    (0x00, 0x00, 0x24),
    (0xB4, 0xB4, 0xB4),
    (0x00, 0xD8, 0x6C),
    (0xB4, 0x6C, 0xB4),
)
"""For classes of other names, and for a second one of the same kind."""

_SAFE: tuple[Colour, ...] = (
    (0xE6, 0x9F, 0x00),
    (0x56, 0xB4, 0xE9),
    (0x00, 0x9E, 0x73),
    (0xF0, 0xE4, 0x42),
    (0x00, 0x72, 0xB2),
    (0xD5, 0x5E, 0x00),
    (0xCC, 0x79, 0xA7),
    (0x00, 0x00, 0x00),
)

_WORDS: tuple[tuple[str, str], ...] = (
    ("water", r"water|river|lake|pond|\bsea\b|ocean|pool|wetland"),
    ("building", r"build|roof|house|dwelling"),
    ("tree", r"tree|forest|wood"),
    ("agriculture", r"agri|crop|farm|field|orchard|rangeland"),
    ("land", r"unpaved|bare|barren|soil|\bsand|beach|desert|(?<!grass)(?<!range)(?<!wet)land"),
    ("vegetation", r"veget|grass|shrub|lawn|\bplant"),
    ("road", r"road|street|imperv|pav(ed|ement)|asphalt|highway"),
    ("car", r"\bcars?\b|vehicle"),
    ("background", r"background|clutter|unlabel|\bothers?\b"),
)

_STORED: tuple[tuple[Colour, ...], ...] = (
    ((0x3C, 0x10, 0x98), (0x84, 0x29, 0xF6), (0x6E, 0xC1, 0xE4), (0xFE, 0xDD, 0x3A), (0xE2, 0xA9, 0x29)),
    ((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128)),
    ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
)
"""Colours in which masks of Dubai, LoveDA and ISPRS are stored, in the order of their classes."""


def drawn_classes(classes: ClassSet, palette: str = "auto") -> ClassSet:
    """The classes in the colours to draw them in.

    Args:
        classes: Of the model, with its own colours.
        palette: One of `PALETTES`.

    Raises:
        EmraError: ``palette`` for another name.
    """
    check_palette(palette)
    if palette == "auto":
        known = classes.palette in _STORED and None not in map(_kind, classes.names)
        palette = "natural" if known else "model"
    if palette == "model":
        return classes
    chosen = _natural(classes.names) if palette == "natural" else list(_SAFE)
    rest = classes.palette[len(chosen) :]
    return replace(classes, palette=(*chosen[: len(classes)], *rest))


def check_palette(palette: str) -> None:
    """Refuse a name that is not in `PALETTES`.

    Raises:
        EmraError: ``palette``.
    """
    if palette not in PALETTES:
        raise EmraError("palette", f"palette {palette!r}, expected {', '.join(PALETTES)}", "Correct it")


def _kind(name: str) -> str | None:
    return next((kind for kind, words in _WORDS if re.search(words, name.lower())), None)


def _natural(names: tuple[str, ...]) -> list[Colour]:
    """A colour for each name, as far as there are enough."""
    kinds, others = dict(_NATURAL), list(_OTHERS)
    found: list[Colour] = []
    for name in names:
        colour = kinds.pop(_kind(name) or "", None)
        if colour is None:
            if not others and not kinds:
                break
            colour = others.pop(0) if others else kinds.pop(next(reversed(kinds)))
        found.append(colour)
    return found
