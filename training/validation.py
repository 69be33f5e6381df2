"""Validation during training: the same windows and the same scores as `training/evaluate.py`."""

from __future__ import annotations

from pathlib import Path

from emra_deploy.evaluation import evaluate
from emra_deploy.evaluation.metrics import Scores
from emra_deploy.segmenting.segmenter import Segmenter
from training.backend import checkpoint_backend
from training.checkpoint import Checkpoint
from training.data import AerialDataset
from training.model import EMRAProxy
from training.recipe import Recipe


def validate(model: EMRAProxy, dataset: AerialDataset, recipe: Recipe) -> Scores:
    """Score a model on a labelled split, in windows of the training crop's size.

    Args:
        model: Keeps its device and its training mode.
        dataset: A labelled split.
        recipe: Source of mean and std.
    """
    was_training = model.training
    meta = {"bands": dataset.bands, "gsd": dataset.gsd}
    checkpoint = Checkpoint(model, dataset.classes, recipe.mean, recipe.std, meta, Path(recipe.output))
    backend = checkpoint_backend(checkpoint, dataset.name, device=str(next(model.parameters()).device))
    try:
        return evaluate(Segmenter(backend), dataset.tiles, dataset.classes).scores
    finally:
        model.train(was_training)
