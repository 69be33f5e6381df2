"""EMRA-proxy in PyTorch: one file per part of the paper, composed in `emra`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training.model.config import BACKBONES, EMRAConfig

if TYPE_CHECKING:
    from training.model.emra import EMRAProxy, Parts

__all__ = ["BACKBONES", "EMRAConfig", "EMRAProxy", "Parts"]


def __getattr__(name: str) -> Any:
    # PyTorch only where the network itself is asked for: `python -m training.model` has to say that it is missing.
    if name in __all__:
        from training.model import emra

        return getattr(emra, name)
    raise AttributeError(name)
