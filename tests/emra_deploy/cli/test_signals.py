"""Signals during a library call in the main thread, and the messages meanwhile."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emra_deploy.host import slow_steps
from emra_deploy.host.slow_steps import step
from tests.emra_deploy.cli.cli_helpers import save_png
from tests.onnx_models import build_model, scene

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# A call of minutes that no signal ends, and that lets other threads run, as those of the libraries do.
STUCK = """
import hashlib, sys
from emra_deploy.host import slow_steps
from emra_deploy.backends.ort import OnnxRuntimeBackend
slow_steps.PATIENCE = 0.2
OnnxRuntimeBackend.run = lambda *_: hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
from emra_deploy.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "no output was changed")]
)
def test_a_signal_ends_a_run_that_a_library_keeps(tmp_path: Path, number: int, status: int, said: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        pytest.skip("started with Ctrl-C ignored, as jobs in the background are")
    build_model(tmp_path / "m.onnx")
    picture = save_png(tmp_path / "a.png", scene(40, 40))
    words = ["segment", picture, "--output", tmp_path / "a.tif", "--model", tmp_path / "m.onnx"]
    before = sorted(path.name for path in tmp_path.iterdir())
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *map(str, words), "--backend", "onnxruntime"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "still testing" in line
        sent = time.monotonic()
        process.send_signal(number)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    # Two seconds are promised; a machine that is shared gets some more.
    assert time.monotonic() - sent < 4
    assert process.returncode == status
    assert said in rest
    assert "Traceback" not in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# ONNX Runtime up to 1.30 keeps all of Python waiting while it makes a session.
HELD = """
import ctypes, sys, onnxruntime
onnxruntime.__version__ = "1.23.2"
def held(*_, **__):
    print("held", file=sys.stderr, flush=True)
    while True:
        ctypes.PyDLL(None).usleep(100_000)
onnxruntime.InferenceSession = held
from emra_deploy.cli.main import main
sys.exit(main())
"""


def test_a_signal_ends_a_load_that_keeps_all_of_python(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    build_model(tmp_path / "m.onnx")
    words = ["info", str(tmp_path / "m.onnx")]
    process = subprocess.Popen([sys.executable, "-c", HELD, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM


def test_steps_are_reported_only_when_they_are_slow(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "emra_deploy")
    with step("doing what is soon done"):
        pass
    monkeypatch.setattr(slow_steps, "PATIENCE", 0.05)
    with step("doing what takes long"):
        time.sleep(0.6)
    reported = [record.getMessage() for record in caplog.records]
    # 0.05, 0.15, 0.35 s: ever more rarely.
    assert 1 <= len(reported) <= 4
    assert all(text.startswith("still doing what takes long, for ") for text in reported)


def test_a_step_that_fails_is_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(slow_steps, "PATIENCE", 0.1)
    with pytest.raises(ValueError, match="so"), step("failing"):
        raise ValueError("so")
    time.sleep(0.3)
    assert not caplog.records
