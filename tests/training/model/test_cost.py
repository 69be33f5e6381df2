"""The counted cost against a count by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.model import EMRAConfig, EMRAProxy
from training.model.__main__ import main
from training.model.cost import count_cost, count_operators


def by_hand(width: int, depth: int, classes: int, patches: int, blocks: int, form: str) -> dict[str, float]:
    total = classes + patches
    attention = 2 * depth * total**2 * width
    backbone = patches * width * 16 * 16 * 3 + depth * total * 12 * width**2 + attention
    hra = patches * (width * 9 + width**2 + width * 144 + width * classes)
    # Border bias, and HSMF: nine affinities per cell and class.
    hra += 9 * patches + 9 * classes * 16 * patches
    if form == "explicit":
        mca = blocks * total**2 * width + classes * patches**2
    else:
        mca = blocks * (classes * total * width + 2 * patches * total * width)
    # N * GCA, its upsampling, and the product.
    fusion = classes * patches + 5 * classes * 16 * patches
    return {
        "backbone": backbone,
        "attention": attention,
        "HRA": hra,
        "MCA": mca,
        "fusion": fusion,
        "upsampling": 4 * classes * 256 * patches,
    }


@pytest.mark.parametrize("form", ["explicit", "streamed"])
@pytest.mark.parametrize(("name", "width", "depth"), [("tiny", 192, 12), ("base", 768, 12), ("large", 1024, 24)])
def test_every_part_equals_a_count_by_hand(name: str, width: int, depth: int, form: str) -> None:
    cost = count_cost(EMRAConfig(name, 6, (256, 384), aggregation=form))
    expected = by_hand(width, depth, 6, 16 * 24, 4, form)
    assert {part.name: part.macs for part in cost.parts} == {k: v for k, v in expected.items() if k != "attention"}
    assert cost.attention_macs == expected["attention"]


def test_base_at_512_is_the_published_count() -> None:
    """107.8 GMAC is the backbone with the 7 class tokens of LoveDA, attention included."""
    cost = count_cost(EMRAConfig("base", 7, (512, 512)))
    assert cost.parts[0].macs / 1e9 == pytest.approx(107.8, abs=0.05)
    assert 2 * cost.parts[0].macs / 1e9 == pytest.approx(215.5, abs=0.05)


def test_meta_counts_what_a_real_forward_counts() -> None:
    """The fused attention of a real device is another operator than meta's; neither may be missed."""
    config = EMRAConfig("tiny", 6, (64, 96))
    model = EMRAProxy(config).eval()
    with torch.no_grad():
        counted, _ = count_operators(lambda: model(torch.zeros(1, 3, 64, 96)))
    cost = count_cost(config)
    # Without the products of HSMF and fusion, which are elementwise. Three upsamplings are the same operator.
    patches = 4 * 6
    products = 9 * patches + 9 * 6 * 16 * patches + 6 * patches + 6 * 16 * patches
    assert sum(counted.values()) == cost.macs - products


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_counts_the_same_fused_and_decomposed(backend: SDPBackend) -> None:
    """Torch runs one of the two, depending on processor, version and device."""
    query, key = torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64)
    with torch.no_grad(), sdpa_kernel(backend):
        counted, _ = count_operators(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key))
    assert sum(counted.values()) == 2 * 3 * 30 * 30 * 64


def test_parameters_are_the_models() -> None:
    config = EMRAConfig("tiny", 5, (224, 224), fusion="gated")
    cost = count_cost(config)
    assert cost.parameters == sum(p.numel() for p in EMRAProxy(config).parameters())
    assert {part.name: part.parameters for part in cost.parts}["fusion"] == 5


def test_command_prints_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backbone", "small", "--size", "256", "384"]) == 0
    out = capsys.readouterr().out
    assert "ViT-small, 256 x 384, 6 classes" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line and len(line.split()) == 3}
    assert set(rows) == {"part", "backbone", "HRA", "MCA", "fusion", "upsampling", "whole"}
    cost = count_cost(EMRAConfig("small", 6, (256, 384)))
    assert rows["whole"] == [f"{cost.parameters:,}", f"{cost.macs / 1e9:.3f}"]


def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--size 256 --classes 7 --hra-block 0 --mca-blocks 6 --fusion sum --aggregation explicit --json"
    assert main(options.split()) == 0
    printed = json.loads(capsys.readouterr().out)
    config = EMRAConfig("tiny", 7, (256, 256), 0, 6, "sum", "explicit")
    assert printed == count_cost(config).to_dict()
    assert printed["config"] == config.to_dict()
    assert printed["total"]["gmac"] == pytest.approx(sum(part["gmac"] for part in printed["parts"]))


@pytest.mark.parametrize("options", [["--size", "100"], ["--size", "16", "16", "16"], ["--classes", "1"]])
def test_command_refuses_in_one_line(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "[model-config]" in err
