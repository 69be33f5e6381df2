"""Memory of large arrays goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Arrays grow glibc's threshold as they are freed, so the last ones would stay with the thread that made them.
SCRIPT = """
import sys, threading
import numpy as np
from emra_deploy.cli.allocator import return_large_arrays

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "returned":
    return_large_arrays()
def work():
    for _ in range(3):
        arrays = [np.ones(8 * 2**20, np.uint8) for _ in range(16)]
        small = np.ones(1000, np.uint8)
        kept.append(small)
        del arrays
kept = []
before = resident()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_arrays_do_not_stay() -> None:
    grown = {
        name: int(
            subprocess.run([sys.executable, "-c", SCRIPT, name], check=True, capture_output=True, text=True).stdout
        )
        for name in ("kept", "returned")
    }
    assert grown["returned"] < 4 * 2**20
    assert grown["returned"] <= grown["kept"]
