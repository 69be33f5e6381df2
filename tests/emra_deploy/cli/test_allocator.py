"""Memory of large arrays is returned to the system, and threads share the memory kept for reuse."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

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


ARENAS = """
import ctypes, sys, threading
from emra_deploy.cli.allocator import share_one_arena

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "one":
    share_one_arena()
together = threading.Barrier(4)
def work():
    together.wait()
    for _ in range(100):
        libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stream = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
print(open(sys.argv[2]).read().count("<heap "))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="glibc's allocator"
)
def test_threads_share_one_arena(tmp_path: Path) -> None:
    found = {
        name: int(
            subprocess.run(
                [sys.executable, "-c", ARENAS, name, str(tmp_path / name)], check=True, capture_output=True, text=True
            ).stdout
        )
        for name in ("many", "one")
    }
    assert found["one"] == 1
    assert found["many"] > 1
