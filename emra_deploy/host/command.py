"""What every ``main`` needs: a decorator that turns errors into one line and an exit status, and a type of argument."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from emra_deploy.errors import EmraError

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit statuses."""

_Arguments = ParamSpec("_Arguments")


def words(text: str) -> list[str]:
    """The words of a comma-separated argument."""
    return [word.strip() for word in text.split(",") if word.strip()]


def command(interrupted: str | None = None) -> Callable[[Callable[_Arguments, int]], Callable[_Arguments, int]]:
    """Decorate a function that returns an exit status.

    An `EmraError` becomes one line on stderr and `BAD_INPUT`.

    Args:
        interrupted: Line on stderr after Ctrl-C, with status `INTERRUPTED`; None propagates `KeyboardInterrupt`.
    """

    def decorate(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
        @functools.wraps(main)
        def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except EmraError as error:
                sys.stderr.write(f"error: {error}\n")
                return BAD_INPUT
            except KeyboardInterrupt:
                if interrupted is None:
                    raise
                sys.stderr.write(f"{interrupted}\n")
                return INTERRUPTED

        return run

    return decorate
