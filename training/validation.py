"""Validation during training: the same windows and the same scores as `training/evaluate.py`."""

from __future__ import annotations

from emra_deploy.evaluation import evaluate
from emra_deploy.metrics import Scores
from emra_deploy.segmenter import Segmenter

from training.backend import TorchBackend
from training.data import AerialDataset
from training.model import EMRAProxy
from training.recipe import Recipe


def validate(model: EMRAProxy, dataset: AerialDataset, recipe: Recipe) -> Scores:
    """Scores of a model on a labelled split, in windows of the training crop's size.

    Args:
        model: Left in the mode it came in.
        dataset: Labelled.
        recipe: Gives crop, mean and std.
    """
    was_training = model.training
    backend = TorchBackend(model.eval(), recipe.mean, recipe.std, (recipe.crop, recipe.crop))
    try:
        return evaluate(Segmenter(backend, backend.manifest(dataset.classes)), dataset).scores
    finally:
        model.train(was_training)
