"""The flags of a `Segmenter`, the same for all verbs that run a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emra_deploy.backends.options import LoadOptions
from emra_deploy.cli.flags import add_flags

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_model_arguments(parser: ArgumentParser) -> None:
    """Declare the flags of `LoadOptions`, ``--halo`` and ``--verbose``."""
    add_flags(parser, LoadOptions)
    add = parser.add_argument
    add("--halo", type=int, default=None, help="overlap of tiles on each side in pixels (default: 1/8 of a tile)")
    add("--verbose", "-v", action="store_true", help="explain choices, such as the backend, on stderr")
