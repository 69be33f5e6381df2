"""Resources of the compiled kernels on each chip: no spills, no local memory, shared memory within the limit."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.plugin.test_emulation import EMULATION, PROJECT, compiler

pytestmark = pytest.mark.slow

# Compute capability -> KiB of shared memory that one block may use, and that one multiprocessor has (CUDA C++
# Programming Guide, "Technical Specifications per Compute Capability"). 8.0 is A100, 8.6 RTX 30 and A10,
# 8.7 Orin, 8.9 RTX 40, 9.0 Hopper, 10.0 B200, 11.0 Thor, 12.0 RTX 50.
SHARED_KIB = {
    "80": (163, 164),
    "86": (99, 100),
    "87": (163, 164),
    "89": (99, 100),
    "90": (227, 228),
    "100": (227, 228),
    "110": (227, 228),
    "120": (99, 100),
}
RESERVED_PER_BLOCK_KIB = 1
REGISTERS = 65536
KERNELS = ("sum_class_rows", "spread_class_rows", "refine", "add_groups")


@dataclasses.dataclass(frozen=True)
class Usage:
    """One kernel's resources, in bytes except registers."""

    name: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


def parse_ptxas(text: str) -> list[Usage]:
    """Every kernel in the output of ``-Xptxas -v``."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\S+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    usages = []
    for match in pattern.finditer(text):
        shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", match["rest"])
        numbers = [int(match[key]) for key in ("registers", "stack", "stores", "loads")]
        usages.append(Usage(match["name"], *numbers, int(shared[1]) if shared else 0))
    return usages


def test_parse_ptxas_reads_every_number() -> None:
    text = (
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function '_Z1ai' for 'sm_87'\n"
        "ptxas info    : Function properties for _Z1ai\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 512 bytes smem\n"
        "ptxas info    : Compiling entry function '_Z1bi' for 'sm_87'\n"
        "ptxas info    : Function properties for _Z1bi\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 32 registers, used 1 barriers\n"
    )
    assert parse_ptxas(text) == [Usage("_Z1ai", 40, 8, 4, 12, 512), Usage("_Z1bi", 32, 0, 0, 0, 0)]


@pytest.fixture(scope="module")
def usages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Usage]]:
    nvcc = shutil.which("nvcc")
    if not nvcc:
        pytest.skip("no nvcc: the CUDA compiler is not installed")
    folder = tmp_path_factory.mktemp("cubin")

    def build(architecture: str) -> list[Usage]:
        command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-cubin"]
        command += ["-o", str(folder / f"{architecture}.cubin"), str(PROJECT / "plugin/attention_aggregation.cu")]
        done = subprocess.run(command, capture_output=True, text=True)
        if "is not defined for option 'gpu-architecture'" in done.stderr or "Unsupported gpu" in done.stderr:
            return []
        assert done.returncode == 0, done.stderr
        return parse_ptxas(done.stdout + done.stderr)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SHARED_KIB, pool.map(build, SHARED_KIB), strict=True))


@pytest.fixture(scope="module")
def refinements(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], tuple[int, int]]:
    """(bytes per element, width, column tiles) -> (dynamic shared bytes, most threads per block), as compiled."""
    program = tmp_path_factory.mktemp("limits") / "limits"
    include = [f"-I{EMULATION}", f"-I{EMULATION / 'cuda'}"]
    sources = [EMULATION / "limits.cpp", EMULATION / "machine.cpp"]
    subprocess.run([compiler(), "-std=c++17", "-O0", *include, *sources, "-o", program], check=True)
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [tuple(map(int, line.split())) for line in lines]
    return {(kind, width, tiles): (shared, threads) for kind, width, tiles, shared, threads in rows}


@pytest.mark.parametrize("architecture", SHARED_KIB)
def test_kernels_fit_the_chip(architecture: str, usages: dict[str, list[Usage]]) -> None:
    kernels = usages[architecture]
    if not kernels:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    for name in KERNELS:
        assert any(name in kernel.name for kernel in kernels), name
    for kernel in kernels:
        assert (kernel.spill_stores, kernel.spill_loads, kernel.stack) == (0, 0, 0), kernel
        assert kernel.shared == 0, f"static shared memory, which the dynamic limits do not count: {kernel}"


@pytest.mark.parametrize("architecture", SHARED_KIB)
def test_refinement_fits_shared_memory_and_registers(
    architecture: str,
    usages: dict[str, list[Usage]],
    refinements: dict[tuple[int, int, int], tuple[int, int]],
) -> None:
    per_block, per_multiprocessor = SHARED_KIB[architecture]
    found = {}
    for kernel in usages[architecture]:
        # Mangled: ...refineINS_10RefinementINS_4HalfELi64ELi1EEE...
        match = re.search(r"6refineI.*?(Half|Float)ELi(\d+)ELi(\d+)E", kernel.name)
        if match:
            found[(2 if match[1] == "Half" else 4, int(match[2]), int(match[3]))] = kernel
    if not found:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    assert found.keys() == refinements.keys()
    for instance, (shared, threads) in refinements.items():
        assert shared <= per_block * 1024, instance
        assert found[instance].registers * threads <= REGISTERS, instance
    # ViT-Ti to ViT-L with up to 7 classes: 16 warps per multiprocessor on every chip.
    shared, threads = refinements[(2, 64, 1)]
    assert threads == 256
    assert 2 * (shared + RESERVED_PER_BLOCK_KIB * 1024) <= per_multiprocessor * 1024
    assert 2 * threads * found[(2, 64, 1)].registers <= REGISTERS
