"""The kernels' own source, compiled for the CPU over an emulated warp machine, against the formula in FP64.

Run under AddressSanitizer and UndefinedBehaviorSanitizer, with memory of exactly the sizes asked for; see
``emulation/machine.h`` for what else it catches. The same-precision peer is PyTorch's explicit form on the CPU.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from training.model.aggregation import aggregate_explicit

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
EMULATION = PROJECT / "tests/plugin/emulation"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FP32, FP16 = 0, 1


@dataclasses.dataclass(frozen=True)
class Case:
    """One launch. `spread` is the standard deviation of q and k; `shape` names what is done to them besides."""

    kind: int
    batch: int
    tokens: int
    classes: int
    heads: int
    width: int
    blocks: int
    spread: float = 1.0
    shape: str = "normal"
    multiprocessors: int = 132
    reverse: int = 0
    late: int = 0

    def __str__(self) -> str:
        kind = "fp16" if self.kind == FP16 else "fp32"
        return (
            f"{kind}-B{self.batch}-T{self.tokens}-C{self.classes}-{self.heads}x{self.width}-P{self.blocks}"
            f"-{self.shape}{self.spread:g}-sm{self.multiprocessors}-{'r' * self.reverse}{'l' * self.late}"
        )

    @property
    def scale(self) -> float:
        """The scale in the form that the C interface receives."""
        return float(np.float32(self.width**-0.5))

    def qkv(self) -> list[torch.Tensor]:
        """P tensors B x T x 3 * heads * width; v is NaN, because nobody may read it."""
        dtype = torch.float16 if self.kind == FP16 else torch.float32
        generator = torch.Generator().manual_seed(zlib.crc32(str(self).encode()))
        out = []
        for _ in range(self.blocks):
            x = torch.randn(
                self.batch, self.tokens, 3, self.heads, self.width, generator=generator, dtype=torch.float32
            )
            x *= self.spread
            if self.shape == "rising":  # each row's largest score comes last, far above that of the first keys
                x[:, :, 1] *= torch.linspace(0.2, 4, self.tokens).reshape(1, -1, 1, 1)
            elif self.shape == "negative":  # every score far below zero
                x[:, :, 0] += 3
                x[:, :, 1] -= 3
            elif self.shape == "equal":
                x[:] = self.spread
            x[:, :, 2] = float("nan")
            out.append(x.reshape(self.batch, self.tokens, -1).to(dtype))
        return out


# Every width with every number of column tiles that there is a kernel for (C of 1-7, 8-15, 16-32), odd sizes on both
# sides of the tile edges (16 class rows, 32 or 64 keys, 32 queries per warp, 256 keys per part of the class rows).
CASES = [
    Case(FP16, 1, 6, 5, 1, 32, 1),
    Case(FP16, 1, 2, 1, 1, 64, 1, late=1),
    Case(FP16, 2, 71, 6, 3, 64, 4, reverse=1, late=1),
    Case(FP16, 1, 64, 7, 2, 64, 2, multiprocessors=1),
    Case(FP16, 1, 65, 7, 2, 64, 2, spread=3, reverse=1),
    Case(FP16, 1, 301, 7, 2, 64, 1, late=1),
    Case(FP16, 2, 263, 6, 1, 64, 1, multiprocessors=1, reverse=1, late=1),
    Case(FP16, 1, 150, 6, 1, 64, 2, shape="rising"),
    Case(FP16, 1, 150, 6, 1, 64, 2, spread=4, shape="rising", reverse=1, late=1),
    Case(FP16, 1, 67, 3, 1, 64, 1, shape="negative"),
    Case(FP16, 1, 70, 6, 1, 64, 12, shape="equal", multiprocessors=8),
    Case(FP16, 1, 99, 8, 1, 64, 2, late=1),
    Case(FP16, 1, 77, 32, 1, 64, 2, reverse=1),
    Case(FP16, 1, 129, 4, 3, 32, 1, late=1),
    Case(FP16, 1, 47, 15, 2, 32, 2),
    Case(FP16, 2, 50, 17, 1, 32, 2, late=1),
    Case(FP16, 1, 130, 1, 2, 80, 1, reverse=1),
    Case(FP16, 1, 63, 12, 1, 80, 3, late=1),
    Case(FP16, 1, 40, 31, 1, 80, 1),
    Case(FP16, 1, 97, 5, 1, 128, 2, late=1),
    Case(FP16, 1, 66, 9, 2, 128, 1, spread=2, shape="rising", reverse=1),
    Case(FP16, 1, 58, 25, 1, 128, 1),
    Case(FP32, 1, 2, 1, 1, 32, 1),
    Case(FP32, 2, 45, 6, 2, 32, 2, late=1),
    Case(FP32, 1, 37, 20, 1, 32, 1, reverse=1),
    Case(FP32, 1, 261, 7, 1, 64, 1, reverse=1, late=1),
    Case(FP32, 1, 70, 16, 1, 64, 3, spread=3, shape="rising"),
    Case(FP32, 1, 33, 15, 1, 80, 2, multiprocessors=1),
    Case(FP32, 1, 31, 17, 1, 80, 1, late=1),
    Case(FP32, 1, 42, 2, 1, 128, 1, reverse=1),
    Case(FP32, 1, 50, 32, 1, 128, 1, shape="negative"),
]


def compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        pytest.skip("no C++ compiler (g++, clang++ or CXX)")
    return found


def compile_program(target: Path, *sources: Path) -> None:
    flags = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", *SANITIZE]
    include = [f"-I{EMULATION}", f"-I{EMULATION / 'cuda'}"]
    subprocess.run([compiler(), *flags, *include, "-x", "c++", *sources, "-o", target], check=True)


def run(program: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    # ptrace-based leak checks fail in containers, and the program frees what it takes.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([program, *arguments], input=stdin, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("emulation") / "emulate"
    sources = [EMULATION / "machine.cpp", EMULATION / "main.cpp"]
    compile_program(program, PROJECT / "plugin/attention_aggregation.cu", *sources)
    return program


def launch(program: Path, folder: Path, cases: dict[str, tuple[Case, list[torch.Tensor]]]) -> dict[str, torch.Tensor]:
    lines = []
    for name, (case, qkv) in cases.items():
        (folder / f"{name}.in").write_bytes(b"".join(x.numpy().tobytes() for x in qkv))
        values = [case.kind, case.batch, case.tokens, case.classes, case.heads, case.width, case.blocks, case.scale]
        lines.append(" ".join(map(str, [name, *values, case.multiprocessors, case.reverse, case.late])))
    done = run(program, str(folder), stdin="\n".join(lines))
    assert done.returncode == 0, done.stderr[-4000:]
    results = {}
    for name, (case, _) in cases.items():
        gca = np.fromfile(folder / f"{name}.out", np.float32)
        results[name] = torch.from_numpy(gca).reshape(case.batch, case.classes, case.tokens - case.classes)
    return results


@pytest.fixture(scope="module")
def results(emulate: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return launch(emulate, tmp_path_factory.mktemp("cases"), {str(case): (case, case.qkv()) for case in CASES})


def explicit(case: Case, qkv: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    clean = [x.nan_to_num(0.0).to(dtype) for x in qkv]
    return aggregate_explicit(clean, case.heads, case.classes, case.scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_emulated_kernels_match_the_formula(case: Case, results: dict[str, torch.Tensor]) -> None:
    qkv = case.qkv()
    truth = explicit(case, qkv, torch.float64)
    error = ((results[str(case)].double() - truth).abs().max() / truth.abs().max()).item()
    peer = explicit(case, qkv, torch.float16 if case.kind == FP16 else torch.float32).double()
    peer_error = ((peer - truth).abs().max() / truth.abs().max()).item()
    # Where PyTorch happens to have no error at all: half a unit of FP16's last place, a few of FP32's.
    assert error <= max(2 * peer_error, 2.0**-11 if case.kind == FP16 else 1e-6)


def test_the_order_of_warps_and_the_arrival_of_copies_change_no_bit(emulate: Path, tmp_path: Path) -> None:
    case = Case(FP16, 2, 141, 7, 2, 64, 2, spread=3, shape="rising")
    variants = {f"{r}{late}": dataclasses.replace(case, reverse=r, late=late) for r in (0, 1) for late in (0, 1)}
    qkv = case.qkv()
    results = launch(emulate, tmp_path, {name: (variant, qkv) for name, variant in variants.items()})
    for result in results.values():
        assert torch.equal(result, results["00"])


def test_nan_inputs_reach_the_output(emulate: Path, tmp_path: Path) -> None:
    case = Case(FP16, 1, 70, 6, 1, 64, 1)
    one_query, one_key = case.qkv(), case.qkv()
    one_query[0][0, 40, 3] = float("nan")
    one_key[0][0, 50, 64 + 3] = float("inf")
    results = launch(emulate, tmp_path, {"query": (case, one_query), "key": (case, one_key)})
    assert results["query"][0, :, 40 - 6].isnan().all()
    assert not results["query"][0, :, :34].isnan().any()
    assert results["key"].isnan().any()


def test_unsupported_shapes_are_refused_with_what_is_expected(emulate: Path, tmp_path: Path) -> None:
    good = {"type": 1, "batch": 1, "tokens": 10, "classes": 6, "heads": 2, "width": 64, "blocks": 1, "scale": 0.125}
    bad = [
        ("type", 2, "type"),
        ("batch", 0, "batch"),
        ("tokens", 6, "tokens"),
        ("classes", 33, "1 to 32"),
        ("classes", 0, "1 to 32"),
        ("heads", 0, "heads"),
        ("width", 48, "32, 64, 80 or 128"),
        ("blocks", 13, "1 to 12"),
        ("scale", 0, "scale"),
        ("scale", -1, "scale"),
    ]
    for key, value, text in bad:
        line = " ".join(str(v) for v in {**good, key: value}.values())
        done = run(emulate, str(tmp_path), stdin=f"bad {line} 132 0 0")
        assert done.returncode == 2
        assert text in done.stderr


@pytest.fixture(scope="module")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("selftest") / "selftest"
    compile_program(program, EMULATION / "machine.cpp", EMULATION / "selftest.cpp")
    return program


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("none", ""),
        ("barrier", "wrong result"),
        ("wait", "wrong result"),
        ("overrun", "heap-buffer-overflow"),
        ("diverge", "lanes of a warp diverged"),
        ("leave", "a warp ended while others wait for it"),
        ("pending", "a thread ended with copies under way"),
    ],
)
def test_the_emulated_machine_catches_planted_faults(selftest: Path, fault: str, message: str) -> None:
    done = run(selftest, fault)
    assert (done.returncode == 0) == (fault == "none")
    assert message in done.stderr
