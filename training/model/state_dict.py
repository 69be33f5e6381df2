"""The tensors of a network in whatever a training left behind: nested, wrapped, averaged, with prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that torch.compile, DataParallel, averages of weights, FSDP and checkpointing put in, at any place."""

_AVERAGES = frozenset({"ema", "swa", "teacher", "average", "averaged", "avg"})
_DEPTH = 4


class Found(NamedTuple):
    """The tensors of one network.

    Attributes:
        tensors: By the network's own names.
        others: Full names of the tensors beside it, such as of a head or of a second network.
        place: Where they were, such as ``state_dict: model.``; empty at the top without a prefix.
    """

    tensors: dict[str, Tensor]
    others: tuple[str, ...]
    place: str


def find_network(loaded: Any, anchor: str) -> Found | None:
    """The tensors of the network that has a tensor named ``anchor``, or None where nothing has.

    Of several, such as a network beside its average, or student and teacher, the average is taken, as by timm.

    Args:
        loaded: What a file holds: tensors by name, or mappings of mappings of them.
        anchor: A name that the network surely has, such as ``patch_embed.proj.weight``.
    """
    found = []
    for path, tensors in _mappings(loaded):
        plain = {plain_name(name): tensor for name, tensor in tensors.items()}
        for name in plain:
            if name == anchor or name.endswith(f".{anchor}"):
                found.append((path, name[: -len(anchor)], plain))
    if not found:
        return None
    path, prefix, plain = min(found, key=lambda one: (not _averaged(one[0], one[1]), _depth(one[0]), len(one[1])))
    others = tuple(name for name in plain if not name.startswith(prefix))
    inside = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    return Found(inside, others, ": ".join(filter(None, (path, prefix))))


def named_tensors(loaded: Any) -> dict[str, Tensor]:
    """The largest mapping of tensors by name; empty where there is none."""
    return max((tensors for _, tensors in _mappings(loaded)), key=len, default={})


def _mappings(loaded: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(loaded, Mapping):
        return
    named = {name: value for name, value in loaded.items() if isinstance(name, str)}
    if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
        yield path, tensors
    if depth:
        for name, value in named.items():
            yield from _mappings(value, f"{path}.{name}" if path else name, depth - 1)


def plain_name(name: str) -> str:
    """A tensor's name without what wrappers put in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _averaged(path: str, prefix: str) -> bool:
    return not _AVERAGES.isdisjoint(re.split(r"[._]", f"{path}.{prefix}".lower()))


def _depth(path: str) -> int:
    return path.count(".") + bool(path)
