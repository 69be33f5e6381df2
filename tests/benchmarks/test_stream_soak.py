"""The stress of live streams, in its short form: the figures are right, the planted leak is caught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.reporting.results import Result, read_result
from benchmarks.stream_soak import lines, main
from benchmarks.streams.follow import percentile
from benchmarks.streams.rtsp import why_no_rtsp_server
from tests.onnx_models import build_model

pytest.importorskip("av")

SHORT = {"frames": 120, "leak": 4_000_000, "cuts": 1, "stalls": 1, "slow-results": 3, "stops": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Result:
    missing = why_no_rtsp_server()
    if missing is not None:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("soak")
    build_model(folder / "model.onnx", size=(256, 256))
    short = [word for name, value in SHORT.items() for word in (f"--{name}", str(value))]
    assert main(["--model", str(folder / "model.onnx"), "--json", str(folder / "out.json"), *short]) == 0
    return read_result(folder / "out.json")


@pytest.fixture(scope="module")
def result(written: Result) -> Mapping[str, Any]:
    return written["content"]


def test_all_parts_are_measured_and_reported(written: Result, result: Mapping[str, Any]) -> None:
    assert {"soak", "leak", "outages", "slow", "stops"} <= set(result)
    assert written["run"]["command"].startswith("python benchmarks/stream_soak.py")
    text = "\n".join(lines(result))
    for word in ("frames received", "descriptors", "server killed 1 times: 1 resumed", "SIGTERM 1 times"):
        assert word in text


def test_a_planted_leak_is_caught(result: Mapping[str, Any]) -> None:
    assert result["leak"]["leaks"]
    assert "LEAKS" in "\n".join(lines(result))


def test_nothing_is_lost(result: Mapping[str, Any]) -> None:
    assert result["soak"]["received"] >= 120
    assert result["soak"]["descriptors_lost"] == 0
    assert all(result[part]["reconciles"] for part in ("soak", "leak", "outages", "slow"))
    assert result["slow"]["most_held"] <= 2
    assert result["slow"]["age_p99"] <= result["slow"]["max_age"]


def test_outages_and_signals_end_well(result: Mapping[str, Any]) -> None:
    outages, stops = result["outages"], result["stops"]
    assert (outages["cuts_resumed"], outages["stalls_noticed"]) == (1, 1)
    assert outages["connections"] >= 2
    assert (stops["exit_status_0"], stops["overlays_whole"], stops["left_over"]) == (1, 1, 0)


def test_shares_of_values() -> None:
    values = [float(value) for value in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 99.0)
    assert percentile([], 0.5) is None
