"""The example of a drone's pipeline, as its user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.emra_deploy.stream.senders import HttpSender
from tests.emra_deploy.stream.videos import save_video
from tests.onnx_models import CLASSES, build_model, nearest_colour, scene

pytest.importorskip("av")

EXAMPLE = REPOSITORY / "examples" / "drone_pipeline.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path)
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_frames_go_in_and_areas_come_out(model: Path, tmp_path: Path) -> None:
    picture = scene(48, 64, seed=3)
    video = save_video(tmp_path / "in.mp4", [picture] * 6, options={"qp": "0"})
    done = run(video, model)
    assert (done.returncode, done.stderr) == (0, "")
    reports: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["frame"] for report in reports] == list(range(6))
    expected = np.bincount(nearest_colour(picture).ravel(), minlength=len(CLASSES)) * 0.05**2
    for report in reports:
        assert report["mask"] == [48, 64]
        # The video's colours have half the resolution of its brightness.
        got = [report["square_metres"][name] for name in CLASSES.names]
        assert sum(got) == pytest.approx(48 * 64 * 0.05**2)
        np.testing.assert_allclose(got, expected, atol=0.1 * 48 * 64 * 0.05**2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(model: Path, number: int) -> None:
    with HttpSender() as sender:
        command = [sys.executable, str(EXAMPLE), sender.url, str(model)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["age"] < 5
        running.send_signal(number)
        try:
            out, err = running.communicate(timeout=20)
        finally:
            running.kill()
    assert (running.returncode, err) == (0, "")
    assert all(json.loads(line) for line in out.splitlines())


def test_a_mistake_is_one_line(model: Path) -> None:
    done = run("missing.mp4", model)
    assert done.returncode == 1
    assert done.stderr.startswith("drone_pipeline: missing.mp4: no such file")
    assert len(done.stderr.splitlines()) == 1
