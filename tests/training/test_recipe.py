from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from emra_deploy.errors import EmraError
from training.augment import AugmentConfig
from training.recipe import DataConfig, LossConfig, ModelConfig, OptimConfig, Recipe

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
SETS = ("loveda", "potsdam", "vaihingen")
BACKBONES = ("tiny", "small", "base", "large")
NAN, INF = float("nan"), float("inf")
PARTS = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "optim": OptimConfig,
    "augment": AugmentConfig,
}

BAD = [
    ("crop", 0),
    ("crop", -16),
    ("crop", 100),
    ("epochs", 0),
    ("epoch_crops", -1),
    ("mean", (NAN, 0.5, 0.5)),
    ("std", (0.5, 0.0, 0.5)),
    ("std", (0.5, 0.5, INF)),
    ("validate_every", -1),
    ("save_minutes", -0.1),
    ("save_minutes", NAN),
    ("workers", -1),
    ("threads", -1),
    ("device", "gpu"),
    ("seed", -1),
    ("resume", "always"),
    ("data.scenes", -1),
    ("data.scenes", 5),
    ("data.scene_fraction", 0.5),
    ("data.scene_fraction", -0.1),
    ("data.scene_fraction", 1.1),
    ("model.backbone", "huge"),
    ("model.hra_block", 13),
    ("model.hra_block", -1),
    ("model.mca_blocks", -1),
    ("model.mca_blocks", 13),
    ("model.fusion", "max"),
    ("model.class_tokens", "random"),
    ("model.frozen_blocks", -1),
    ("model.frozen_blocks", 13),
    ("model.drop_path", 1.0),
    ("model.drop_path", -0.1),
    ("model.zoom", 0),
    ("model.zoom", 3),
    ("loss.balance", "median"),
    ("loss.balance_power", -1.0),
    ("loss.hsmf_weight", -0.1),
    ("loss.jaccard_weight", -0.5),
    ("loss.attention_weight", -0.1),
    ("loss.presence_weight", NAN),
    ("loss.contrast_weight", INF),
    ("loss.label_smoothing", 1.1),
    ("optim.optimizer", "adam"),
    ("optim.schedule", "step"),
    ("optim.precision", "fp8"),
    ("optim.lr", 0.0),
    ("optim.lr", -1.0),
    ("optim.lr", NAN),
    ("optim.lr", INF),
    ("optim.weight_decay", -1e-4),
    ("optim.warmup", -1),
    ("optim.batch_size", 0),
    ("optim.accumulate", 0),
    ("optim.clip", -1.0),
    ("optim.ema", 1.0),
    ("optim.ema", -0.1),
    ("augment.rotate", 46.0),
    ("augment.rotate", -1.0),
    ("augment.scale", (2.0, 0.5)),
    ("augment.scale", (0.0, 1.0)),
    ("augment.scale", (NAN, 1.0)),
    ("augment.brightness", 1.1),
    ("augment.contrast", -0.1),
    ("augment.saturation", NAN),
    ("augment.tint", 2.0),
    ("augment.gamma", -0.1),
    ("augment.gamma", INF),
    ("augment.cutmix", 1.5),
]
# Free text and switches: the data set's folder decides whether these are right.
FREE = {"output", "data.kind", "data.root", "data.train", "data.val", "data.check", "model.init"} | {
    "augment.flip",
    "augment.quarter_turns",
}


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named(name, value):
    part, _, key = name.rpartition(".")
    with pytest.raises(EmraError) as caught:
        Recipe(**({part: PARTS[part](**{key: value})} if part else {key: value}))
    assert caught.value.code in ("recipe", "model-config")
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_value_goes_unchecked():
    every = set()
    for field in fields(Recipe):
        part = PARTS.get(field.name)
        every |= {f"{field.name}.{inner.name}" for inner in fields(part)} if part else {field.name}
    assert every == {name for name, _ in BAD} | FREE


def test_the_defaults_are_good():
    assert all(is_dataclass(getattr(Recipe(), name)) for name in PARTS)


def read(*paths: Path, **overrides: object) -> Recipe:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Recipe, fail_untyped=True)
    argv = [word for path in paths for word in ("--config", str(path))]
    values = parser.instantiate(parser.parse_args(argv + [f"--{key}={value}" for key, value in overrides.items()]))
    values.pop("config")
    return Recipe(**vars(values))


def flat(recipe: Recipe) -> dict[str, object]:
    values = {}
    for key, value in asdict(recipe).items():
        values |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return values


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read(path):
    recipe = read(path)
    assert recipe.output == f"runs/{path.stem}"
    assert path.stem.startswith(f"{recipe.data.kind}_")
    if recipe.data.kind in SETS:
        assert path.stem == f"{recipe.data.kind}_{recipe.model.backbone}"


def test_there_is_one_for_each_set_and_backbone():
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    assert names >= {f"{kind}_{backbone}" for kind in SETS for backbone in BACKBONES} | {"dubai_tiny"}


def test_the_papers_recipes_differ_only_where_they_must():
    recipes = {path.stem: flat(read(path)) for path in RECIPES.glob("*.yaml") if path.stem.split("_")[0] in SETS}
    first = recipes["loveda_tiny"]
    allowed = {"output", "data.kind", "data.root", "model.backbone", "optim.batch_size", "optim.accumulate"}
    for name, values in recipes.items():
        assert {key for key in values if values[key] != first[key]} <= allowed, name
        assert values["optim.batch_size"] * values["optim.accumulate"] == 8, name


def test_the_papers_setting():
    values = flat(read(RECIPES / "potsdam_base.yaml"))
    expected = {
        "optim.optimizer": "sgd",
        "optim.schedule": "poly",
        "loss.balance": "none",
        "loss.hsmf_weight": 0.0,
        "epochs": 100,
        "epoch_crops": 0,
        "crop": 512,
        "model.hra_block": 3,
        "model.mca_blocks": 4,
        "model.fusion": "product",
        "model.init": "hub",
    }
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hub_recipes_normalise_as_the_weights_expect(backbone):
    timm = pytest.importorskip("timm")
    recipe = read(RECIPES / f"loveda_{backbone}.yaml")
    trained = timm.get_pretrained_cfg(f"vit_{backbone}_patch16_224")
    assert (recipe.mean, recipe.std) == (tuple(trained.mean), tuple(trained.std))


def test_later_files_and_arguments_win(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("optim: {lr: 0.5}\nmodel: {backbone: small}\n")
    recipe = read(RECIPES / "loveda_tiny.yaml", mine, **{"optim.batch_size": 2})
    assert (recipe.optim.lr, recipe.model.backbone, recipe.optim.batch_size) == (0.5, "small", 2)
    assert recipe.optim.optimizer == "sgd"
