from __future__ import annotations

import itertools
import json
import multiprocessing
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.seal import take_json_seal
from training.checkpoint import (
    CONFIG,
    WEIGHTS,
    load_checkpoint,
    load_state,
    replace_file,
    save_checkpoint,
    save_state,
)
from training.model import EMRAConfig, EMRAProxy

CLASSES = ClassSet(("ground", "roof", "water"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[EMRAProxy, Path]:
    torch.manual_seed(0)
    model = EMRAProxy(EMRAConfig(num_classes=3, image_size=(32, 48), mca_blocks=2, hra_block=5, fusion="gated"))
    folder = tmp_path_factory.mktemp("run") / "best"
    save_checkpoint(folder, model, CLASSES, MEAN, STD, {"step": 7, "data": {"name": "x"}})
    return model, folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(saved[1], tmp_path / "copy"))


def fails(folder: Path, code: str, *words: str) -> None:
    with pytest.raises(EmraError) as caught:
        load_checkpoint(folder)
    assert caught.value.code == code
    assert caught.value.path
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def edit(folder: Path, **values: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    take_json_seal(config)
    (folder / CONFIG).write_text(json.dumps(config | values))


def test_round_trip(saved):
    model, folder = saved
    back = load_checkpoint(folder)
    assert back.model.config == model.config
    assert (back.classes, back.mean, back.std) == (CLASSES, MEAN, STD)
    assert back.meta == {"step": 7, "data": {"name": "x"}}
    assert not back.model.training
    assert back.model.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in back.model.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    load_checkpoint(str(folder))


def test_saving_again_replaces(saved, tmp_path):
    model, _ = saved
    save_checkpoint(tmp_path, model, CLASSES, MEAN, STD, {"step": 1})
    save_checkpoint(tmp_path, model, CLASSES, STD, MEAN, {"step": 2})
    back = load_checkpoint(tmp_path)
    assert back.meta == {"step": 2}
    assert back.mean == STD


def test_no_checkpoint(tmp_path, copy):
    fails(tmp_path / "nowhere", "checkpoint-missing", CONFIG)
    (copy / WEIGHTS).unlink()
    fails(copy, "checkpoint-missing", WEIGHTS)
    fails(copy / CONFIG, "checkpoint-missing")


@pytest.mark.parametrize("kept", [0, 4, 8, 1000, 0.5, -1])
def test_truncated_weights(copy, kept):
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    fails(copy, "checkpoint-weights")


@pytest.mark.parametrize("content", [b"not tensors at all", b"\xff" * 64, b"PK\x03\x04" + bytes(200)])
def test_foreign_weights(copy, content):
    (copy / WEIGHTS).write_bytes(content)
    fails(copy, "checkpoint-weights")


def test_weights_that_do_not_fit(copy):
    weights = load_file(copy / WEIGHTS)
    for change in (
        {key: value for key, value in weights.items() if key != "hra.classifier.bias"},
        weights | {"surplus": torch.zeros(1)},
        weights | {"hra.classifier.bias": torch.zeros(4)},
        {key: value for key, value in weights.items() if key != "backbone.patch_positions"},
        {"x": torch.zeros(1)},
    ):
        save_file(change, copy / WEIGHTS)
        fails(copy, "checkpoint-weights")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(copy, value):
    weights = load_file(copy / WEIGHTS)
    weights["hra.classifier.bias"][1] = value
    save_file(weights, copy / WEIGHTS)
    fails(copy, "checkpoint-weights", "hra.classifier.bias")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        "[" * 100_000,
        b"\xff\xfe\x00".decode("latin-1"),
    ],
    ids=["empty", "cut", "list", "null", "number", "no keys", "deep", "binary"],
)
def test_damaged_configuration(copy, content):
    (copy / CONFIG).write_bytes(content.encode("latin-1"))
    fails(copy, "checkpoint-config", CONFIG)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"format": 2}, "checkpoint-config"),
        ({"format": None}, "checkpoint-config"),
        ({"classes": 3}, "checkpoint-config"),
        ({"palette": [[1, 2], [3, 4], [5, 6]]}, "checkpoint-config"),
        ({"palette": [["a", "b", "c"]] * 3}, "checkpoint-config"),
        ({"palette": [[1, 2, 300]] * 3}, "class-colour"),
        ({"classes": ["a", "a", "b"]}, "class-names"),
        ({"classes": ["a", "b"]}, "class-count"),
        ({"classes": ["a", "b"], "palette": [[1, 2, 3]] * 2}, "class-count"),
        ({"mean": [1, 2]}, "checkpoint-config"),
        ({"mean": [float("nan"), 0, 0]}, "checkpoint-config"),
        ({"std": [0.5, 0.0, 0.5]}, "checkpoint-config"),
        ({"std": None}, "checkpoint-config"),
        ({"meta": 5}, "checkpoint-config"),
        ({"model": {}}, "model-config"),
        ({"model": None}, "checkpoint-config"),
    ],
)
def test_wrong_configuration(copy, values, code):
    edit(copy, **values)
    fails(copy, code)


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("backbone", "huge", "model-config"),
        ("backbone", ["tiny"], "model-config"),
        ("backbone", "small", "checkpoint-weights"),
        ("num_classes", 4, "class-count"),
        ("num_classes", "3", "model-config"),
        ("mca_blocks", 13, "model-config"),
        ("fusion", "product", "checkpoint-weights"),
        ("image_size", [32, 33], "model-config"),
        ("image_size", [64, 64], "checkpoint-weights"),
        # 15 TB of positions, were they allocated before the weights are looked at.
        ("image_size", [16 * 10**5, 16 * 2 * 10**5], "checkpoint-weights"),
    ],
)
def test_a_model_that_the_weights_are_not_of(copy, key, value, code):
    model = json.loads((copy / CONFIG).read_text())["model"]
    edit(copy, model=model | {key: value})
    fails(copy, code)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


def test_the_bomb_works(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()


@pytest.mark.parametrize("form", ["torch", "legacy torch", "pickle", "nested"])
def test_a_state_never_runs_code(tmp_path, form):
    canary, path = tmp_path / "canary", tmp_path / "state.pt"
    bomb = Bomb(canary)
    if form == "pickle":
        path.write_bytes(pickle.dumps({"step": bomb}))
    elif form == "nested":
        torch.save({"step": 1, "optimizer": {"state": {0: [bomb]}}}, path)
    else:
        torch.save({"step": bomb}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(EmraError, match="state-damaged"):
        load_state(path)
    assert not canary.exists()


def test_a_flipped_bit_is_noticed(copy):
    for name, code in ((WEIGHTS, "checkpoint-weights"), (CONFIG, "checkpoint-config")):
        whole = (copy / name).read_bytes()
        place = whole.find(CLASSES.names[0].encode()) if name == CONFIG else len(whole) - 40
        (copy / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        fails(copy, code)
        (copy / name).write_bytes(whole)
    load_checkpoint(copy)


def test_weights_and_configuration_without_seals_are_read(copy):
    edit(copy)
    for about in (None, {"format": "pt"}):
        save_file(load_file(copy / WEIGHTS), copy / WEIGHTS, about)
        load_checkpoint(copy)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_checkpoint_never_runs_code(copy, tmp_path, name):
    canary = tmp_path / "canary"
    torch.save({"model": Bomb(canary)}, copy / name)
    with pytest.raises(EmraError):
        load_checkpoint(copy)
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_starting_weights_never_run_code(saved, tmp_path, suffix):
    from training.model.pretrained import load_pretrained

    canary, path = tmp_path / "canary", tmp_path / f"weights{suffix}"
    torch.save({"patch_embed.proj.weight": torch.zeros(192, 3, 16, 16), "x": Bomb(canary)}, path)
    with pytest.raises(EmraError):
        load_pretrained(EMRAProxy(saved[0].config), path)
    assert not canary.exists()


def test_a_damaged_state(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1, "tensor": torch.arange(1000)})
    assert torch.equal(load_state(path)["tensor"], torch.arange(1000))
    whole = path.read_bytes()
    for content in (b"", whole[:10], whole[: len(whole) // 2], b"x" * 500):
        path.write_bytes(content)
        with pytest.raises(EmraError) as caught:
            load_state(path)
        assert caught.value.code == "state-damaged"
        assert "\n" not in str(caught.value)
    torch.save([1, 2], path)
    with pytest.raises(EmraError, match="holds a list"):
        load_state(path)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(part: Path) -> None:
        part.write_text("ne")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        replace_file(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder(saved, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EmraError, match="output-unwritable"):
        save_checkpoint(tmp_path / "file" / "best", saved[0], CLASSES, MEAN, STD, {})


def _save_for_ever(path: Path, pipe) -> None:
    for number in itertools.count():
        save_state(path, {"step": number, "tensor": torch.full((500_000,), number)})
        pipe.send(number)


def test_killed_while_saving(tmp_path):
    """SIGKILL at some moments of endless saving: the checkpoint loads and is from one save; no files accumulate."""
    path = tmp_path / "state.pt"
    # Not forked: a child of a process whose threads PyTorch started may wait for ever for a lock that one of them held.
    spawn = multiprocessing.get_context("spawn")
    for delay in (0.0, 0.003, 0.011):
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_save_for_ever, args=(path, sender), daemon=True)
        process.start()
        last = max(receiver.recv() for _ in range(2))
        time.sleep(delay)
        process.kill()
        process.join()
        state = load_state(path)
        assert state["step"] >= last
        assert (state["tensor"] == state["step"]).all()
        assert {file.name for file in tmp_path.iterdir()} <= {"state.pt", ".state.pt.partial"}
