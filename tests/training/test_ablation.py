"""The measurement of what class attention adds tells attention that means something from attention that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from emra_deploy.evaluation import evaluate
from emra_deploy.model_file.classes import IGNORE
from emra_deploy.segmenting.segmenter import Segmenter
from tests.checkpoints import MEAN, STD, random_model, small_backbone, small_checkpoint
from tests.conftest import FP32_MODEL, REPOSITORY
from tests.training.array_tiles import tile_of
from tests.training.test_evaluate import write_data
from training.ablation import ABLATION, area, largest_correlation, main, majority, measure, windows, without_labels
from training.backend import checkpoint_backend
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import open_dataset
from training.data.scenes import DUBAI_CLASSES
from training.from_onnx import read_onnx

__all__ = ["small_backbone", "small_checkpoint"]


def planted(attention: torch.Tensor, hsmf: torch.Tensor, fusion: str = "log") -> Checkpoint:
    """A model of 2 x 2 patches whose two maps are given, whatever it is shown."""
    model = random_model(image_size=(32, 32), fusion=fusion)
    model.mca.forward = lambda qkv, grid: attention[None]
    model.hra.forward = lambda early, final, grid: hsmf[None]
    return Checkpoint(model, DUBAI_CLASSES, MEAN, STD, {}, Path())


@pytest.fixture
def quarters():
    """A picture whose four quarters are four classes, and GCA that says so."""
    labels = np.kron(np.array([[0, 1], [2, 4]], np.uint8), np.ones((16, 16), np.uint8))
    gca = torch.full((5, 2, 2), 0.02)
    for patch, label in enumerate((0, 1, 2, 4)):
        gca[label].view(-1)[patch] = 0.9
    return windows([tile_of(labels)], (32, 32)), gca


@pytest.mark.usefixtures("small_backbone")
def test_attention_that_is_right_is_seen_to_be(quarters) -> None:
    shown, gca = quarters
    found = measure(planted(gca, torch.zeros(5, 8, 8)), shown)
    assert found["miou"]["whole"] == found["miou"]["attention"] > 0.8
    # HSMF says nothing, so that without GCA every pixel is of class 0.
    assert found["miou"]["without"] == found["miou"]["mean"] == pytest.approx(1 / 4 / 4)
    assert found["miou"]["shuffled"] < 0.2
    assert found["iou"]["without"]["building"] == pytest.approx(1 / 4)
    assert found["changed"] == pytest.approx(0.75, abs=0.1)
    assert {found["auc"][name] for name in ("building", "land", "road", "water")} == {1.0}
    assert found["auc"]["vegetation"] is None
    assert found["windows"] == 1


@pytest.mark.usefixtures("small_backbone")
def test_attention_without_meaning_is_seen_to_be(quarters) -> None:
    shown, gca = quarters
    hsmf = torch.nn.functional.interpolate((gca - 0.4)[None], scale_factor=4.0)[0]
    flat = torch.tensor([[0.3, 0.2], [0.25, 0.25]]).expand(5, 2, 2)
    found = measure(planted(flat, hsmf), shown)
    assert found["miou"]["whole"] == found["miou"]["without"] == 1
    assert found["changed"] == 0
    assert found["correlation"] == pytest.approx(1)
    assert all(area is None or 0 <= area <= 1 for area in found["auc"].values())
    # The maps are the same for all classes, so they cannot rank the patches of each of them first.
    assert min(area for area in found["auc"].values() if area is not None) == 0


def test_whole_is_what_evaluate_says(small_checkpoint: Path, tmp_path: Path) -> None:
    data = open_dataset("auto", write_data(tmp_path / "data"), "val")
    checkpoint = load_checkpoint(small_checkpoint)
    found = measure(checkpoint, windows([tile for tile in data.tiles if tile.height >= 64], (64, 64)))
    segmenter = Segmenter(checkpoint_backend(checkpoint, "small"))
    expected = evaluate(segmenter, [tile for tile in data.tiles if tile.height >= 64], data.classes).scores
    assert found["miou"]["whole"] == pytest.approx(expected.miou, abs=1e-6)
    assert found["iou"]["whole"]["land"] == pytest.approx(expected.iou[1], abs=1e-6)


@pytest.mark.usefixtures("small_backbone")
def test_a_model_without_mca_has_one_row() -> None:
    model = random_model(image_size=(32, 32), mca_blocks=0)
    checkpoint = Checkpoint(model, DUBAI_CLASSES, MEAN, STD, {}, Path())
    found = without_labels(checkpoint, [np.zeros((32, 32, 3), np.uint8)])
    assert found == {"windows": 1}


def test_command(small_checkpoint: Path, tmp_path: Path, capsys) -> None:
    data = write_data(tmp_path / "data")
    words = [str(small_checkpoint), "--data", str(data), "--json", str(tmp_path / "a.json"), "--record"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:6]] == ["whole", "without", "shuffled", "mean", "attention"]
    recorded = json.loads((small_checkpoint / ABLATION).read_text())
    assert recorded == json.loads((tmp_path / "a.json").read_text())
    assert f"{recorded['miou']['whole']:.4f}" in out
    assert main([*words[:3], "--every", "3", "--json", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["windows"] == -(-recorded["windows"] // 3)
    assert main([*words[:3], "--every", "0"]) == 2
    assert main([*words[:3], "--size", "60", "64"]) == 2
    assert main(words) == 2
    assert "output-exists" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not FP32_MODEL.is_file(), reason="this copy has no models/emra-ti-dubai.onnx")
def test_the_shipped_model_is_as_its_card_says(dubai_root: Path) -> None:
    """A model whose class attention adds something, or takes something away, needs other words on the card."""
    card = (REPOSITORY / "docs" / "model-card.md").read_text(encoding="utf-8")
    assert "To the shipped model, nothing." in card
    data = open_dataset("dubai", dubai_root, "val")
    shown = islice(windows(data.tiles, (296, 296), halo=0), 0, None, 6)
    found = measure(read_onnx(FP32_MODEL), shown, "bf16")
    assert found["windows"] == 25
    assert abs(found["miou"]["whole"] - found["miou"]["without"]) < 0.005
    assert found["changed"] < 0.02
    assert found["correlation"] > 0.9


def test_area_is_the_chance_that_a_patch_of_the_class_is_ranked_first() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 20, 300).astype(np.float32)  # ties, which count a half
    truth = random.choice(np.array([0, 1, 2, IGNORE], np.uint8), 300)
    for index in range(3):
        own, other = scores[truth == index, None], scores[(truth != index) & (truth != IGNORE)]
        assert area(scores, truth, index) == pytest.approx(((own > other) + 0.5 * (own == other)).mean())
    assert area(scores, truth, 3) is None


def test_majority_needs_more_than_half_of_the_patch() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[:4, :4], labels[:4, :2] = 2, 1  # half and half
    labels[4:, :3] = 3
    labels[4:, 4:] = IGNORE
    assert majority(labels, (2, 2), 4).tolist() == [[IGNORE, 0], [3, IGNORE]]


def test_largest_correlation_is_that_of_the_closest_pair() -> None:
    random = np.random.default_rng(1)
    maps = random.random((4, 500)).astype(np.float32)
    maps[3] = -maps[0]
    assert abs(largest_correlation(maps)) < 0.2
    maps[2] = 3 * maps[1] + 1
    assert largest_correlation(maps) == pytest.approx(1)
    assert largest_correlation(np.ones((3, 9), np.float32)) is None


@pytest.mark.usefixtures("small_backbone")
def test_windows_count_every_pixel_once() -> None:
    labels = np.arange(50 * 70, dtype=np.int64).reshape(50, 70) % 5
    tile = tile_of(labels.astype(np.uint8))
    shown = list(windows([tile, replace(tile, height=20, width=30)], (32, 32)))
    assert sum(each.labels[each.keep].size for each in shown) == 50 * 70 + 20 * 30
    assert (shown[-1].labels[20:] == IGNORE).all()
    assert all(each.image.shape == (32, 32, 3) for each in shown)
