"""Train an EMRA-proxy from a recipe.

python -m training.train --config training/recipes/dubai_tiny.yaml --data.root data/dubai
torchrun --nproc-per-node 4 training/train.py --config training/recipes/loveda_base.yaml
"""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emra_deploy.cli.flags import describe
from emra_deploy.cli.parser import Parser
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import make_folder
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.windows import Window

with script_imports(__name__, "train"):
    import torch

    from training.checkpoint import load_checkpoint
    from training.data import AerialDataset, check, open_dataset
    from training.data.generated import generated_scenes
    from training.data.readers import cache
    from training.distributed import Processes, first_alone, join
    from training.from_onnx import read_onnx
    from training.model import EMRAConfig, EMRAProxy
    from training.model.mimetic import start_mimetic
    from training.model.pretrained import load_pretrained
    from training.prototypes import start_from_prototypes
    from training.recipe import ModelConfig, Recipe
    from training.trainer import Trainer

LOG = logging.getLogger("training")


def train(recipe: Recipe) -> dict[str, Any]:
    """Run a recipe to its end.

    Args:
        recipe: The recipe.

    Returns:
        ``steps``, ``best`` and, where there is a validation split, the last ``miou`` and ``oa``.

    Raises:
        EmraError: The data or the recipe are invalid; nothing was trained.
    """
    with join(recipe.device) as processes:
        training, validation, scenes = build_data(recipe, processes)
        model = build_model(recipe.model, training.classes, recipe.crop, recipe.seed)
        if recipe.model.class_tokens == "prototypes":
            start_from_prototypes(model, training.tiles, recipe.mean, recipe.std)
        model.backbone.freeze(recipe.model.frozen_blocks)
        return Trainer(recipe, model, training, validation, scenes, processes).run()


def build_data(
    recipe: Recipe, processes: Processes
) -> tuple[AerialDataset, AerialDataset | None, AerialDataset | None]:
    """The training split, the validation split and the scenes of a recipe, checked; makes the output folder.

    Raises:
        EmraError: The data or the output folder are invalid.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    data = recipe.data
    training = open_dataset(data.kind, data.root, data.train)
    validation = open_dataset(data.kind, data.root, data.val) if data.val else None
    scenes = generated_scenes(data.scenes) if data.scenes else None
    _labelled(training, validation)
    _same_classes(training.classes, (validation, scenes))
    with first_alone(processes):
        if processes.first:
            make_folder(Path(recipe.output))
            if data.check:
                for dataset in filter(None, (training, validation)):
                    check(dataset)
    if scenes is not None:
        LOG.info("generating %d scenes", len(scenes.tiles))
        cache.set_budget(cache.budget + 4 * scenes.pixels)  # scenes and tiles must not evict each other
        for tile in scenes.tiles:  # before worker processes are forked, which then share them
            tile.read_labels(Window(0, 0, 1, 1))
    return training, validation, scenes


def build_model(config: ModelConfig, classes: ClassSet, crop: int, seed: int) -> EMRAProxy:
    """Build a recipe's model with its initial weights.

    Args:
        config: The recipe's.
        classes: Of the data.
        crop: Side of the training crops, pixels.
        seed: Of the random start.

    Raises:
        EmraError: ``config.init`` cannot be read or does not fit.
    """
    torch.manual_seed(seed)
    model = EMRAProxy(
        EMRAConfig(
            backbone=config.backbone,
            num_classes=len(classes),
            image_size=(crop // config.zoom, crop // config.zoom),
            zoom=config.zoom,
            hra_block=config.hra_block,
            mca_blocks=config.mca_blocks,
            fusion=config.fusion,
        ),
        config.drop_path,
    )
    if config.init == "scratch":
        return model
    if config.init == "mimetic":
        start_mimetic(model, torch.Generator().manual_seed(seed))
    elif Path(config.init).is_dir() or config.init.endswith(".onnx"):
        _start_from_checkpoint(model, config.init, classes)
    else:
        load_pretrained(model, config.init)
    return model


def _start_from_checkpoint(model: EMRAProxy, folder: str, classes: ClassSet) -> None:
    checkpoint = read_onnx(Path(folder)) if folder.endswith(".onnx") else load_checkpoint(folder)
    if checkpoint.classes.names != classes.names:
        raise EmraError(
            "class-names",
            f"the checkpoint has the classes {checkpoint.classes.names}, the data {classes.names}",
            "Start from a checkpoint of the same classes, or from backbone weights",
            folder,
        )
    checkpoint.model.set_image_size(*model.config.image_size, zoom=model.config.zoom)
    weights = {f"fusion.{name}": value for name, value in model.fusion.state_dict().items()}
    for name, value in checkpoint.model.state_dict().items():
        if name in weights or not name.startswith("fusion."):
            weights[name] = value
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise EmraError(
            "checkpoint-mismatch",
            f"its model is {checkpoint.model.config}, the recipe's is {model.config}",
            "Give the recipe the checkpoint's backbone",
            folder,
        ) from error


def _labelled(*datasets: AerialDataset | None) -> None:
    for dataset in filter(None, datasets):
        if not dataset.labelled:
            raise EmraError(
                "no-labels",
                f"the labels of {dataset.name} {dataset.split} are not public",
                "Train and validate on labelled splits; data.val may be empty",
            )


def _same_classes(classes: ClassSet, others: tuple[AerialDataset | None, ...]) -> None:
    for other in others:
        if other is not None and other.classes.names != classes.names:
            raise EmraError(
                "class-names",
                f"{other.name} {other.split} has the classes {other.classes.names}, training has {classes.names}",
                "Train and validate on the same classes; scenes have those of Dubai only",
            )


def command(run: Callable[[Recipe], dict[str, Any]], prog: str, description: str, argv: list[str] | None) -> int:
    """Run a recipe given on the command line, and return the exit status: 2 for a user error."""
    parser = Parser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a recipe, such as training/recipes/dubai_tiny.yaml")
    parser.add_class_arguments(Recipe, fail_untyped=True)
    describe(parser, Recipe)
    try:
        values = parser.instantiate(parser.parse_args(argv))
        values.pop("config", None)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        recipe = Recipe(**vars(values))
        result = run(recipe)
    except (EmraError, ArgumentError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command resumes from the last saved state\n")
        return 130
    shown = (f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in result.items())
    sys.stdout.write(", ".join(shown) + "\n")
    for checkpoint in (Path(recipe.output) / name for name in ("best", "last")):
        if checkpoint.is_dir():
            sys.stderr.write(f"wrote {checkpoint}\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return the exit status."""
    return command(train, "training/train.py", "Train an EMRA-proxy from a recipe.", argv)


if __name__ == "__main__":
    sys.exit(main())
