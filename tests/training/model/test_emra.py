"""The whole model: shapes for every backbone and size, every M and P, both forms of aggregation, gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from emra_deploy.errors import EmraError
from training.model import BACKBONES, EMRAConfig, EMRAProxy
from training.model.config import FUSIONS

SIZES = [(256, 256), (512, 512), (192, 320)]


def random_model(config: EMRAConfig) -> EMRAProxy:
    torch.manual_seed(0)
    return EMRAProxy(config).eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_shapes_of_every_backbone_and_size(backbone: str, size: tuple[int, int]) -> None:
    height, width = size
    with torch.device("meta"):
        model = EMRAProxy(EMRAConfig(backbone, 6, size)).eval()
        image = torch.empty(2, 3, height, width)
    with torch.no_grad():
        parts = model.forward_parts(image)
        logits = model(image)
    assert parts.hsmf.shape == parts.logits.shape == (2, 6, height // 4, width // 4)
    assert parts.gca.shape == (2, 6, height // 16, width // 16)
    assert logits.shape == (2, 6, height, width)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        *[("tiny", size) for size in SIZES],
        ("small", (256, 256)),
        *[pytest.param("small", size, marks=pytest.mark.slow) for size in SIZES[1:]],
        *[pytest.param(name, (256, 256), marks=pytest.mark.slow) for name in ("base", "large")],
        *[pytest.param(name, (192, 320), marks=pytest.mark.slow) for name in ("base", "large")],
    ],
)
def test_forward_of_every_backbone(backbone: str, size: tuple[int, int]) -> None:
    model = random_model(EMRAConfig(backbone, 6, size))
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        streamed = model(image)
        model.set_aggregation("explicit")
        explicit = model(image)
    assert streamed.shape == (1, 6, *size)
    assert streamed.isfinite().all()
    assert streamed.std() > 0
    torch.testing.assert_close(streamed, explicit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hra_block", [0, 3, 5, 7, 9, 12])
@pytest.mark.parametrize("mca_blocks", range(1, 7))
def test_every_m_and_p(hra_block: int, mca_blocks: int) -> None:
    model = random_model(EMRAConfig("tiny", 5, (32, 48), hra_block, mca_blocks)).double()
    image = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        streamed = model(image)
        model.set_aggregation("explicit")
        explicit = model(image)
    assert streamed.shape == (1, 5, 32, 48)
    torch.testing.assert_close(streamed, explicit, rtol=1e-10, atol=1e-12)


def test_m_and_p_change_the_result() -> None:
    image = torch.randn(1, 3, 32, 32)
    results = []
    for hra_block, mca_blocks in [(3, 4), (4, 4), (3, 3)]:
        with torch.no_grad():
            results.append(random_model(EMRAConfig("tiny", 3, (32, 32), hra_block, mca_blocks))(image))
    assert not torch.allclose(results[0], results[1], rtol=1e-5, atol=0)
    assert not torch.allclose(results[0], results[2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("aggregation", ["streamed", "explicit", "plugin"])
def test_every_parameter_learns(fusion: str, aggregation: str) -> None:
    model = random_model(EMRAConfig("tiny", 4, (48, 48), fusion=fusion, aggregation=aggregation)).train()
    labels = torch.randint(0, 4, (2, 48, 48))
    F.cross_entropy(model(torch.randn(2, 3, 48, 48)), labels).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_without_mca_the_logits_are_hsmf(fusion: str) -> None:
    model = random_model(EMRAConfig("tiny", 4, (48, 32), mca_blocks=0, fusion=fusion))
    with torch.no_grad():
        parts = model.forward_parts(torch.randn(2, 3, 48, 32))
    assert parts.logits is parts.hsmf
    assert parts.hsmf.std() > 0
    torch.testing.assert_close(parts.gca, torch.full((2, 4, 3, 2), 1 / 6))
    assert not parts.evidence.any()


def test_class_tokens_are_read_by_the_region_classifier() -> None:
    model = random_model(EMRAConfig("tiny", 4, (48, 32))).train()
    with torch.no_grad():
        parts = model.forward_parts(torch.randn(2, 3, 48, 32))
        torch.testing.assert_close(parts.named, model.hra.classifier(parts.tokens))
    assert (parts.tokens.shape, parts.named.shape) == ((2, 4, 192), (2, 4, 4))


def test_images_of_a_batch_do_not_mix() -> None:
    model = random_model(EMRAConfig("tiny", 4, (32, 48)))
    images = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_logits_are_the_quarter_maps_upsampled() -> None:
    model = random_model(EMRAConfig("tiny", 3, (32, 32)))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        quarter = model.forward_parts(image).logits
        expected = F.interpolate(quarter, size=(32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(image), expected)


def test_wrong_sizes_and_forms_are_refused_and_change_nothing() -> None:
    model = random_model(EMRAConfig("tiny", 3, (32, 32)))
    with pytest.raises(EmraError):
        model.set_image_size(100, 32)
    with pytest.raises(EmraError):
        model.set_aggregation("fused")
    assert (model.config.image_size, model.mca.aggregation) == ((32, 32), "streamed")


def test_weights_do_not_depend_on_the_form_of_aggregation() -> None:
    shapes = []
    for aggregation in ("streamed", "explicit", "plugin"):
        with torch.device("meta"):
            model = EMRAProxy(EMRAConfig("tiny", aggregation=aggregation))
        shapes.append({name: tuple(value.shape) for name, value in model.state_dict().items()})
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("zoom", [2, 4])
def test_zoom_is_the_same_network_over_the_enlarged_picture(zoom: int) -> None:
    small = random_model(EMRAConfig("tiny", 5, (32, 64), zoom=zoom))
    large = random_model(EMRAConfig("tiny", 5, (32 * zoom, 64 * zoom)))
    large.load_state_dict(small.state_dict())
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        enlarged = F.interpolate(image, size=(32 * zoom, 64 * zoom), mode="bilinear", align_corners=False)
        quarter = large.forward_parts(enlarged).logits
        expected = F.interpolate(quarter, size=(32, 64), mode="bilinear", align_corners=False)
        if zoom == 2:  # quarter maps of twice the picture are half of it; those of four times are the picture's size
            assert quarter.shape[-2:] == (16, 32)
        torch.testing.assert_close(small(image), expected)


def test_zoom_allows_sizes_that_are_multiples_of_the_smaller_patch() -> None:
    assert EMRAConfig(image_size=(24, 40), zoom=2).grid == (3, 5)
    for bad in (0, 3, 8, 2.0, True, "2"):
        with pytest.raises(EmraError):
            EMRAConfig(image_size=(64, 64), zoom=bad)
    with pytest.raises(EmraError, match="multiples of 8"):
        EMRAConfig(image_size=(20, 24), zoom=2)


def test_set_image_size_may_change_the_zoom() -> None:
    model = random_model(EMRAConfig("tiny", 5, (64, 64)))
    model.set_image_size(32, 32, zoom=2)
    assert model.config.grid == model.backbone.grid == (4, 4)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 32, 32)
