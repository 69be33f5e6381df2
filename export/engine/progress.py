"""Progress and cancellation of a build, between TensorRT's progress monitor and the terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")

REFRESH = 0.1
"""Seconds between updates of the display; the build runs in a thread of its own."""


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0
    ended: int = 0
    """Finished phases within the current step."""


class BuildProgress:
    """The phases of a build; safe to call from the builder's threads and the terminal's.

    A phase has steps. During a step it may start phases of its own, whose progress is a part of that step. Their number
    is not known in advance: the first counts as half of the step, the second as half of the rest, and so on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self._cancelled = False
        self.phase = ""

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Record the start of a phase."""
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(1, steps))
            self.phase = name
            self._update()

    def step(self, name: str, step: int) -> bool:
        """Record a finished step of a phase, counted from 0.

        Returns:
            Whether the build is to continue.
        """
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = max(phase.done, min(step + 1, phase.steps))
                phase.ended = 0
                self._update()
            return not self._cancelled

    def finish(self, name: str) -> None:
        """Record the end of a phase."""
        with self._lock:
            ended = self._phases.pop(name, None)
            parent = None if ended is None or ended.parent is None else self._phases.get(ended.parent)
            if parent is not None:
                parent.ended += 1
                self.phase = parent.name

    def cancel(self) -> None:
        """Ask the builder to stop at its next step."""
        with self._lock:
            self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def fraction(self) -> float:
        """Share of the build that is done, 0 to 1; it never decreases."""
        return self._fraction

    def _update(self) -> None:
        roots = [phase for phase in self._phases.values() if phase.parent not in self._phases]
        if roots:
            self._fraction = max(self._fraction, min(self._share(roots[0]), 1.0))

    def _share(self, phase: _Phase) -> float:
        inner = [self._share(child) for child in self._phases.values() if child.parent == phase.name]
        now = sum(inner) / len(inner) if inner else 0.0
        part = 1 - 0.5**phase.ended * (1 - now / 2)
        return min((phase.done + part) / phase.steps, 1.0)


def make_monitor(trt: Any, progress: BuildProgress) -> Any:
    """A monitor for the library that reports to ``progress``."""

    # The base class is known only when the library is loaded.
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Forwards the library's calls to ``progress``."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def run_shown(work: Callable[[], _T], progress: BuildProgress) -> _T:
    """Run a build in a thread while the terminal shows its progress.

    The builder releases Python's interpreter lock, so this thread receives Ctrl-C, which stops the builder at its next
    step.

    Args:
        work: The build.
        progress: Receives its progress.

    Raises:
        KeyboardInterrupt: After the build has stopped; at once for a second Ctrl-C while it is stopping.
        Exception: Any exception of the build.
    """
    result: list[_T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target, name="emra-build", daemon=True)
    thread.start()
    try:
        _watch(thread, progress)
    except KeyboardInterrupt:
        progress.cancel()
        print("stopping at the builder's next step; Ctrl-C again to stop at once", file=sys.stderr, flush=True)
        while thread.is_alive():
            thread.join(REFRESH)
        raise
    if failure:
        raise failure[0]
    return result[0]


def _watch(thread: threading.Thread, progress: BuildProgress) -> None:
    from rich import progress as rich_progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        print("building", file=sys.stderr, flush=True)
        while thread.is_alive():
            thread.join(REFRESH)
        return
    columns = (
        rich_progress.TextColumn("building"),
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("about"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("to go: {task.description}"),
    )
    with rich_progress.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=1.0)
        while thread.is_alive():
            thread.join(REFRESH)
            shown.update(task, completed=progress.fraction, description=progress.phase)
