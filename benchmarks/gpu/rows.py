"""Findings of the suite as rows: a name, a number, its goal, and the verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound on a number.

    Attributes:
        sense: ``">="`` or ``"<="``.
        bound: In the row's unit.
    """

    sense: str
    bound: float

    def __post_init__(self) -> None:
        """Check the sense."""
        if self.sense not in (">=", "<="):
            raise ValueError(f"sense {self.sense!r}, expected '>=' or '<='")

    def reached(self, value: float) -> bool:
        """True if ``value`` keeps the bound; NaN never does."""
        return value >= self.bound if self.sense == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {number(self.bound)}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        section: Section of the table.
        name: Name of the measurement.
        value: The number, or None if it could not be measured; then ``note`` says why.
        unit: Unit of the value; empty for ratios.
        goal: The bound to keep, or None for a number that is only reported.
        note: Remarks.
        required: Whether a missed goal or a missing value marks the suite as broken rather than slow.
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
        """``ok``, ``MISSED``, ``not measured``, or an empty text without a goal."""
        if self.value is None:
            return "not measured"
        if self.goal is None:
            return ""
        return "ok" if self.goal.reached(self.value) else "MISSED"

    @property
    def failed(self) -> bool:
        """True if the row shows a fault rather than a slow kernel."""
        return self.required and self.verdict in ("MISSED", "not measured")

    def to_dict(self) -> dict[str, object]:
        """JSON values; a value that is not finite becomes its name, as JSON has no such number."""
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
    """1 if a goal was missed or a required row was not measured, else 0."""
    return int(any(row.failed or row.verdict == "MISSED" for row in rows))
