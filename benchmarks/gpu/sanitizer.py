"""The kernels under NVIDIA's compute-sanitizer: memory, races, barriers, uninitialised reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.gpu.library import find_tool
from benchmarks.gpu.rows import Goal, Row

SOURCE = Path(__file__).with_name("sanitized.cu")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
SECTION = "compute-sanitizer on small shapes of every kernel, errors"
FOUND = 99
"""Exit status of the sanitizer for findings."""


def sanitize(program: Path, seconds: float) -> list[Row]:
    """One row per tool; without a value if the sanitizer is missing or does not support the machine.

    Args:
        program: The compiled `SOURCE`.
        seconds: Time limit of each tool.
    """
    tool = find_tool("compute-sanitizer")
    if tool is None:
        return [Row(SECTION, name, None, note="compute-sanitizer was not found") for name in TOOLS]
    return [_run(tool, name, program, seconds) for name in TOOLS]


def _run(tool: str, name: str, program: Path, seconds: float) -> Row:
    command = [tool, "--tool", name, "--error-exitcode", str(FOUND), str(program)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return Row(SECTION, name, None, note=f"not done after {seconds:.0f} s")
    return row_of(name, done.returncode, done.stdout + done.stderr)


def row_of(name: str, status: int, output: str) -> Row:
    """The row for a tool's exit status and output."""
    if "Device not supported" in output or "Unable to find injection" in output:
        return Row(SECTION, name, None, note=_last(output, "not supported"))
    goal = Goal("<=", 0)
    if status == 0:
        return Row(SECTION, name, 0.0, "", goal, _last(output, "SUMMARY"), required=True)
    return Row(SECTION, name, 1.0, "", goal, _last(output, "SUMMARY") or f"exit status {status}", required=True)


def _last(output: str, word: str) -> str:
    lines = [line.strip("= ") for line in output.splitlines() if word in line]
    return lines[-1][:100] if lines else ""
