"""The class-token ViT against timm's own forward, and its position table."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block

from training.model import BACKBONES, EMRAConfig, EMRAProxy
from training.model.backbone import ClassTokenViT, run_block


def small_vit(size: tuple[int, int] = (64, 64), **options) -> ClassTokenViT:
    torch.manual_seed(0)
    return ClassTokenViT(EMRAConfig("tiny", 5, size, **options)).eval()


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (64, 2)])
def test_run_block_is_timms_block(width: int, heads: int) -> None:
    torch.manual_seed(0)
    block = Block(width, heads, qkv_bias=True, init_values=0.3, drop_path=0.5).eval().double()
    x = torch.randn(2, 21, width, dtype=torch.float64)
    with torch.no_grad():
        y, qkv = run_block(block, x)
        torch.testing.assert_close(y, block(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(qkv, block.attn.qkv(block.norm1(x)))


def test_one_class_token_in_place_of_cls_gives_timms_features() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    ours = small_vit()
    ours.load_state_dict(vit.state_dict(), strict=False)
    ours.class_tokens.data = vit.cls_token.data
    ours.class_positions.data = vit.pos_embed.data[:, :1]
    ours.patch_positions.data = vit.pos_embed.data[:, 1:]
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image).final, vit.forward_features(image)[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [0, 3, 5, 7, 9, 12])
def test_early_tokens_are_those_after_block_m(block: int) -> None:
    vit = small_vit((32, 48), hra_block=block)
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        features = vit(image)
        classes = vit.class_tokens + vit.class_positions
        x = torch.cat([classes, vit.patch_embed(image) + vit.patch_positions], dim=1)
        for module in vit.blocks[:block]:
            x = module(x)
    torch.testing.assert_close(features.early, x[:, 5:], rtol=1e-4, atol=1e-5)
    assert features.final.shape == features.early.shape == (1, 6, 192)


@pytest.mark.parametrize("blocks", range(1, 7))
def test_qkv_of_the_last_p_blocks_oldest_first(blocks: int) -> None:
    vit = small_vit((32, 32), mca_blocks=blocks)
    seen = []
    hooks = [block.attn.qkv.register_forward_hook(lambda *call: seen.append(call[2])) for block in vit.blocks]
    with torch.no_grad():
        packed = vit(torch.randn(1, 3, 32, 32)).qkv
    for hook in hooks:
        hook.remove()
    assert len(packed) == blocks
    assert len(seen) == 12
    for actual, expected in zip(packed, seen[-blocks:], strict=True):
        assert actual is expected
        assert actual.shape == (1, 5 + 4, 3 * 192)


@pytest.mark.parametrize("classes", [2, 7, 32])
def test_one_token_per_class(classes: int) -> None:
    vit = ClassTokenViT(EMRAConfig("tiny", classes, (32, 32), mca_blocks=1)).eval()
    assert vit.class_tokens.shape == vit.class_positions.shape == (1, classes, 192)
    assert not any("cls_token" in name for name in vit.state_dict())
    with torch.no_grad():
        assert vit(torch.zeros(1, 3, 32, 32)).qkv[0].shape[1] == classes + 4


def test_positions_are_resampled_alike_in_place_and_on_the_fly() -> None:
    torch.manual_seed(0)
    model = EMRAProxy(EMRAConfig("tiny", 4, (64, 64))).eval()
    image = torch.randn(1, 3, 48, 96)
    stored = model.backbone.patch_positions.detach().clone()
    with torch.no_grad():
        on_the_fly = model(image)
        model.set_image_size(48, 96)
        in_place = model(image)
    torch.testing.assert_close(in_place, on_the_fly, rtol=0, atol=0)
    assert model.config.image_size == (48, 96)
    assert model.backbone.grid == (3, 6)
    expected = resample_abs_pos_embed(stored, [3, 6], [4, 4], num_prefix_tokens=0)
    torch.testing.assert_close(model.backbone.patch_positions.data, expected)
    assert model.backbone.patch_positions.requires_grad


def test_resampling_tells_apart_grids_with_as_many_patches() -> None:
    vit = small_vit((32, 128))
    table = vit.patch_positions.detach().clone()
    vit.set_grid((8, 2))
    assert vit.patch_positions.shape == table.shape
    assert (vit.patch_positions - table).abs().max() > 1e-3


def test_setting_the_same_size_keeps_the_parameter() -> None:
    """An optimizer that already holds the table must go on training it."""
    model = EMRAProxy(EMRAConfig("tiny", 4, (32, 32)))
    table = model.backbone.patch_positions
    model.set_image_size(32, 32)
    assert model.backbone.patch_positions is table


def test_drop_path_rests_in_evaluation_and_acts_in_training() -> None:
    torch.manual_seed(0)
    config = EMRAConfig("tiny", 3, (32, 32))
    plain, dropped = EMRAProxy(config).eval(), EMRAProxy(config, drop_path=0.9).eval()
    dropped.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain(image)
        torch.testing.assert_close(dropped(image), expected, rtol=0, atol=0)
        assert not torch.equal(dropped.train()(image), expected)
        torch.testing.assert_close(plain.train()(image), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", BACKBONES)
def test_heads_width_and_depth_are_the_tables(name: str) -> None:
    with torch.device("meta"):
        vit = ClassTokenViT(EMRAConfig(name, 6, (224, 224)))
    spec = BACKBONES[name]
    assert (vit.num_heads, len(vit.blocks), vit.class_tokens.shape[-1]) == (spec.heads, spec.depth, spec.width)
    assert vit.scale == pytest.approx((spec.width / spec.heads) ** -0.5)
