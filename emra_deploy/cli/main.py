"""``emra``: selects the verb, and reports errors as one line or one JSON object."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emra_deploy import __version__
from emra_deploy.cli import doctor, info, segment, stream
from emra_deploy.cli.signals import INTERRUPTED, answer_signals
from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

VERBS = {"segment": segment, "stream": stream, "info": info, "doctor": doctor}


def build_parser() -> ArgumentParser:
    """The parser of all verbs."""
    from emra_deploy.cli.parser import Parser

    parser = Parser(
        prog="emra",
        version=__version__,
        description="Segment aerial images with EMRA-proxy models.",
        epilog="Exit status: 0 done, 1 doctor found a fault, 2 wrong input or arguments (one line on stderr; with "
        '--json also {"error": {"code", "cause", "remedy", "path"}} on stdout), 130 interrupted.',
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB", title="verbs")
    for name, module in VERBS.items():
        verb = Parser(description=module.HELP)
        module.add_arguments(verb)
        verbs.add_subcommand(name, verb, help=module.HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status.
    """
    logging.basicConfig(level=logging.WARNING, format="emra: %(levelname)s: %(message)s")
    arguments = build_parser().parse_args(None if argv is None else list(argv))
    options = arguments[arguments.verb]
    if options.get("verbose"):
        logging.getLogger("emra_deploy").setLevel(logging.INFO)
    if argv is None:
        answer_signals()
        # File names need not be valid text; they are printed unchanged.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="surrogateescape")
    try:
        status: int = VERBS[arguments.verb].run(options)
        return status
    except EmraError as error:
        return _refuse(error, options)
    except MemoryError as error:
        return _refuse(
            EmraError("memory", f"not enough memory ({error})", "Free some, or give a smaller --batch"), options
        )
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader closed our output; keep the interpreter from reporting it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _refuse(error: EmraError, options: Namespace) -> int:
    if options.get("json"):
        print(json.dumps({"error": error.to_dict()}))
    print(f"emra: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
