"""Every value of the configuration is checked, of any type."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import timm

from emra_deploy.errors import EmraError
from training.model import BACKBONES, EMRAConfig
from training.model.config import PATCH


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("backbone", ["huge", "", None, 3, ["tiny"]]),
        ("fusion", ["mean", None, {}]),
        ("aggregation", ["fused", "", []]),
        ("num_classes", [1, 33, -1, True, 5.0, "5", None]),
        ("hra_block", [-1, 13, 3.0, None, False]),
        ("mca_blocks", [-1, 13, "4", True]),
        (
            "image_size",
            [(512,), (512, 512, 3), (500, 512), (0, 16), (-16, 16), (16.0, 16), ("512", 512), 512, None, [512, 512]],
        ),
    ],
)
def test_values_outside_their_range_are_refused(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(EmraError) as caught:
            EMRAConfig(**{field: value})
        assert caught.value.code == "model-config"
        assert field in caught.value.cause


def test_limits_are_allowed() -> None:
    config = EMRAConfig("large", 32, (16, 4096), hra_block=24, mca_blocks=24, fusion="gated", aggregation="explicit")
    assert config.grid == (1, 256)
    assert EMRAConfig("tiny", 2, hra_block=0, mca_blocks=0, fusion="log").grid == (32, 32)


def test_blocks_are_counted_against_the_backbone() -> None:
    with pytest.raises(EmraError, match="0 to 12"):
        replace(EMRAConfig("large", hra_block=20), backbone="base")


def test_json_round_trip() -> None:
    config = EMRAConfig("small", 7, (256, 384), 0, 6, "sum", "explicit")
    assert EMRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("change", [{"extra": 1}, {"fusion": None}, {"image_size": 512}, {"image_size": "ab"}])
def test_damaged_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(EmraError):
        EMRAConfig.from_dict({**EMRAConfig().to_dict(), **change})


def test_missing_key_is_refused() -> None:
    values = EMRAConfig().to_dict()
    del values["num_classes"]
    with pytest.raises(EmraError, match="keys"):
        EMRAConfig.from_dict(values)


def test_table_of_backbones_is_timms() -> None:
    for spec in BACKBONES.values():
        assert spec.width % spec.heads == 0
        assert timm.is_model(spec.timm_name)
        assert f"patch{PATCH}" in spec.timm_name
