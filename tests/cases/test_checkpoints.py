"""Checkpoints as trainers write them: compiled, wrapped, averaged, nested. Each must give exactly the plain weights.

A file whose keys begin with ``_orig_mod.`` was refused with "start from timm".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from training.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from training.model import EMRAConfig, EMRAProxy
from training.model.pretrained import ANCHOR, load_pretrained
from training.model.state_dict import find_network

State = dict[str, Any]


@pytest.fixture(scope="module")
def state() -> State:
    """A few of timm's names, which is all that finding them depends on."""
    names = ("cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight", "norm.weight", "head.weight")
    return {name: torch.full((2,), float(i + 1)) for i, name in enumerate(names)}


def under(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


WRITERS: dict[str, Callable[[State], Any]] = {
    "torch.compile": under("_orig_mod."),
    "DataParallel": under("module."),
    "DDP of compiled": under("module._orig_mod."),
    "compiled DDP": under("_orig_mod.module."),
    "compiled blocks": lambda s: {
        (f"blocks.{n.split('.')[1]}._orig_mod.{n.split('.', 2)[2]}" if n.startswith("blocks.") else n): v
        for n, v in s.items()
    },
    "FSDP": under("_fsdp_wrapped_module."),
    "Lightning": lambda s: {
        "state_dict": under("model.")(s), "epoch": 3, "optimizer_states": [{"state": {0: torch.ones(2)}}],
        "pytorch-lightning_version": "2.5.0",
    },
    "Lightning, net, compiled": lambda s: {"state_dict": under("net._orig_mod.")(s)},
    "Lightning with a loss of its own": lambda s: {
        "state_dict": {"criterion.weight": torch.ones(3), "norm.weight": torch.ones(7), **under("model.backbone.")(s)}
    },
    "a loop's dictionary": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
    "model": lambda s: {"model": s},
    "DeepSpeed": lambda s: {"module": s, "global_steps": 10},
    "twice nested": lambda s: {"checkpoint": {"model": under("module.encoder.")(s)}},
    "timm with an average": lambda s: {"state_dict": zeros(s), "state_dict_ema": s},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(3), **under("module.")(s)},
    "a network and its average": lambda s: {**under("model.")(zeros(s)), **under("ema_model.module.")(s)},
    "student and teacher": lambda s: {"student": under("module.backbone.")(zeros(s)), "teacher": under("backbone.")(s)},
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_the_plain_weights_are_found(state: State, writer: str) -> None:
    found = find_network(WRITERS[writer](state), ANCHOR)
    assert found is not None
    assert found.tensors.keys() - {"n_averaged"} == state.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in state.items())


def test_a_checkpoint_of_lightning_starts_a_model_and_what_was_left_is_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = dict(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict())
    torch.save(WRITERS["Lightning with a loss of its own"](state), tmp_path / "last.ckpt")
    model = EMRAProxy(EMRAConfig("tiny", 3, (64, 64)))
    report = load_pretrained(model, tmp_path / "last.ckpt")
    ours = model.backbone.state_dict()
    for name, value in state.items():
        if name.startswith(("blocks.", "patch_embed.", "norm.")):
            assert torch.equal(ours[name], value), name
    assert report.source.endswith("last.ckpt (state_dict: model.backbone.)")
    assert report.left == ("criterion.weight", "head.bias", "head.weight", "norm.weight")


def test_weights_of_an_emra_proxy_are_distinguished_from_those_of_a_backbone(tmp_path: Path) -> None:
    model = EMRAProxy(EMRAConfig("tiny", 3, (64, 64)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(EmraError, match="Give the folder of that checkpoint"):
        load_pretrained(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.net."])
def test_checkpoint_folders_with_weights_of_another_writer(tmp_path: Path, prefix: str) -> None:
    classes = ClassSet(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    model = EMRAProxy(EMRAConfig("tiny", 3, (64, 64)))
    save_checkpoint(tmp_path / "plain", model, classes, (0.5,) * 3, (0.2,) * 3, {})
    shutil.copytree(tmp_path / "plain", tmp_path / "wrapped")
    save_file(under(prefix)(load_file(tmp_path / "plain" / WEIGHTS)), tmp_path / "wrapped" / WEIGHTS)
    read = load_checkpoint(tmp_path / "wrapped").model.state_dict()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["net.", "module._orig_mod."])
def test_weights_of_a_peer(tmp_path: Path, prefix: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    from benchmarks.candidates.peers import make_peer

    plain, _ = make_peer("smp-unet-resnet18", (64, 64))
    torch.nn.init.normal_(plain.segmentation_head[0].bias)
    save_file(under(prefix)(dict(plain.state_dict())), tmp_path / "peer.safetensors")
    read, _ = make_peer("smp-unet-resnet18", (64, 64), tmp_path / "peer.safetensors")
    assert torch.equal(read.segmentation_head[0].bias, plain.segmentation_head[0].bias)
