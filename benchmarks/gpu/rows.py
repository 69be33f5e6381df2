"""What the suite finds out, as rows: a name, a number, its goal, and whether it was reached."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound on a number.

    Attributes:
        sense: ``">="`` or ``"<="``.
        bound: Of the row's unit.
    """

    sense: str
    bound: float

    def __post_init__(self) -> None:
        """Refuse a sense that is none."""
        if self.sense not in (">=", "<="):
            raise ValueError(f"sense {self.sense!r}, expected '>=' or '<='")

    def reached(self, value: float) -> bool:
        """Whether ``value`` keeps the bound; NaN never does."""
        return value >= self.bound if self.sense == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {number(self.bound)}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        section: What it belongs to: rows of one section stand together.
        name: What was measured.
        value: The number, or None where it could not be had; then ``note`` says why.
        unit: Of the value; empty for ratios.
        goal: The bound it should keep, or None for a number that is only reported.
        note: Anything a reader needs beside it.
        required: Whether missing the goal, or having no value, makes the suite fail as broken rather than as slow.
    """

    section: str
    name: str
    value: float | None
    unit: str = ""
    goal: Goal | None = None
    note: str = ""
    required: bool = False

    @property
    def verdict(self) -> str:
        """``ok``, ``MISSED``, ``not measured``, or nothing where there is no goal."""
        if self.value is None:
            return "not measured"
        if self.goal is None:
            return ""
        return "ok" if self.goal.reached(self.value) else "MISSED"

    @property
    def failed(self) -> bool:
        """Whether something is wrong, not only slow."""
        return self.required and self.verdict in ("MISSED", "not measured")

    def to_dict(self) -> dict[str, object]:
        """For the JSON file; a value that is not finite becomes its name, which JSON has no number for."""
        value = self.value
        return {
            "section": self.section,
            "name": self.name,
            "value": value if value is None or math.isfinite(value) else str(value),
            "unit": self.unit,
            "goal": None if self.goal is None else str(self.goal),
            "verdict": self.verdict,
            "note": self.note,
        }


def number(value: float) -> str:
    """Three significant digits, without an exponent between a thousandth and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = abs(value)
    if magnitude < 1e-3 or magnitude >= 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(magnitude)))}f}"


def format_table(rows: Sequence[Row]) -> str:
    """The rows as text in columns, sections apart, one line each."""
    lines: list[str] = []
    width = max((len(row.name) for row in rows), default=0)
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"-- {section}")
        value = "" if row.value is None else f"{number(row.value)} {row.unit}".rstrip()
        goal = "" if row.goal is None else str(row.goal)
        lines.append(f"{row.name:{width}}  {value:>14}  {goal:>10}  {row.verdict:12}  {row.note}".rstrip())
    return "\n".join(lines)


def exit_status(rows: Iterable[Row]) -> int:
    """1 where a goal was missed or something required was not measured, else 0."""
    return int(any(row.failed or row.verdict == "MISSED" for row in rows))
