"""The TensorRT plugin, held by a host that plays TensorRT's part against TensorRT's own headers; no GPU.

tests/plugin/host/ is built by the project's CMake with the address and undefined-behaviour sanitizers. It loads the
plugin library with a test double of the CUDA kernels, so that the plugin's code runs from createPlugin to enqueue.
"""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.plugin.building import Host, case_names


@pytest.mark.parametrize("name", case_names())
def test_case(host: Host, name: str) -> None:
    done = host.case(name)
    assert done.returncode == 0, done.stderr


def test_every_case_is_known(host: Host) -> None:
    assert sorted(host.run("--list").stdout.split()) == sorted(case_names())
    assert len(case_names()) > 30


def test_an_unknown_case_fails(host: Host) -> None:
    assert host.case("no_such_case").returncode == 2


def test_messages_without_a_logger_are_one_line_on_stderr(host: Host) -> None:
    done = host.case("messages_go_to_stderr_without_a_logger")
    assert done.stderr == "error: emra::AttentionAggregation '/mca/aggregate': attribute 'num_heads' is missing\n"


def test_registration_without_tensorrt_is_one_line_on_stderr(host: Host) -> None:
    done = host.case("loading_without_tensorrt_says_so")
    assert done.stderr.startswith("error: libemra_plugins_register: libnvinfer.so.1")
    assert len(done.stderr.splitlines()) == 1


def test_the_sanitizers_are_on(host: Host, tmp_path: Path) -> None:
    """A file whose tensors are shorter than its header says would otherwise be the only guard."""
    (tmp_path / "short").write_bytes(struct.pack("<7if", 1, 70, 6, 3, 64, 2, 0, 0.125) + b"\0" * 100)
    done = host.run(host.plugins, "--enqueue", tmp_path / "short", tmp_path / "out")
    assert done.returncode == 1
    assert "too short" in done.stderr
    symbols = subprocess.run(["nm", "-D", host.plugins], capture_output=True, text=True).stdout
    assert "__asan_" in symbols
    assert "__ubsan_" in symbols


def gca_of(qkv: np.ndarray, classes: int, heads: int, scale: float) -> np.ndarray:
    """GCA (DESIGN of `emra::AttentionAggregation`) in FP64 of qkv, P x B x T x 3D, as B x C x N."""
    blocks, batch, tokens, _ = qkv.shape
    q, k, _ = qkv.astype(np.float64).reshape(blocks, batch, tokens, 3, heads, -1).transpose(3, 0, 1, 4, 2, 5)
    logits = q @ k.swapaxes(-1, -2) * scale
    attention = np.exp(logits - logits.max(-1, keepdims=True))
    attention = (attention / attention.sum(-1, keepdims=True)).mean(axis=(0, 2))
    return attention[:, :classes, classes:] @ attention[:, classes:, classes:].swapaxes(-1, -2)


@pytest.mark.parametrize(
    ("batch", "tokens", "classes", "heads", "width", "blocks"),
    [(1, 10, 6, 3, 64, 4), (3, 41, 1, 2, 32, 12), (2, 34, 32, 1, 128, 1), (1, 70, 7, 4, 80, 2)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_enqueue_computes_the_formula(
    host: Host, tmp_path: Path, batch: int, tokens: int, classes: int, heads: int, width: int, blocks: int, dtype: type
) -> None:
    generator = np.random.default_rng(tokens)
    qkv = generator.normal(size=(blocks, batch, tokens, 3 * heads * width)).astype(dtype)
    qkv[..., 2 * heads * width :] = np.nan  # v is not read
    scale = width**-0.5
    header = struct.pack("<7if", batch, tokens, classes, heads, width, blocks, int(dtype is np.float16), scale)
    (tmp_path / "in").write_bytes(header + qkv.tobytes())
    done = host.run(host.plugins, "--enqueue", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    gca = np.fromfile(tmp_path / "out", np.float32).reshape(batch, classes, tokens - classes)
    np.testing.assert_allclose(gca, gca_of(qkv, classes, heads, float(np.float32(scale))), rtol=2e-6)
