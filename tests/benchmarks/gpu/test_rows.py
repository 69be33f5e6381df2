"""Rows, goals, the table and the exit status of the GPU suite."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.rows import Goal, Row, exit_status, format_table, number
from benchmarks.gpu.sanitizer import row_of


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=6e-3)
    assert len(number(value)) <= 9


def test_numbers_without_digits() -> None:
    assert [number(value) for value in (0.0, math.inf, math.nan)] == ["0", "inf", "nan"]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_goals_are_bounds(value: float, bound: float) -> None:
    assert Goal(">=", bound).reached(value) == (value >= bound)
    assert Goal("<=", bound).reached(value) == (value <= bound)
    assert not Goal("<=", bound).reached(math.nan)


def test_a_sense_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        Goal("==", 1)


def test_verdicts_and_exit_status() -> None:
    goal = Goal(">=", 2)
    good, missed = Row("s", "good", 2.0, "", goal), Row("s", "missed", 1.99, "", goal)
    absent = Row("s", "absent", None, note="no tool")
    plain = Row("s", "plain", 5.0, "us")
    assert [row.verdict for row in (good, missed, absent, plain)] == ["ok", "MISSED", "not measured", ""]
    assert exit_status([good, plain, absent]) == 0
    assert exit_status([good, missed]) == 1
    assert exit_status([Row("s", "broken", None, required=True)]) == 1


def test_the_table_has_one_line_per_row_and_section() -> None:
    rows = [Row("a", "first", 1.5, "us", note="n"), Row("a", "second", None, note="why"), Row("b", "third", 3, "")]
    lines = format_table(rows).splitlines()
    assert lines[0] == "-- a"
    assert lines[3] == "-- b"
    assert len(lines) == 5
    assert "1.50 us" in lines[1]
    assert lines[2].split() == ["second", "not", "measured", "why"]


def test_rows_are_json_whatever_their_value() -> None:
    rows = [Row("s", "n", value, "", Goal("<=", 1)) for value in (0.5, math.nan, math.inf, None)]
    loaded = json.loads(json.dumps([row.to_dict() for row in rows], allow_nan=False))
    assert [row["value"] for row in loaded] == [0.5, "nan", "inf", None]
    assert [row["verdict"] for row in loaded] == ["ok", "MISSED", "MISSED", "not measured"]


def test_sanitizer_output_becomes_a_row() -> None:
    clean = row_of("memcheck", 0, "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n")
    assert (clean.value, clean.verdict, clean.note) == (0.0, "ok", "ERROR SUMMARY: 0 errors")
    dirty = row_of("racecheck", 99, "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n")
    assert dirty.failed
    assert "2 hazards" in dirty.note
    unable = row_of("memcheck", 1, "========= Error: Device not supported. Please refer to the manual\n")
    assert unable.verdict == "not measured"
    assert not unable.failed
