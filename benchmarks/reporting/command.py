"""The ends of commands that measure: output checks, failures, and exit statuses."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.reporting.plots import check_plot, save
from benchmarks.reporting.provenance import portable
from benchmarks.reporting.results import Result, write_result
from benchmarks.reporting.tables import print_result
from emra_deploy.errors import EmraError
from emra_deploy.host.command import command
from emra_deploy.host.files import check_all_outputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAILED = 1
"""Exit status when some candidates failed and the others' results were kept."""


def check_outputs(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse outputs that cannot be written, before anything is measured.

    Args:
        arguments: The command's arguments.
        names: Attributes that hold output names or None.

    Raises:
        EmraError: That of `emra_deploy.host.files.check_all_outputs`, and for ``plot`` that of `check_plot`.
    """
    inputs = [path for path in getattr(arguments, "models", ()) if path.is_file()]
    outputs = [getattr(arguments, name) for name in names]
    check_all_outputs(outputs, overwrite=arguments.overwrite, inputs=inputs)
    if getattr(arguments, "plot", None):
        check_plot(arguments.plot)


def failure(candidate: str, error: Exception) -> dict[str, Any]:
    """The record of a candidate that failed."""
    code = error.code if isinstance(error, EmraError) else type(error).__name__
    return {"candidate": candidate, "code": code, "message": portable(" ".join(str(error).split()))[:500]}


def nothing(failures: Sequence[dict[str, Any]]) -> EmraError:
    """The error of a run in which every candidate failed, with the first cause in full."""
    first = failures[0]
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return EmraError(
        "nothing-measured",
        f"No candidate could be measured; {first['candidate']}: {first['message']}{more}",
        "Give models and backends that this machine can run",
    )


def finish(arguments: argparse.Namespace, result: Result, draw: Callable[[Result], Figure] | None = None) -> int:
    """Print a result, and write the requested files.

    Args:
        arguments: The command's arguments.
        result: The result.
        draw: Makes its chart.

    Returns:
        The exit status: 0, or `FAILED` when some candidates failed.
    """
    print_result(result)
    if arguments.json:
        write_result(arguments.json, result, overwrite=arguments.overwrite)
    if draw is not None and arguments.plot:
        save(arguments.plot, draw(result), overwrite=arguments.overwrite)
    return FAILED if result["failures"] else 0


def make_parser(script: str, text: str | None) -> argparse.ArgumentParser:
    """A parser whose help starts with the docstring of the script, line by line."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=script, description=text, formatter_class=formatter)


@command("interrupted: nothing was written")
def start(
    parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse and run a command; ``arguments.argv`` holds its words. Returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser().parse_args(words)
    arguments.argv = words
    return run(arguments)
