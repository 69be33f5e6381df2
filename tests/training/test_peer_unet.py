"""The peer is trained and scored, and the scored weights are the saved ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emra_deploy.evaluation import evaluate
from emra_deploy.segmenting.segmenter import Segmenter
from tests.training.data.layouts import make_dubai
from training.data import open_dataset
from training.recipe import Recipe

pytest.importorskip("segmentation_models_pytorch", reason="the peer needs segmentation_models_pytorch (extra dev)")
from training.peer_unet import PeerBackend, PeerUNet, main


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two steps on one picture, validated on another."""
    make_dubai(tmp_path / "dubai", parts=range(1, 8, 6), areas=range(1, 2))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
output: {tmp_path / "run"}
data: {{kind: dubai, root: {tmp_path / "dubai"}}}
optim: {{optimizer: adamw, lr: 1.0e-3, batch_size: 2, precision: fp32, ema: 0.9}}
crop: 32
epochs: 1
epoch_crops: 4
validate_every: 1
workers: 0
threads: 1
device: cpu
"""
    )
    return path


@pytest.mark.slow
def test_a_run_leaves_the_weights_that_were_scored(recipe: Path, tmp_path: Path, capsys) -> None:
    assert main(["--config", str(recipe)]) == 0
    assert capsys.readouterr().out.startswith("steps 2, best 0.")
    content = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    data = open_dataset("dubai", tmp_path / "dubai", "val")
    assert [image["name"] for image in content["images"]] == [tile.name for tile in data.tiles] == ["tile1_part007"]
    assert content["windows"]["height"] == 512
    assert sum(map(sum, content["confusion"])) == content["images"][0]["pixels"] > 0

    model = PeerUNet(len(data.classes))
    model.load_state_dict(load_file(tmp_path / "run" / "last" / "model.safetensors"))
    backend = PeerBackend(model, data.classes, Recipe())
    again = evaluate(Segmenter(backend), data.tiles, data.classes)
    assert again.matrix.counts.tolist() == content["confusion"]
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if "loss" in line] == [1, 2]


@pytest.mark.parametrize("words", [("--crop", "48"), ("--loss.hsmf_weight", "0.5")])
def test_what_a_unet_cannot_have_is_refused_first(recipe: Path, tmp_path: Path, capsys, words) -> None:
    assert main(["--config", str(recipe), *words]) == 2
    error = capsys.readouterr().err
    assert words[0].removeprefix("--") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
