"""Pretrained weights: files as timm and DeiT write them, adapted; and every kind of file that must be refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from emra_deploy.errors import EmraError
from training.model import BACKBONES, EMRAConfig, EMRAProxy
from training.model.pretrained import load_pretrained

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """timm's ViT-Ti at 224 with its ImageNet head, random weights."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.nn.init.normal_(vit.cls_token)
    return vit.state_dict()


def model_of(size: tuple[int, int] = (64, 96), backbone: str = "tiny") -> EMRAProxy:
    torch.manual_seed(1)
    return EMRAProxy(EMRAConfig(backbone, 5, size))


def copy_of(model: EMRAProxy) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def refusal(model: EMRAProxy, path: Path | str) -> EmraError:
    """The error of a file, after which the model must be as it was."""
    before = copy_of(model)
    with pytest.raises(EmraError) as caught:
        load_pretrained(model, path)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return caught.value


def check_adapted(model: EMRAProxy, state: State) -> None:
    ours = model.backbone.state_dict()
    for name, value in state.items():
        if name.startswith(("blocks.", "patch_embed.", "norm.")):
            assert torch.equal(ours[name], value), name
    expected = resample_abs_pos_embed(state["pos_embed"], list(model.backbone.grid), num_prefix_tokens=1)
    torch.testing.assert_close(ours["patch_positions"], expected[:, 1:])
    for token in range(5):
        assert torch.equal(ours["class_tokens"][:, token], state["cls_token"][:, 0])
        assert torch.equal(ours["class_positions"][:, token], state["pos_embed"][:, 0])


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_every_file_format(tmp_path: Path, state: State, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    model = model_of()
    heads_before = copy_of(model)
    report = load_pretrained(model, path)
    check_adapted(model, state)
    for name, value in model.state_dict().items():
        if not name.startswith("backbone."):
            assert torch.equal(value, heads_before[name])
    assert report.source == str(path)
    assert report.left == ("head.bias", "head.weight")
    assert set(report.loaded) == set(state) - set(report.left)
    assert (report.source_grid, report.grid) == ((14, 14), (4, 6))
    assert "head.weight" in str(report)


@pytest.mark.parametrize("nesting", ["model", "state_dict"])
def test_nested_checkpoints(tmp_path: Path, state: State, nesting: str) -> None:
    path = tmp_path / "checkpoint.pth"
    prefixed = {f"module.{name}": value for name, value in state.items()}
    torch.save({nesting: prefixed, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    model = model_of()
    load_pretrained(model, path)
    check_adapted(model, state)


def test_table_of_the_same_grid_is_kept_exactly(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    model = model_of((224, 224))
    report = load_pretrained(model, tmp_path / "w.pth")
    assert torch.equal(model.backbone.patch_positions.data, state["pos_embed"][:, 1:])
    assert "positions" not in str(report)


def test_distillation_token_is_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False).state_dict()
    torch.nn.init.normal_(state["pos_embed"])
    torch.save({"model": state}, tmp_path / "deit.pth")
    model = model_of((224, 224))
    report = load_pretrained(model, tmp_path / "deit.pth")
    assert torch.equal(model.backbone.patch_positions.data, state["pos_embed"][:, 2:])
    assert torch.equal(model.backbone.class_positions.data[:, 3], state["pos_embed"][:, 0])
    assert "dist_token" in report.left


def test_file_without_cls_keeps_the_class_tokens(tmp_path: Path, state: State) -> None:
    bare = {name: value for name, value in state.items() if name != "cls_token"}
    bare["pos_embed"] = state["pos_embed"][:, 1:]
    torch.save(bare, tmp_path / "gap.pth")
    model = model_of((224, 224))
    before = copy_of(model)
    report = load_pretrained(model, tmp_path / "gap.pth")
    assert "cls_token" not in report.loaded
    assert torch.equal(model.backbone.class_tokens.data, before["backbone.class_tokens"])
    assert torch.equal(model.backbone.patch_positions.data, bare["pos_embed"])


def test_table_without_a_place_for_cls(tmp_path: Path, state: State) -> None:
    torch.save({**state, "pos_embed": state["pos_embed"][:, 1:].contiguous()}, tmp_path / "w.pth")
    model = model_of((224, 224))
    load_pretrained(model, tmp_path / "w.pth")
    assert (model.backbone.class_positions == 0).all()
    assert torch.equal(model.backbone.class_tokens.data[:, 4], state["cls_token"][:, 0])


def test_half_precision_weights_are_widened(tmp_path: Path, state: State) -> None:
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "w.pth")
    model = model_of()
    load_pretrained(model, tmp_path / "w.pth")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.backbone.norm.weight.data, state["norm.weight"].half().float(), rtol=0, atol=0)


def test_loaded_model_trains_and_tokens_are_independent(tmp_path: Path, state: State) -> None:
    """An expanded view under the parameter would make all class tokens move as one."""
    torch.save(state, tmp_path / "w.pth")
    model = model_of((32, 32))
    load_pretrained(model, tmp_path / "w.pth")
    with torch.no_grad():
        model.backbone.class_tokens[0, 0] += 1
    assert not torch.equal(model.backbone.class_tokens[0, 0], model.backbone.class_tokens[0, 1])
    model(torch.randn(1, 3, 32, 32)).square().mean().backward()
    assert model.backbone.class_tokens.grad.abs().max() > 0


class Payload:
    """A pickle of this runs a command when loaded without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_loading_runs_no_code(tmp_path: Path, state: State, suffix: str, container: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / f"weights{suffix}"
    content = {**state, "payload": Payload(marker)}
    if container == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    error = refusal(model_of(), path)
    assert error.code == "pretrained-unreadable"
    assert not marker.exists()
    if container == "pickle":
        # The payload is live: the careless way would have run it.
        pickle.loads(path.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_files(tmp_path: Path, state: State, suffix: str, keep: float) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    error = refusal(model_of(), path)
    assert error.code == "pretrained-unreadable"
    assert error.path == str(path)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([1, 2], "pretrained-format"),
        ({}, "pretrained-format"),
        ({"model": {"epoch": 1}}, "pretrained-format"),
        (torch.zeros(3), "pretrained-format"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "pretrained-mismatch"),
        ({"patch_embed.proj.weight": torch.zeros(3)}, "pretrained-mismatch"),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: object, code: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert refusal(model_of(), tmp_path / "w.pth").code == code


def test_missing_file_folder_and_suffix(tmp_path: Path) -> None:
    model = model_of()
    assert refusal(model, tmp_path / "none.pth").code == "pretrained-missing"
    assert refusal(model, tmp_path).code == "pretrained-missing"
    (tmp_path / "w.npz").write_bytes(b"PK")
    assert refusal(model, tmp_path / "w.npz").code == "pretrained-format"


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_weights_of_another_backbone_are_named(tmp_path: Path, name: str) -> None:
    spec = BACKBONES[name]
    content = {"patch_embed.proj.weight": torch.zeros(spec.width, 3, 16, 16)}
    content |= {f"blocks.{index}.norm1.weight": torch.zeros(1) for index in range(spec.depth)}
    torch.save(content, tmp_path / "w.pth")
    error = refusal(model_of(), tmp_path / "w.pth")
    assert error.code == "pretrained-mismatch"
    assert f"look like {name}" in error.cause
    assert f"Set backbone to {name}" in error.remedy


def test_unknown_depth_is_named(tmp_path: Path, state: State) -> None:
    short = {name: value for name, value in state.items() if not name.startswith("blocks.11.")}
    torch.save(short, tmp_path / "w.pth")
    assert "width 192 and depth 11 look like no backbone here" in refusal(model_of(), tmp_path / "w.pth").cause


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"patch_embed.proj.weight": torch.zeros(192, 3, 8, 8)}, "8 x 8"),
        ({"patch_embed.proj.weight": torch.zeros(192, 4, 16, 16)}, "4 bands"),
        ({"blocks.3.ls1.gamma": torch.ones(192)}, "blocks.3.ls1.gamma"),
        ({"norm_pre.weight": torch.ones(192)}, "norm_pre.weight"),
        ({"blocks.2.mlp.fc1.bias": torch.zeros(700)}, "(700,)"),
        ({"blocks.2.mlp.fc1.bias": torch.full((768,), torch.nan)}, "NaN"),
        ({"blocks.2.mlp.fc1.bias": None}, "blocks.2.mlp.fc1.bias"),
        ({"cls_token": torch.zeros(1, 1, 100)}, "cls_token (1, 1, 100)"),
        ({"pos_embed": None}, "missing"),
        ({"pos_embed": torch.zeros(1, 1 + 150, 192)}, "151"),
        ({"pos_embed": torch.zeros(197, 192)}, "(197, 192)"),
        ({"pos_embed": torch.zeros(1, 197, 100)}, "pos_embed is (1, 197, 100)"),
    ],
)
def test_unlike_networks_are_refused(tmp_path: Path, state: State, change: dict, word: str) -> None:
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    torch.save(changed, tmp_path / "w.pth")
    error = refusal(model_of(), tmp_path / "w.pth")
    assert error.code in ("pretrained-mismatch", "pretrained-not-finite")
    assert word in error.cause


def test_hub_gives_timms_default_weights(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    create = timm.create_model
    asked = []

    def from_hub(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        asked.append((name, pretrained))
        vit = create(name, pretrained=False, **options)
        vit.load_state_dict(state, strict=False)
        return vit

    model = model_of()
    monkeypatch.setattr(timm, "create_model", from_hub)
    report = load_pretrained(model, "hub")
    assert asked == [("vit_tiny_patch16_224", True)]
    assert report.source == "vit_tiny_patch16_224"
    assert report.left == ()
    check_adapted(model, state)


def test_offline_hub_names_the_local_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    error = refusal(model_of(), "hub")
    assert error.code == "pretrained-offline"
    assert "vit_tiny_patch16_224" in error.cause
    assert "path of that .safetensors or .pth file" in error.remedy
