"""A Segmenter, a stream and an isolated model in a fork: an immediate error, and the first process continues."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.onnx_models import build_model

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

PROGRAM = """
import os, sys
import numpy as np
from emra_deploy.errors import EmraError
from emra_deploy import Segmenter, Stream

picture = np.zeros((40, 40, 3), np.uint8)
frames = [picture] * 3
segmenter = Segmenter.open(sys.argv[1], backend="onnxruntime", threads=2, isolate=sys.argv[2] == "isolated")
before = segmenter.segment(picture).labels
stream = Stream(segmenter, frames)
next(stream)
child = os.fork()
if not child:
    for use in (lambda: segmenter.segment(picture), lambda: segmenter.backend.run(picture[None]), lambda: next(stream)):
        try:
            use()
        except EmraError as error:
            print(error.code, flush=True)
    # What leaving `with` blocks does: nothing here may reach the first process.
    stream.close()
    segmenter.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (segmenter.segment(picture).labels == before).all()
assert len(list(stream)) == 2
restarts = segmenter.restarts
stream.close()
segmenter.close()
print("restarts", restarts)
"""


@pytest.mark.parametrize("kind", ["isolated", "here"])
def test_a_fork_is_refused_and_harms_nothing(tmp_path: Path, kind: str) -> None:
    build_model(tmp_path / "model.onnx")
    program = PROGRAM
    if kind == "here":
        # A bare backend is the caller's own affair.
        program = program.replace("lambda: segmenter.backend.run(picture[None]), ", "")
    else:
        program = program.replace("picture[None]", "picture[None, :32, :32]")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.onnx"), kind],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes = ["forked"] * (3 if kind == "isolated" else 2)
    assert done.stdout.split() == [*codes, "restarts", "0"]


def test_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from emra_deploy.errors import EmraError
    from emra_deploy.host.forks import Owner

    owner = Owner()
    owner.check("the thing")
    assert owner.here
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    assert not owner.here
    with pytest.raises(EmraError, match=f"the thing was made in process {process} and is used in {process + 1}"):
        owner.check("the thing")
