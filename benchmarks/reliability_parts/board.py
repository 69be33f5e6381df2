"""The scoreboard: what was tried, what failed, and whether that is what was promised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A line of the scoreboard.

    Attributes:
        part: What was tried.
        cases: How often.
        failures: How often it did not hold.
        figure: What was measured, for people.
        goal: What is promised, for people.
        met: Whether it holds.
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
    """A row whose goal is that nothing fails, of one case at least."""
    return Row(part, cases, failures, figure, goal, failures == 0 and cases > 0)


def print_board(rows: Iterable[Row]) -> None:
    """The table."""
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
