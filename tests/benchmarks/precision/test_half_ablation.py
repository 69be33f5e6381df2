"""The table of what each rule saves: the full set of rules is the converter's, and no rules is the worst."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from benchmarks.precision.half_ablation import AUTOCASTS, RULES, main
from export.half.convert import convert_to_half


def test_the_table(small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small_file), "--json", str(tmp_path / "rows.json")]) == 0
    shown = capsys.readouterr().out
    rows = {row["variant"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert len(rows) in (len(RULES), len(RULES) + len(AUTOCASTS))
    _, audit = convert_to_half(onnx.load(small_file))
    whole = rows["as export/to_fp16.py writes it"]
    assert whole["casts"] == audit.casts
    assert whole["nodes_in_fp32"] == sum(audit.single.values())
    assert f"{whole['agreement']:.4%}" in shown
    nothing = rows["nothing in FP32"]
    assert (nothing["casts"], nothing["nodes_in_fp32"]) == (0, 0)
    assert nothing["logit_error_mean"] > whole["logit_error_mean"]
    stash = rows["without FP32 LayerNormalization (--layer-norm stash)"]
    _, audit = convert_to_half(onnx.load(small_file), layer_norm="stash")
    assert stash["casts"] == audit.casts


def test_a_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.onnx")]) == 2
    assert "[input-missing]" in capsys.readouterr().err
