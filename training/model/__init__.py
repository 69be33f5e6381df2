"""EMRA-proxy in PyTorch: one file per part of the paper, composed in `emra`."""

from training.model.config import BACKBONES, EMRAConfig
from training.model.emra import EMRAProxy, Parts

__all__ = ["BACKBONES", "EMRAConfig", "EMRAProxy", "Parts"]
