"""The scoreboard: cases, failures, and whether each promise was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.reporting.tables import Table, make_console, print_tables


@dataclass(frozen=True)
class Row:
    """A line of the scoreboard.

    Attributes:
        part: Name of the part.
        cases: Number of cases.
        failures: Number of cases that broke the promise.
        figure: The measured values.
        goal: The promise.
        met: Whether it was kept.
    """

    part: str
    cases: int
    failures: int
    figure: str
    goal: str
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def counted(part: str, cases: int, failures: int, figure: str, goal: str) -> Row:
    """A row whose goal is no failure in at least one case."""
    return Row(part, cases, failures, figure, goal, failures == 0 and cases > 0)


def print_board(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    head = ("part", "cases", "failures", "figure", "goal", "met")
    cells = [
        [row.part, f"{row.cases:,}", f"{row.failures:,}", row.figure, row.goal, "yes" if row.met else "NO"]
        for row in rows
    ]
    styles = {number: None if row.met else "bold red" for number, row in enumerate(rows)}
    print_tables([Table("Reliability", head, cells, words=True)], make_console(), styles)
