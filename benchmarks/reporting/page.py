"""Sections of a report, and the files they are rendered to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reporting.results import Result
from benchmarks.reporting.tables import Table
from emra_deploy._version import __version__

TEMPLATES = Path(__file__).parent / "templates"
Results = Mapping[str, Result]
"""Results by the names of their files."""

Draw = Callable[[Any, str], tuple[str, str]]
"""Makes a caption and an SVG element of a matplotlib figure and a caption."""


@dataclass
class Section:
    """A section of the page.

    Attributes:
        id: Its anchor.
        title: Its heading.
        texts: Paragraphs.
        noise: Files that allow no conclusion, with the reasons.
        charts: Captions and SVG elements.
        tables: Tables.
        commands: Titles and command lines.
    """

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    noise: list[tuple[str, Sequence[str]]] = field(default_factory=list)
    charts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)


def render(template: str, sections: Sequence[Section], count: int, title: str) -> str:
    """Fill a template.

    Args:
        template: Name of a file in `TEMPLATES`.
        sections: The sections.
        count: Number of result files.
        title: Title of the report.
    """
    import jinja2

    html = template.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    # A bar would end the cell.
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    text = environment.get_template(template).render(sections=sections, count=count, title=title, version=__version__)
    return text if html else re.sub(r"\n{3,}", "\n\n", text)
