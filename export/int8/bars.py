"""Progress on the terminal: one bar per step, with the time that is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress on standard error while the block runs; where that is no terminal, each step as it begins.

    Yields:
        A function of what is being done, how much of it is done, and how much there is (0 where nobody knows).
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
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
    tasks = {}

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
