"""Everything that `make test` checks, in parts that all run: one that fails hides nothing of the others.

python -m tests.parts [--only PART ...] [options of pytest]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

COMMANDS = {
    "style": (("ruff", "check", "."), ("ruff", "format", "--check", ".")),
    "types": (("mypy",),),
}
TESTS = {"tests": ("tests",), "device": ("tests/emra_deploy",)}
DEFAULT = (*COMMANDS, "tests")
"""The part `device` is within `tests`: the runtime's, which need no PyTorch."""


@dataclass(frozen=True)
class Outcome:
    """Result of a part.

    Attributes:
        part: Its name.
        passed: Tests that passed; 1 for a command that exited with 0.
        failed: Tests that failed or could not be run.
        skipped: Tests that were skipped.
        seconds: Wall-clock time.
        note: What ended the process, where it was no test.
    """

    part: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    note: str = ""


def ending(status: int) -> str:
    """Exit status or signal, for people."""
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def read_counts(junit: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests in a result file of pytest."""
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    if suite is None:
        raise ValueError(f"{junit} has no testsuite")
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    return tests - failures - errors - skipped, failures + errors, skipped


def run_commands(part: str) -> Outcome:
    """Run a part's commands up to the first that fails."""
    begin = time.monotonic()
    for words in COMMANDS[part]:
        done = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, check=False)
        if done.returncode:
            note = f"{' '.join(words)}: {ending(done.returncode)}"
            return Outcome(part, 0, 1, 0, time.monotonic() - begin, note)
    return Outcome(part, 1, 0, 0, time.monotonic() - begin)


def run_tests(part: str, options: Sequence[str]) -> Outcome:
    """Run a part's tests in a separate process."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", *TESTS[part], f"--junit-xml={junit}", *options]
        status = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        try:
            passed, failed, skipped = read_counts(junit)
        except (OSError, ElementTree.ParseError, ValueError):
            passed, failed, skipped = 0, 0, 0
    note = ""
    if status not in (0, 1) or (status == 1 and not failed):
        # Crashed, interrupted, or no test was found: never a success.
        failed, note = failed + 1, ending(status)
    return Outcome(part, passed, failed, skipped, time.monotonic() - begin, note)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts, and say how each ended; 0 if nothing failed."""
    parser = argparse.ArgumentParser(description="Run all checks; other options go to pytest.", allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=[*COMMANDS, *TESTS], metavar="PART", help="%(choices)s")
    arguments, options = parser.parse_known_args(argv)
    runs: dict[str, Callable[[], Outcome]] = {part: lambda part=part: run_commands(part) for part in COMMANDS}
    runs |= {part: lambda part=part: run_tests(part, options) for part in TESTS}
    outcomes = []
    for part in arguments.only or DEFAULT:
        print(f"\n{part}", flush=True)
        outcomes.append(runs[part]())
    print(f"\n{'part':12} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for row in outcomes:
        print(f"{row.part:12} {row.passed:7} {row.failed:7} {row.skipped:8} {row.seconds:8.0f}  {row.note}".rstrip())
    passed, failed, skipped = (sum(getattr(row, name) for row in outcomes) for name in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
