"""Progress bars on the terminal: one per step, with the remaining time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress on standard error while the block runs; without a terminal, print each step as it begins.

    Yields:
        A function that takes a step's name, the work done, and the work in all (0 where it is unknown).
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    display = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def show(text: str, done: int, total: int) -> None:
        # Not before there is something to show: an error of one line stays one line.
        if not tasks and console.is_terminal:
            display.start()
        if text not in tasks:
            tasks[text] = display.add_task(text, total=total or None)
            if not console.is_terminal:
                console.print(text, highlight=False)
        display.update(tasks[text], completed=done, total=total or None)

    try:
        yield show
    finally:
        if display.live.is_started:
            display.stop()
