"""The flags of `LoadOptions`, the same for all verbs that run a model."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from emra_deploy.backends.options import LoadOptions, help_texts

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_model_arguments(parser: ArgumentParser) -> None:
    """Declare the flags of `LoadOptions`, ``--halo`` and ``--verbose``."""
    add_load_arguments(parser)
    add = parser.add_argument
    add("--halo", type=int, default=None, help="overlap of tiles on each side in pixels (default: 1/8 of a tile)")
    add("--verbose", "-v", action="store_true", help="say on stderr what was chosen and why")


def add_load_arguments(parser: Any) -> None:
    """Declare a flag for each attribute of `LoadOptions` that the user chooses.

    Args:
        parser: An ``ArgumentParser`` of argparse or jsonargparse.
    """
    texts, hints = help_texts(), get_type_hints(LoadOptions)
    for entry in _flags():
        hint, names = hints[entry.name], entry.metadata.get("one_of")
        text = texts.get(entry.name, "").rstrip(".") + (f" (one of {', '.join(names)})" if names else "")
        kind = {"action": "store_true"} if hint is bool else {"type": int if hint in (int, int | None) else str}
        flag = f"--{entry.name.replace('_', '-')}"
        parser.add_argument(flag, default=entry.default, help=text[:1].lower() + text[1:], **kind)


def load_options(options: Any) -> LoadOptions:
    """What the flags say, checked.

    Args:
        options: The namespace that the parser made.

    Raises:
        EmraError: Those of `LoadOptions`.
    """
    return LoadOptions(**{entry.name: getattr(options, entry.name) for entry in _flags()})


def _flags() -> list[Field[Any]]:
    return [entry for entry in fields(LoadOptions) if entry.metadata.get("flag", True)]
