"""Shared parts of every ``main``: one-line errors, exit statuses, reports of outputs, and an argument type."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from emra_deploy.errors import EmraError
from emra_deploy.host.files import noted_outputs

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit statuses."""

_Arguments = ParamSpec("_Arguments")
_reported: set[Path] = set()


def tell(text: str, *outputs: str | os.PathLike[str]) -> None:
    """Print a line on stdout that says of these outputs that they were written."""
    sys.stdout.write(f"{text}\n")
    _reported.update(Path(path).absolute() for path in outputs)


def words(text: str) -> list[str]:
    """The words of a comma-separated argument."""
    return [word.strip() for word in text.split(",") if word.strip()]


def command(interrupted: str | None = None) -> Callable[[Callable[_Arguments, int]], Callable[_Arguments, int]]:
    """Decorate a function that returns an exit status.

    An `EmraError` becomes one line on stderr and `BAD_INPUT`. Each output that `atomic_output` completes is a line on
    stderr, unless the function tells it by `tell`.

    Args:
        interrupted: Line on stderr after Ctrl-C, with status `INTERRUPTED`; None propagates `KeyboardInterrupt`.
    """

    def decorate(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
        @functools.wraps(main)
        def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
            with noted_outputs() as outputs:
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
                finally:
                    for path in outputs:
                        if Path(path).absolute() not in _reported:
                            sys.stderr.write(f"wrote {path}\n")
                    _reported.clear()

        return run

    return decorate
