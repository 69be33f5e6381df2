"""The nouns of a report: sources, and sections of text, tables, charts and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import plots


@dataclass(frozen=True)
class Source:
    """One result file.

    Attributes:
        name: Of the file.
        kind: Of `benchmarks.results_file.KINDS`, or ``"accuracy"``, ``"runtime"`` or ``"gpu"``.
        content: All of it.
    """

    name: str
    kind: str
    content: Mapping[str, Any]


@dataclass
class Table:
    """Cells of text; ``words`` for text to the left instead of figures to the right."""

    title: str
    head: Sequence[str]
    rows: list[list[str]]
    words: bool = False


@dataclass
class Drawn:
    """A chart."""

    caption: str
    svg: str


@dataclass
class Command:
    """A command to repeat, on one line."""

    title: str
    command: str


@dataclass
class Noise:
    """Why a file allows no conclusion."""

    source: str
    reasons: Sequence[str]


@dataclass
class Part:
    """A section."""

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    noise: list[Noise] = field(default_factory=list)
    figures: list[Drawn] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)


class Charts:
    """Numbers the charts of a page, so that their identifiers differ."""

    def __init__(self) -> None:
        self._count = 0

    def draw(self, figure: Any, caption: str) -> Drawn:
        """A chart for the page."""
        self._count += 1
        return Drawn(caption, plots.to_svg(figure, f"chart{self._count}"))


def in_words(value: Any) -> str:
    """A JSON value for a cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(item) for item in value)
    return str(value)
