"""The best processor backend over the default one: exports, times and the figure; and the sequence of own results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import best_cpu
from benchmarks.candidates.spec import make_specs, parse_sizes
from benchmarks.reporting.results import write_result
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest
from tests.benchmarks.results import candidate, latency_result
from tests.conftest import REPOSITORY

pytest.importorskip("psutil")


def test_the_best_is_compared_with_onnxruntime_in_fp32() -> None:
    times = np.full(10, 100.0)
    rows = [
        candidate("a.onnx | onnxruntime | b1 | 512x512", 4 * times),
        candidate("a.onnx | openvino bf16 | b1 | 512x512", 2 * times),
        candidate("a.int8.onnx | onnxruntime | b1 | 512x512", 3 * times),
        candidate("a.int8.onnx | openvino bf16 | b1 | 512x512", times),
        candidate("b.onnx | openvino f32 | b1 | 512x512", times),
    ]
    found = best_cpu.best_of(latency_result(rows), ["a.onnx", "b.onnx"])
    assert found[0][1] == pytest.approx(4)
    assert "a.int8.onnx | openvino bf16" in found[0][0]
    # Without a default there is nothing to compare with.
    assert found[1][1] is None
    assert "too noisy" in best_cpu.best_of(latency_result(rows, quiet=False), ["a.onnx"])[0][0]


@pytest.mark.parametrize(("fast", "status"), [(100.0, 0), (200.0, 1)])
def test_the_exit_status_says_whether_the_goal_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: float, status: int
) -> None:
    for name in ("emra-small-512.onnx", "emra-small-512.int8.onnx"):
        (tmp_path / name).write_bytes(b"there")

    def measured(words: list[str]) -> int:
        assert words[:2] == [str(tmp_path / "emra-small-512.onnx"), str(tmp_path / "emra-small-512.int8.onnx")]
        rows = [
            candidate("emra-small-512.onnx | onnxruntime | b1 | 512x512", np.full(10, 400.0)),
            candidate("emra-small-512.int8.onnx | openvino bf16 | b1 | 512x512", np.full(10, fast)),
        ]
        write_result(words[words.index("--json") + 1], latency_result(rows))
        return 0

    monkeypatch.setattr(best_cpu.latency, "main", measured)
    argv = ["--calibration", str(tmp_path), "--backbones", "small", "--work", str(tmp_path)]
    assert best_cpu.main([*argv, "--json", str(tmp_path / "out.json")]) == status


def test_an_export_that_fails_is_reported() -> None:
    with pytest.raises(EmraError) as caught:
        best_cpu._export("to_int8.py", "--nothing")
    assert caught.value.code == "export-failed"
    assert "ended with 2" in caught.value.cause
    assert "--calibration" in caught.value.cause


def test_a_random_checkpoint_can_be_read(tmp_path: Path, small_backbone: None) -> None:
    from benchmarks.candidates.random_checkpoints import write_random_checkpoint
    from training.checkpoint import load_checkpoint

    write_random_checkpoint(tmp_path / "tiny", "tiny", 64)
    assert load_checkpoint(tmp_path / "tiny").model.config.image_size == (64, 64)


FAKE = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, file=log)
if "--json" in words:
    quiet = "{quiet}" if "latency" in words[0] else "true"
    text = '{{"noise": {{"quiet": ' + quiet + '}}}}'
    Path(words[words.index("--json") + 1]).write_text(text)
sys.exit({status} if "memory" in words[0] else 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a shell script")
@pytest.mark.parametrize(("quiet", "failing", "status"), [("true", 0, 0), ("true", 1, 1), ("false", 0, 3)])
def test_the_sequence_of_the_projects_own_results(tmp_path: Path, quiet: str, failing: int, status: int) -> None:
    """Each command it starts is valid for its program; results appear at the end, and noise is reported."""
    log, results, python = tmp_path / "log", tmp_path / "results", tmp_path / "python"
    program = tmp_path / "fake.py"
    program.write_text(FAKE.format(log=str(log), quiet=quiet, status=failing))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["benchmarks/own_results.sh", "CHECKPOINT", "peer.safetensors"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "RESULTS": str(results), "EMRA_DUBAI": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    lines = [line.split() for line in log.read_text().splitlines()]
    names = [Path(line[0]).stem for line in lines]
    assert names == ["accuracy"] * 4 + ["latency", "latency", "memory", "roofline", "report"]
    assert {path.name for path in results.iterdir()} >= {"latency-peers.json", "memory-emra-ti-dubai.json"}
    import onnx

    from benchmarks import accuracy, latency, memory, report, roofline

    parsers = {module.__name__.split(".")[-1]: module for module in (accuracy, latency, memory, report, roofline)}
    for name, line in zip(names, lines, strict=True):
        parsers[name].parser().parse_args(line[1:])
    # Both files of the shipped model exist, and are the ones measured.
    for line in lines[4:8]:
        for word in line[1:3]:
            assert (REPOSITORY / word).is_file()
    peers = lines[5]
    assert "CHECKPOINT" in peers
    assert "smp-unet-resnet18@512=peer.safetensors" in peers[peers.index("--peer") + 1]
    # One size for all, or every peer would be timed at the size of each model.
    metadata = onnx.load(REPOSITORY / lines[5][1], load_external_data=False).metadata_props
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in metadata})
    assert parse_sizes(peers[peers.index("--sizes") + 1]) == (manifest.input_shape[1:],)

    for line in lines[4:8]:
        asked = parsers["latency" if "latency" in line[0] else "memory"].parser()
        given, _ = asked.parse_known_args(line[1:])
        assert make_specs(
            [path for path in given.models if path.suffix == ".onnx"],
            given.peer.split(",") if given.peer else [],
            backends=given.backend.split(","),
        )
