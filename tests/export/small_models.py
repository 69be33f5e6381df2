"""Small real exports and labelled pictures, made once per test session, for all that starts from an ONNX file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from export.to_onnx import to_onnx
from tests.checkpoints import MEAN, STD, narrow_backbone, random_model
from training.checkpoint import save_checkpoint
from training.data.scenes import DUBAI_CLASSES, generate


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of four blocks of width 64 at 64 x 64 pixels, zoom 2, in place of ViT-Ti."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    with narrow_backbone():
        save_checkpoint(folder, random_model(image_size=(64, 64), zoom=2), DUBAI_CLASSES, MEAN, STD, {})
    return folder


@pytest.fixture(scope="session")
def small_file(tiny_checkpoint: Path) -> Path:
    """Its export: bytes in, labels alone out, any batch; weights stored as FP16, computed in FP32. Only to be read."""
    path = tiny_checkpoint.parent / "small.onnx"
    with narrow_backbone():
        to_onnx(tiny_checkpoint, path, weights="float16", heads=("classes",))
    return path


@pytest.fixture(scope="session")
def explicit_file(tiny_checkpoint: Path) -> Path:
    """Another: explicit aggregation, all heads, floats in, two pictures at a time, FP32 weights. Only to be read."""
    path = tiny_checkpoint.parent / "explicit.onnx"
    heads = ("classes", "logits", "confidence")
    with narrow_backbone():
        to_onnx(tiny_checkpoint, path, aggregation="explicit", heads=heads, input_kind="float", batch=2)
    return path


@pytest.fixture(scope="session")
def scene_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with their truth, as a data set of one's own. Only to be read."""
    root = tmp_path_factory.mktemp("scenes")
    for split, seeds in (("train", range(3)), ("val", range(10, 12))):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for seed in seeds:
            made = generate(seed, 70, 140)
            Image.fromarray(made.image).save(root / "images" / split / f"{seed}.png")
            Image.fromarray(made.labels).save(root / "masks" / split / f"{seed}.png")
    (root / "classes.yaml").write_text(yaml.safe_dump({"names": list(DUBAI_CLASSES.names), "masks": "index"}))
    return root
