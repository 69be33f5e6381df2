"""Whole runs, of a few steps, on a small copy of the Dubai layout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.training.data.layouts import make_dubai
from training.checkpoint import load_checkpoint, load_state
from training.train import main

SCRIPT = REPOSITORY / "training" / "train.py"
STILL = """
augment: {flip: false, quarter_turns: false, rotate: 0, scale: [1, 1], brightness: 0, contrast: 0, saturation: 0,
          tint: 0, gamma: 0, cutmix: 0}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dubai")
    make_dubai(root, areas=range(1, 3))
    return root


@pytest.fixture
def recipe(data, tmp_path) -> Path:
    """Four steps in two epochs, everything random switched on."""
    return write(tmp_path / "recipe.yaml", data)


def write(path: Path, data: Path, extra: str = "") -> Path:
    path.write_text(
        f"""
data: {{kind: dubai, root: {data}}}
model: {{backbone: tiny, drop_path: 0.1}}
optim: {{optimizer: adamw, lr: 1.0e-3, schedule: cosine, batch_size: 2, precision: fp32, ema: 0.9}}
crop: 32
epochs: 2
epoch_crops: 4
validate_every: 1
workers: 0
threads: 1
device: cpu
{extra}"""
    )
    return path


def run(recipe: Path, output: Path, /, **options: object) -> int:
    return main(arguments(recipe, output, **options))


def arguments(recipe: Path, output: Path, /, **options: object) -> list[str]:
    return ["--config", str(recipe), "--output", str(output), *(f"--{key}={value}" for key, value in options.items())]


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    steps = [line for line in log(folder) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    return [line["loss"] for line in steps]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder).model.state_dict()


def test_a_run_leaves_checkpoints_and_logs(recipe, tmp_path, capsys):
    output = tmp_path / "run"
    assert run(recipe, output) == 0
    assert capsys.readouterr().out.startswith("steps 4, best 0.")
    names = {path.name for path in output.iterdir()}
    assert names == {"best", "last", "log.jsonl", "state.pt", "tensorboard"}
    for name in ("best", "last"):
        checkpoint = load_checkpoint(output / name)
        assert checkpoint.classes.names == ("building", "land", "road", "vegetation", "water")
        assert checkpoint.model.config.image_size == (32, 32)
        assert checkpoint.meta["data"] == {"name": "dubai", "split": "train", "tiles": 12}
    assert load_checkpoint(output / "best").meta["validation"]["miou"] > 0
    assert any((output / "tensorboard").iterdir())
    scored = [line for line in log(output) if "miou" in line]
    assert [(line["step"], line["epoch"]) for line in scored] == [(2, 1), (4, 2)]
    assert all(0 < line["oa"] < 1 for line in scored)
    rates = [line["lr"] for line in log(output) if "loss" in line]
    assert rates[0] == 1e-3
    assert rates == sorted(rates, reverse=True)
    # The average is shipped; training resumes from the model.
    state = load_state(output / "state.pt")
    key = "hra.classifier.weight"
    assert torch.equal(weights(output / "last")[key], state["average"][f"module.{key}"])
    assert not torch.equal(state["model"][key], state["average"][f"module.{key}"])
    # The same command again has nothing left to do.
    before = losses(output)
    assert run(recipe, output) == 0
    assert losses(output) == before


@pytest.mark.slow
def test_killed_and_gone_on_is_the_uninterrupted_run_to_the_last_bit(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(recipe, whole) == 0
    options = {"save_minutes": 0}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments(recipe, killed, **options)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not (killed / "state.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    done = load_state(killed / "state.pt")["step"]
    assert 1 <= done < 4
    assert run(recipe, killed, **options) == 0
    assert losses(killed) == losses(whole)
    ours, theirs = weights(killed / "last"), weights(whole / "last")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_resuming_from_each_step_changes_nothing(recipe, tmp_path, monkeypatch):
    """A quick form of the test above, without the kill: training resumes from every saved state."""
    from training import trainer

    states = tmp_path / "states"
    states.mkdir()
    original = trainer.save_state

    def keep(path: Path, state: dict) -> None:
        original(path, state)
        shutil.copy(path, states / f"{state['step']}.pt")

    monkeypatch.setattr(trainer, "save_state", keep)
    assert run(recipe, tmp_path / "whole", save_minutes=0) == 0
    monkeypatch.undo()
    whole = losses(tmp_path / "whole")
    assert sorted(path.stem for path in states.iterdir()) == ["1", "2", "3", "4"]
    for step in (1, 3):
        output = tmp_path / f"from{step}"
        output.mkdir()
        shutil.copy(states / f"{step}.pt", output / "state.pt")
        assert run(recipe, output, **{"data.val": ""}) == 0
        rest = [line["loss"] for line in log(output) if "loss" in line]
        assert rest == whole[step:]


def test_worker_processes_change_no_loss(recipe, tmp_path):
    options = {"data.val": "", "epochs": 1}
    assert run(recipe, tmp_path / "none", **options) == 0
    assert run(recipe, tmp_path / "two", workers=2, **options) == 0
    assert losses(tmp_path / "none") == losses(tmp_path / "two")


@pytest.fixture
def still(data, tmp_path) -> Path:
    """Nothing random but the crops, and plain labels: two halves of a batch have as many labelled pixels."""
    root = tmp_path / "whole_labels"
    shutil.copytree(data, root)
    for path in (root / "masks").iterdir():
        _fill(path)
    return write(tmp_path / "still.yaml", root, STILL)


def _fill(path: Path) -> None:
    """Label every pixel; tiles are 41 or 42 wide and 31 to 37 high, so that crops of 16 never leave them."""
    import numpy as np
    from PIL import Image

    from training.data import dubai

    palette = np.array(dubai.CLASSES.palette, np.uint8)
    with Image.open(path) as image:
        size = image.size
    labels = np.random.default_rng(len(path.name)).integers(0, 5, (size[1], size[0]))
    Image.fromarray(palette[labels]).save(path)


PLAIN = {"crop": 16, "data.val": "", "model.drop_path": 0.0, "epochs": 1, "optim.ema": 0.0, "optim.optimizer": "sgd"}


def test_accumulation_is_the_larger_batch(still, tmp_path):
    options = PLAIN | {"epoch_crops": 12}
    assert run(still, tmp_path / "large", **(options | {"optim.batch_size": 4})) == 0
    assert run(still, tmp_path / "small", **(options | {"optim.batch_size": 2, "optim.accumulate": 2})) == 0
    large, small = losses(tmp_path / "large"), losses(tmp_path / "small")
    assert len(large) == 3
    assert small == pytest.approx(large, rel=1e-4)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(still, tmp_path):
    options = PLAIN | {"epoch_crops": 12}
    assert run(still, tmp_path / "one", **(options | {"optim.batch_size": 4})) == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            str(SCRIPT),
            *arguments(still, tmp_path / "two", **(options | {"optim.batch_size": 2})),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-4)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"last", "log.jsonl", "state.pt", "tensorboard"}
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    ours, theirs = weights(tmp_path / "two" / "last"), weights(tmp_path / "one" / "last")
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_full(still, tmp_path, precision):
    options = PLAIN | {"epoch_crops": 4}
    assert run(still, tmp_path / "fp32", **options) == 0
    assert run(still, tmp_path / precision, **(options | {"optim.precision": precision})) == 0
    full, half = losses(tmp_path / "fp32"), losses(tmp_path / precision)
    assert half == pytest.approx(full, rel=0.02)
    assert half != full


def test_learning_starts_from_a_checkpoint(recipe, tmp_path):
    options = {"data.val": "", "epochs": 1}
    assert run(recipe, tmp_path / "first", **options) == 0
    assert run(recipe, tmp_path / "second", **(options | {"model.init": tmp_path / "first" / "last"})) == 0
    assert losses(tmp_path / "first") != losses(tmp_path / "second")


MISTAKES = [
    ({"data.root": "nowhere"}, "input-missing"),
    ({"data.train": "everything"}, "split-unknown"),
    ({"data.kind": "cityscapes"}, "dataset-kind"),
    ({"data.scenes": 2}, "scene_fraction"),
    ({"crop": 33}, "crop"),
    ({"crop": "large"}, "crop"),
    ({"nonsense": 1}, "nonsense"),
    ({"optim.lr": -1}, "optim.lr"),
    ({"model.backbone": "huge"}, "backbone"),
    ({"model.init": "nowhere.safetensors"}, "pretrained-missing"),
    ({"config": "nowhere.yaml"}, "nowhere.yaml"),
    ({"output": "/proc/nowhere"}, "output-unwritable"),
]


@pytest.mark.parametrize(("options", "word"), MISTAKES, ids=[word for _, word in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(recipe, tmp_path, capsys, options, word):
    assert run(recipe, tmp_path / "run", **options) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert word in said.err
    assert not list(tmp_path.glob("run/*"))


def test_training_on_with_another_fusion_from_the_blocks_up(recipe, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(recipe, first, **{"data.val": "", "epochs": 1}) == 0
    options = {"model.init": first / "last", "model.fusion": "log", "model.frozen_blocks": 8}
    options |= {"loss.attention_weight": 0.5, "loss.presence_weight": 0.1, "loss.contrast_weight": 0.1}
    options |= {"data.val": "", "epochs": 1, "optim.ema": 0.0}
    assert run(recipe, second, **options) == 0
    before, after = (load_checkpoint(folder / "last").model.state_dict() for folder in (first, second))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith("backbone.") and not name.startswith("backbone.norm")}
    frozen -= {name for name in before if name.startswith(tuple(f"backbone.blocks.{block}." for block in range(8, 12)))}
    assert moved == before.keys() - frozen
    assert (after["fusion.log_sharpness"] != torch.tensor(5.0).log()).all()
    asked = []
    monkeypatch.setattr(
        "training.train.start_from_prototypes", lambda model, tiles, mean, _: asked.append((mean, len(tiles)))
    )
    # From the prototypes of the classes, and without MCA, the same start serves.
    options |= {"model.class_tokens": "prototypes", "model.mca_blocks": 0}
    options |= {name: 0.0 for name in options if name.startswith("loss.")}
    assert run(recipe, tmp_path / "third", **options) == 0
    assert asked == [((0.485, 0.456, 0.406), 12)]
    assert load_checkpoint(tmp_path / "third" / "last").model.config.mca_blocks == 0


def test_cuda_without_one(recipe, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run(recipe, tmp_path / "run", device="cuda") == 2
    assert "device-missing" in capsys.readouterr().err


def test_bad_data_is_found_before_training(recipe, data, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    path = broken / "images" / "tile1_part003.jpg"
    path.write_bytes(path.read_bytes()[:200])
    assert run(recipe, tmp_path / "run", **{"data.root": broken}) == 2
    assert path.name in capsys.readouterr().err


def test_a_state_of_another_recipe(recipe, tmp_path, capsys):
    output = tmp_path / "run"
    options = {"data.val": "", "epochs": 1}
    assert run(recipe, output, **options) == 0
    before = (output / "log.jsonl").read_text()
    for change in (
        {"model.fusion": "gated"},
        {"optim.optimizer": "sgd"},
        {"optim.ema": 0.0},
        {"crop": 48},
        {"epoch_crops": 2},
    ):
        capsys.readouterr()
        assert run(recipe, output, **(options | change)) == 2, change
        error = capsys.readouterr().err
        assert "state-mismatch" in error
        assert error.count("error: ") == 1
    (output / "state.pt").write_bytes(b"x")
    assert run(recipe, output, **options) == 2
    assert "state-damaged" in capsys.readouterr().err
    assert (output / "log.jsonl").read_text() == before
    assert run(recipe, output, resume="never", **options) == 0
    assert len(losses(output)) == 2


def test_a_loss_that_is_no_number_stops_the_run(recipe, tmp_path, capsys):
    assert run(recipe, tmp_path / "run", **{"optim.lr": 1e30, "optim.optimizer": "sgd", "data.val": ""}) == 2
    assert "loss-not-finite" in capsys.readouterr().err
