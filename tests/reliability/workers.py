"""Cases run in worker processes, so that a crash or a hang is recorded and does not end the run."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.conftest import REPOSITORY
from tests.reliability.cases import CRASH, FAILURES, HANG


@dataclass
class Tally:
    """Outcomes of many cases.

    Attributes:
        outcomes: Number of cases by subject and outcome.
        codes: Number of refusals by code of the error.
        failures: Failed cases, as JSON values with everything that reproduces them.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: dict[str, Any]) -> None:
        """Count a case."""
        self.outcomes[result["subject"], result["outcome"]] += 1
        if result["outcome"] == "refused":
            self.codes[result["detail"]] += 1
        if result["outcome"] in FAILURES:
            self.failures.append(result)

    def of(self, *outcomes: str) -> int:
        """Cases with one of these outcomes."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome in outcomes)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        by_subject: dict[str, dict[str, int]] = {}
        for (subject, outcome), count in sorted(self.outcomes.items()):
            by_subject.setdefault(subject, {})[outcome] = count
        return {
            "cases": sum(self.outcomes.values()),
            "by_subject": by_subject,
            "refused_with": dict(self.codes.most_common()),
            "failures": self.failures,
        }


class Worker:
    """A process and its current case."""

    def __init__(self, words: list[str], scratch: Path) -> None:
        self.scratch = scratch
        self._words = words
        self.case: int | None = None
        self.since = 0.0
        self.start()

    def start(self) -> None:
        """Start the process, or its successor."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.reliability.worker", *self._words, str(self.scratch)]
        with (self.scratch.parent / f"{self.scratch.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        ready = self._line()
        if ready.get("ready") is not True:
            raise RuntimeError(f"a worker did not start: {ready or 'it ended'}; see {log.name}")

    @property
    def output(self) -> IO[bytes]:
        """The stream of its answers."""
        assert self.process.stdout is not None
        return self.process.stdout

    def _line(self) -> dict[str, Any]:
        text = self.output.readline()
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def give(self, case: int) -> None:
        """Hand over a case."""
        assert self.process.stdin is not None
        self.case, self.since = case, time.monotonic()
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{case}\n".encode())
            self.process.stdin.flush()

    def take(self) -> dict[str, Any] | None:
        """Read its answer; None if the process is gone."""
        found = self._line()
        if found:
            self.case = None
            return found
        return None

    def kill(self) -> int:
        """End the process and return its exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        return self.process.wait()


def run_cases(
    group: str,
    count: int,
    seed: int,
    folder: Path,
    keep: Path | None,
    *,
    processes: int = 1,
    limit: float = 20.0,
    memory: int = 2**31,
    only: tuple[int, ...] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Tally:
    """Run cases of a group.

    Args:
        group: Of `tests.reliability.worker.GROUPS`.
        count: Number of cases.
        seed: Determines all damage.
        folder: Empty folder for originals and cases.
        keep: Folder that keeps the files of failed cases, or None.
        processes: Number of workers.
        limit: Seconds after which a case counts as hung.
        memory: Bytes that a case may add to the worker's memory.
        only: Numbers of the cases to run in place of the first ``count``.
        say: Called with a line of progress every 1,000 cases.

    Raises:
        RuntimeError: A worker does not start.
    """
    words = [group, str(seed), str(memory), str(folder / "originals")]
    _prepare(group, folder / "originals")
    numbers = iter(only or range(count))
    tally = Tally()
    began, reported = time.monotonic(), 0
    workers = [Worker(words, folder / f"worker{index}") for index in range(max(1, min(processes, count)))]
    try:
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                _next(worker, numbers, selector)
            while selector.get_map():
                for key, _ in selector.select(timeout=0.2):
                    worker = key.data
                    selector.unregister(worker.output)
                    result = worker.take()
                    if result is None:
                        result = _lost(worker, CRASH)
                    _record(result, worker, tally, keep)
                    if result["outcome"] in (CRASH, HANG):
                        worker.start()
                    _next(worker, numbers, selector)
                for worker in workers:
                    if worker.case is not None and time.monotonic() - worker.since > limit:
                        selector.unregister(worker.output)
                        _record(_lost(worker, HANG), worker, tally, keep)
                        worker.start()
                        _next(worker, numbers, selector)
                done = sum(tally.outcomes.values())
                if done >= reported + 1000:
                    reported = done
                    say(f"  {done:,} cases, {len(tally.failures)} failed, {time.monotonic() - began:.0f} s")
    finally:
        for worker in workers:
            worker.kill()
    return tally


def _prepare(group: str, originals: Path) -> None:
    command = [sys.executable, "-m", "tests.reliability.worker", "prepare", group, str(originals)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the originals could not be written: {done.stderr[-1500:]}")


def _next(worker: Worker, numbers: Iterator[int], selector: selectors.BaseSelector) -> None:
    number = next(numbers, None)
    if number is not None:
        worker.give(number)
        selector.register(worker.output, selectors.EVENT_READ, worker)


def _lost(worker: Worker, outcome: str) -> dict[str, Any]:
    """End the process of a crashed or hung case; returns the result."""
    case, waited = worker.case, time.monotonic() - worker.since
    if outcome == CRASH:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(5)
    status = worker.kill()
    worker.case = None
    about = {"subject": "unknown", "damage": "unknown"}
    with suppress(OSError, ValueError):
        about = json.loads((worker.scratch / "case.json").read_text())
    detail = f"no answer in {waited:.0f} s" if outcome == HANG else f"exit status {status}"
    return {"case": case, "outcome": outcome, "detail": detail, **about}


def _record(result: dict[str, Any], worker: Worker, tally: Tally, keep: Path | None) -> None:
    tally.add(result)
    if keep is not None and result["outcome"] in FAILURES:
        place = keep / f"{result['subject']}-{result['case']}-{result['outcome']}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(worker.scratch, place)
        (place / "result.json").write_text(json.dumps(result, indent=1) + "\n")
