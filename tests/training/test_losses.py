from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.training.array_tiles import tile_of
from training.losses import class_weights, contrast_loss, presence_loss, segmentation_loss, soft_jaccard
from training.model import Parts
from training.recipe import LossConfig

PLAIN = LossConfig()


def parts(seed: int = 0, classes: int = 3, side: int = 4) -> Parts:
    generator = torch.Generator().manual_seed(seed)
    hsmf, logits = (torch.randn(2, classes, side, side, generator=generator) for _ in range(2))
    evidence = torch.randn(2, classes, side // 4, side // 4, generator=generator)
    tokens, named = (torch.randn(2, classes, width, generator=generator) for width in (7, classes))
    return Parts(hsmf, torch.ones_like(evidence), logits.requires_grad_(), evidence, tokens, named)


def labels(seed: int = 0, classes: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randint(0, classes, (2, side, side), generator=torch.Generator().manual_seed(seed)).byte()


def value(maps: Parts, truth: torch.Tensor, weights: torch.Tensor | None, config: LossConfig) -> float:
    return segmentation_loss(maps, truth, weights, config).item()


def by_hand(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """The weighted mean of -log p over labelled pixels, in numpy, of logits at the labels' size."""
    values = logits.detach().double().numpy()
    values = values - values.max(axis=1, keepdims=True)
    log_p = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    weigh = np.ones(logits.shape[1]) if weights is None else weights.double().numpy()
    total = count = 0.0
    for b, y, x in np.argwhere(truth.numpy() != 255):
        label = int(truth[b, y, x])
        total -= weigh[label] * log_p[b, label, y, x]
        count += weigh[label]
    return total / count


def test_matches_the_formula_at_the_size_of_the_labels():
    maps, truth = parts(), labels(side=4)
    truth[0, 0] = 255
    assert value(maps, truth, None, PLAIN) == pytest.approx(by_hand(maps.logits, truth), rel=1e-5)
    weights = torch.tensor([0.2, 1.0, 1.8])
    weighted = value(maps, truth, weights, PLAIN)
    assert weighted == pytest.approx(by_hand(maps.logits, truth, weights), rel=1e-5)


def test_logits_are_upsampled_not_labels_shrunk():
    maps, truth = parts(), labels()
    up = F.interpolate(maps.logits, size=(16, 16), mode="bilinear", align_corners=False)
    assert value(maps, truth, None, PLAIN) == pytest.approx(by_hand(up, truth), rel=1e-5)


def test_ignored_pixels_have_no_say():
    maps, truth = parts(), labels(side=4)
    truth[:, 2:] = 255
    first = segmentation_loss(maps, truth, None, PLAIN)
    first.backward()
    assert maps.logits.grad[:, :, 2:].abs().max() == 0
    assert maps.logits.grad[:, :, :2].abs().min() > 0
    other = maps._replace(logits=maps.logits.detach().clone())
    other.logits[:, :, 2:] = 1e4
    assert value(other, truth, None, PLAIN) == first.item()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 1.5])])
@pytest.mark.parametrize("config", [PLAIN, LossConfig(hsmf_weight=0.4, label_smoothing=0.1)])
def test_no_label_at_all_is_zero_and_trains_nothing(weights, config):
    maps = parts()
    loss = segmentation_loss(maps, torch.full((2, 16, 16), 255, dtype=torch.uint8), weights, config)
    loss.backward()
    assert loss.item() == 0
    assert maps.logits.grad.abs().max() == 0


def test_second_loss_and_smoothing():
    maps, truth = parts(), labels(side=4)
    both = value(maps, truth, None, LossConfig(hsmf_weight=0.4))
    assert both == pytest.approx(by_hand(maps.logits, truth) + 0.4 * by_hand(maps.hsmf, truth), rel=1e-5)
    smooth = value(maps, truth, None, LossConfig(label_smoothing=0.3))
    uniform = -F.log_softmax(maps.logits, dim=1).mean()
    assert smooth == pytest.approx(0.7 * by_hand(maps.logits, truth) + 0.3 * uniform.item(), rel=1e-5)


def test_half_precision_maps_are_summed_in_full():
    maps, truth = parts(), labels(side=4)
    half = Parts(*(part.bfloat16() for part in maps))
    loss = segmentation_loss(half, truth, None, PLAIN)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(half.logits.float(), truth), rel=1e-5)


def test_weights_follow_the_effective_number_of_samples():
    first = np.repeat(np.array([0, 1], np.uint8), [256 * 30, 256 * 2]).reshape(32, -1)
    second = np.repeat(np.array([0, 255], np.uint8), [256 * 10, 256 * 50]).reshape(32, -1)
    tiles = [tile_of(part, np.zeros((*part.shape, 3), np.uint8)) for part in (first, second)]
    assert class_weights(tiles, 3, PLAIN) is None
    weights = class_weights(tiles, 3, LossConfig(balance="effective"))
    beta = 0.9999
    inverse = np.array([(1 - beta) / (1 - beta**40), (1 - beta) / (1 - beta**2)])
    np.testing.assert_allclose(weights[:2], inverse / inverse.mean(), rtol=1e-5)
    assert weights[2] == 1
    tempered = class_weights(tiles, 3, LossConfig(balance="effective", balance_power=0.5))
    root = np.sqrt(inverse)
    np.testing.assert_allclose(tempered[:2], root / root.mean(), rtol=1e-5)
    off = class_weights(tiles, 3, LossConfig(balance="effective", balance_power=0.0))
    np.testing.assert_allclose(off, 1)


@pytest.mark.parametrize("classes", [2, 5])
def test_soft_jaccard_is_that_of_segmentation_models_pytorch(classes: int):
    reference = pytest.importorskip("segmentation_models_pytorch").losses.JaccardLoss("multiclass")
    logits, truth = parts(classes=classes, side=16).logits, labels(classes=classes).long()
    assert soft_jaccard(logits, truth).item() == pytest.approx(reference(logits, truth).item(), rel=1e-5)


def test_soft_jaccard_is_0_for_a_sure_and_right_answer_and_1_for_a_sure_and_wrong_one():
    truth = labels(classes=2).long()
    sure = 100 * F.one_hot(truth, 2).movedim(-1, 1).float()
    assert soft_jaccard(sure, truth).item() == pytest.approx(0, abs=1e-6)
    assert soft_jaccard(-sure, truth).item() == pytest.approx(1, abs=1e-6)


def test_soft_jaccard_counts_only_labelled_pixels_and_classes_that_occur():
    logits, truth = parts(classes=5, side=16).logits, labels(classes=2).long()
    whole = soft_jaccard(logits[:1], truth[:1])
    truth[1] = 255
    assert soft_jaccard(logits, truth).item() == pytest.approx(whole.item(), rel=1e-6)
    assert soft_jaccard(logits, torch.full_like(truth, 255)).item() == 0


def test_soft_jaccard_adds_to_the_loss_and_pulls_towards_the_labels():
    maps, truth = parts(), labels()
    config = LossConfig(jaccard_weight=0.5)
    up = F.interpolate(maps.logits, size=(16, 16), mode="bilinear", align_corners=False)
    expected = by_hand(up, truth) + 0.5 * soft_jaccard(up, truth.long()).item()
    loss = segmentation_loss(maps, truth, None, config)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, maps.logits)
    better = maps._replace(logits=maps.logits - 0.1 * gradient)
    assert value(better, truth, None, config) < loss.item()


def test_losses_of_the_class_attention_add_to_the_loss():
    maps, truth = parts(), labels()
    plain = value(maps, truth, None, PLAIN)
    up = F.interpolate(maps.evidence, size=(16, 16), mode="bilinear", align_corners=False)
    for name, expected in {
        "attention_weight": by_hand(up, truth),
        "presence_weight": presence_loss(maps.named, truth.long()).item(),
        "contrast_weight": contrast_loss(maps.tokens).item(),
    }.items():
        assert expected > 0
        found = value(maps, truth, None, LossConfig(**{name: 0.5}))
        assert found == pytest.approx(plain + 0.5 * expected, rel=1e-5), name


def test_presence_asks_each_token_for_its_own_class_alone():
    truth = torch.full((2, 8, 8), 255)
    truth[0, 0, 0], truth[1, :, 4:] = 1, 2
    own = torch.tensor([[-2.0, 3.0, -1.0], [0.5, -4.0, 1.5]])
    shown = torch.tensor([[False, True, False], [False, False, True]])
    p = own.sigmoid()
    expected = -torch.where(shown, p, 1 - p).log().mean()
    # What a token says of the other classes is of no consequence.
    named = torch.randn(2, 3, 3) * (1 - torch.eye(3)) + torch.diag_embed(own)
    torch.testing.assert_close(presence_loss(named, truth), expected)
    # Nor is the size of the crop, nor pixels without a label: the class of 255 is none.
    assert presence_loss(named, torch.full_like(truth, 255)) > expected


def test_contrast_is_low_for_tokens_at_right_angles_and_high_for_equal_ones():
    apart, equal = torch.eye(4)[None] * 3, torch.ones(1, 4, 6)
    assert contrast_loss(apart).item() == pytest.approx(np.log(1 + 3 * np.exp(-5.0)), rel=1e-4)
    assert contrast_loss(equal).item() == pytest.approx(np.log(4), rel=1e-5)
    tokens = (equal + 0.1 * torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    (gradient,) = torch.autograd.grad(contrast_loss(tokens), tokens)
    assert contrast_loss(tokens - gradient) < contrast_loss(tokens)
