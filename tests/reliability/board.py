"""The scoreboard: cases, failures, and whether each promise was kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


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


def print_board(rows: Iterable[Row]) -> None:
    """Print the rows as a table."""
    from rich.table import Column, Table

    from benchmarks.tables import make_console

    table = Table(
        Column("part", overflow="fold"),
        Column("cases", justify="right"),
        Column("failures", justify="right"),
        Column("figure", overflow="fold"),
        Column("goal", overflow="fold"),
        "met",
        title="Reliability",
        title_justify="left",
    )
    for row in rows:
        met = "yes" if row.met else "[bold red]NO"
        table.add_row(row.part, f"{row.cases:,}", f"{row.failures:,}", row.figure, row.goal, met)
    make_console().print(table)
