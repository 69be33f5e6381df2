"""The emulated self-test as a command: errors for missing tools, and success with all tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platforms.arm64_selftest import EMULATORS
from tests.platforms.resolving import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "platforms" / "arm64_selftest.py"


@pytest.mark.parametrize("here", [(), EMULATORS[:1]])
def test_a_missing_tool_is_named(tmp_path: Path, here: tuple[str, ...]) -> None:
    for name in here:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    absent = "mmdebstrap" if here else EMULATORS[0]
    assert done.stderr == f"{absent} is not installed: apt-get install mmdebstrap qemu-user-static\n"


@pytest.mark.slow
def test_the_shipped_model_passes_on_an_emulated_arm64() -> None:
    if not os.environ.get("EMRA_PLATFORMS"):
        pytest.skip("takes minutes and the package registries: run make test-platforms, or set EMRA_PLATFORMS=1")
    if shutil.which("mmdebstrap") is None or not any(map(shutil.which, EMULATORS)):
        pytest.skip("needs Debian's packages mmdebstrap and qemu-user-static")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert "onnxruntime 1.23.2" in done.stdout
