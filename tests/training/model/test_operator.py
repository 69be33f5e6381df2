"""The operator: the formula's values and gradients, PyTorch's own checks of operators, and its C binding."""

from __future__ import annotations

import ctypes
import logging
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from emra_deploy.errors import EmraError
from tests.training.model.test_mca import CASES, random_qkv
from training.model import EMRAConfig, EMRAProxy, kernels
from training.model.aggregation import aggregate_explicit, aggregate_streamed
from training.model.cost import count_cost
from training.model.mca import MCA
from training.model.operator import attention_aggregation

HEADER = Path(__file__).resolve().parents[3] / "plugin" / "attention_aggregation.h"

SMALL = (2, 2, 4, 3, 6, 2)
"""batch, heads, head width, classes, patches, blocks: for checks that differentiate number by number."""


def call(qkv: list[Tensor], case: tuple[int, ...]) -> Tensor:
    _, heads, width, classes, *_ = case
    return attention_aggregation(qkv, heads, classes, 1 / math.sqrt(width))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("case", [*CASES, (1, 3, 64, 6, 256, 4)])
def test_the_operator_equals_the_formula_with_gradients(
    case: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    _, heads, width, classes, patches, _ = case
    results = []
    for aggregate in (aggregate_explicit, attention_aggregation):
        qkv = [block.requires_grad_() for block in random_qkv(case, dtype)]
        # N * GCA, the scale on which the fusion reads it.
        gca = aggregate(qkv, heads, classes, 1 / math.sqrt(width)) * patches
        assert gca.dtype == dtype
        weights = torch.linspace(-1, 1, gca.numel(), dtype=dtype).view_as(gca)
        (gca * weights).sum().backward()
        results.append((gca.detach(), [block.grad for block in qkv]))
    (explicit, explicit_gradients), (found, gradients) = results
    assert (explicit - found).abs().max() <= tolerance * explicit.max()
    for one, other in zip(explicit_gradients, gradients, strict=True):
        assert one.abs().max() > 0 or patches == 1
        assert (one - other).abs().max() <= 4 * tolerance * max(1.0, float(one.abs().max()))
        assert (other[..., 2 * heads * width :] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_full_sums(dtype: torch.dtype) -> None:
    """The inputs are rounded and nothing else is: FP32 out, equal to the formula over the rounded inputs."""
    case = (2, 3, 32, 5, 40, 3)
    qkv = [block.to(dtype) for block in random_qkv(case, torch.float32)]
    found = call(qkv, case)
    assert found.dtype == torch.float32
    expected = aggregate_explicit([block.double() for block in qkv], 3, 5, 32**-0.5)
    assert (found - expected).abs().max() <= 1e-6 * expected.max()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(qkv, case), found)
    for block in qkv:
        block.requires_grad_()
    call(qkv, case).square().sum().backward()
    assert all(block.grad.dtype == dtype and block.grad.abs().max() > 0 for block in qkv)


def test_gradients_number_by_number() -> None:
    case = (1, 2, 2, 2, 2, 2)
    qkv = [block.requires_grad_() for block in random_qkv(case, torch.float64)]
    assert torch.autograd.gradcheck(lambda *blocks: call(list(blocks), case), qkv)
    # Second derivatives where PyTorch's attention has them: the fused kernels do not, and say so.
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda *blocks: call(list(blocks), case), qkv, fast_mode=True)
    (first,) = torch.autograd.grad(call(qkv, case).square().sum(), qkv[0], create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        first.sum().backward()


def test_only_what_needs_a_gradient_gets_one() -> None:
    first, second = random_qkv(SMALL, torch.float64)
    first.requires_grad_()
    call([first, second], SMALL).sum().backward()
    alone = first.grad.clone()
    assert second.grad is None
    first.grad = None
    second.requires_grad_()
    call([first, second], SMALL).sum().backward()
    torch.testing.assert_close(first.grad, alone)
    # One tensor given twice: the sum of what its two places get.
    shared = first.detach().clone().requires_grad_()
    twice = [first.detach().clone().requires_grad_() for _ in range(2)]
    weights = torch.linspace(-1, 1, 2 * 3 * 6, dtype=torch.float64).view(2, 3, 6)
    (call([shared, shared], SMALL) * weights).sum().backward()
    (call(twice, SMALL) * weights).sum().backward()
    torch.testing.assert_close(shared.grad, twice[0].grad + twice[1].grad)


def test_pytorchs_checks_of_operators() -> None:
    qkv = [block.requires_grad_() for block in random_qkv(SMALL, torch.float32)]
    results = torch.library.opcheck(attention_aggregation, (qkv, 2, 3, 0.5))
    assert len(results) == 4
    assert set(results.values()) == {"SUCCESS"}
    half = [block.detach().half() for block in qkv]
    quick = ("test_schema", "test_faketensor")
    assert set(torch.library.opcheck(attention_aggregation, (half, 2, 3, 0.5), test_utils=quick).values()) == {
        "SUCCESS"
    }


@pytest.mark.slow
def test_compiled_is_the_same_with_gradients() -> None:
    def step(first: Tensor, second: Tensor) -> Tensor:
        return call([first * 2, second], SMALL).sin()

    results = []
    for run in (step, torch.compile(step, fullgraph=True)):
        qkv = [block.requires_grad_() for block in random_qkv(SMALL, torch.float32)]
        found = run(*qkv)
        found.sum().backward()
        results.append([found.detach(), *(block.grad for block in qkv)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("zoom", [1, 2])
@pytest.mark.parametrize(("hra_block", "mca_blocks"), [(0, 1), (3, 4), (12, 12)])
def test_a_model_with_it_is_the_model_without(hra_block: int, mca_blocks: int, zoom: int) -> None:
    torch.manual_seed(1)
    model = EMRAProxy(EMRAConfig("tiny", 4, (32, 48), hra_block, mca_blocks, zoom=zoom)).eval()
    image = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        streamed = model(image)
        model.set_aggregation("plugin")
        torch.testing.assert_close(model(image), streamed, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 4), st.integers(1, 4))
def test_any_shape(batch: int, heads: int, width: int, classes: int, blocks: int) -> None:
    patches = 3
    case = (batch, heads, width, classes, patches, blocks)
    qkv = random_qkv(case, torch.float64)
    found = call(qkv, case)
    assert found.shape == (batch, classes, patches)
    assert found.is_contiguous()
    with torch._subclasses.FakeTensorMode() as mode:
        fake = call([mode.from_tensor(block) for block in qkv], case)
    assert (fake.shape, fake.dtype, fake.stride()) == (found.shape, found.dtype, found.stride())
    if batch:
        torch.testing.assert_close(found, aggregate_streamed(qkv, heads, classes, width**-0.5))


@pytest.mark.parametrize(
    ("shapes", "heads", "classes"),
    [
        ([], 2, 3),
        ([(1, 8)], 2, 3),
        ([(1, 8, 24), (1, 9, 24)], 2, 3),
        ([(1, 8, 25)], 2, 3),
        ([(1, 8, 24)], 3, 3),
        ([(1, 8, 24)], 0, 3),
        ([(1, 8, 24)], 2, 8),
        ([(1, 8, 24)], 2, 0),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_arguments(shapes: list[tuple[int, ...]], heads: int, classes: int, device: str) -> None:
    # Without tensors PyTorch finds no implementation to ask.
    with pytest.raises(ValueError if shapes else (ValueError, NotImplementedError)):
        attention_aggregation([torch.zeros(shape, device=device) for shape in shapes], heads, classes, 0.5)
    with pytest.raises(ValueError, match=r"differ|floating"):
        attention_aggregation([torch.zeros(1, 8, 24), torch.zeros(1, 8, 24).double()], 2, 3, 0.5)
    with pytest.raises(ValueError, match="floating"):
        attention_aggregation([torch.zeros(1, 8, 24, dtype=torch.int32)], 2, 3, 0.5)


def test_its_cost_is_counted() -> None:
    """The cost follows the kernels: values are C wide, not padded."""
    config = EMRAConfig("base", 6, (256, 384), aggregation="plugin")
    patches, tokens = 16 * 24, 16 * 24 + 6
    by_hand = 4 * (tokens * tokens * 768 + 12 * patches * tokens * 6)
    assert {part.name: part.macs for part in count_cost(config).parts}["MCA"] == by_hand
    assert count_cost(EMRAConfig("base", 6, (256, 384))).macs > count_cost(config).macs


def test_the_module_uses_it() -> None:
    qkv = random_qkv(CASES[1], torch.float32)
    gca = MCA(3, 5, 64**-0.5, "plugin")(qkv, (4, 4))
    torch.testing.assert_close(gca, MCA(3, 5, 64**-0.5, "explicit")(qkv, (4, 4)))


# The C interface, against the header itself: a library that computes the formula on the CPU.

DOUBLE = r"""
#include <math.h>
#include <stdlib.h>
#include "attention_aggregation.h"

int emra_aggregation_version(void) { return VERSION; }

const char* emra_aggregation_check(const EmraAggregationShape* s) {
  return s->head_width == 32 || s->head_width == 64 ? NULL : "head_width is 32 or 64";
}

size_t emra_aggregation_workspace(const EmraAggregationShape* s) {
  return sizeof(double) * (size_t)s->tokens * s->tokens;
}

static double at(const EmraAggregationShape* s, const void* p, size_t i) {
  return s->type == EMRA_FP16 ? (double)((const _Float16*)p)[i] : (double)((const float*)p)[i];
}

int emra_aggregation_launch(const EmraAggregationShape* s, const void* const* qkv, float* gca, void* workspace,
                            void* stream) {
  if (stream != (void*)77) return 400;
  const int T = s->tokens, C = s->num_class_tokens, N = T - C, D = s->num_heads * s->head_width;
  double* mean = workspace;
  for (int b = 0; b < s->batch; b++) {
    for (int i = 0; i < T * T; i++) mean[i] = 0;
    for (int l = 0; l < s->num_blocks; l++)
      for (int h = 0; h < s->num_heads; h++)
        for (int i = 0; i < T; i++) {
          double row[64], sum = 0;
          for (int j = 0; j < T; j++) {
            double dot = 0;
            for (int d = 0; d < s->head_width; d++)
              dot += at(s, qkv[l], ((size_t)b * T + i) * 3 * D + h * s->head_width + d) *
                     at(s, qkv[l], ((size_t)b * T + j) * 3 * D + D + h * s->head_width + d);
            sum += row[j] = exp(dot * s->scale);
          }
          for (int j = 0; j < T; j++) mean[i * T + j] += row[j] / sum / (s->num_blocks * s->num_heads);
        }
    for (int c = 0; c < C; c++)
      for (int n = 0; n < N; n++) {
        double total = 0;
        for (int m = 0; m < N; m++) total += mean[(C + n) * T + C + m] * mean[c * T + C + m];
        gca[((size_t)b * C + c) * N + n] = (float)total;
      }
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("double")

    def make(version: int, words: str = "") -> Path:
        source, library = folder / f"double{version}{words}.c", folder / f"double{version}{words}.so"
        source.write_text(DOUBLE)
        options = ["-O1", "-shared", "-fPIC", f"-DVERSION={version}", f"-I{HEADER.parent}", *words.split()]
        made = subprocess.run([compiler, *options, source, "-o", library, "-lm"], capture_output=True, text=True)
        if "_Float16" in made.stderr:
            pytest.skip("the C compiler has no _Float16")
        assert made.returncode == 0, made.stderr
        return library

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_binding_passes_what_the_header_says(build, dtype: torch.dtype) -> None:
    loaded = kernels.Kernels(build(kernels.VERSION))
    case = (2, 3, 32, 4, 17, 3)
    qkv = [block.to(dtype) for block in random_qkv(case, torch.float32, spread=1.0)]
    expected = call(qkv, case)
    shape = kernels.shape_of(qkv, 3, 4, 32**-0.5)
    assert loaded.refusal(shape) is None
    torch.testing.assert_close(loaded.launch(shape, qkv, 77), expected, rtol=1e-5, atol=1e-8)
    # Strided and misaligned tensors are copied first.
    strided = [block.repeat_interleave(2, dim=0)[::2] for block in qkv]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(loaded.launch(shape, strided, 77), expected, rtol=1e-5, atol=1e-8)
    shifted = [torch.cat([block.new_zeros(1), block.flatten()])[1:].view(block.shape) for block in qkv]
    assert shifted[0].data_ptr() % 16
    torch.testing.assert_close(loaded.launch(shape, shifted, 77), expected, rtol=1e-5, atol=1e-8)
    with pytest.raises(RuntimeError, match="CUDA error 400"):
        loaded.launch(shape, qkv, 0)
    refused = kernels.shape_of([torch.zeros(1, 9, 3 * 48)], 1, 4, 1.0)
    assert loaded.refusal(refused) == "head_width is 32 or 64"


def test_what_the_kernels_do_not_take_is_left_to_pytorch(build, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(kernels.VARIABLE, str(build(kernels.VERSION)))
    kernels.find_kernels.cache_clear()
    kernels._say_once.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert kernels.aggregate([torch.zeros(1, 9, 3 * 48)], 1, 4, 1.0) is None
        assert caplog.text.count("head_width is 32 or 64") == 1
        assert kernels.aggregate([torch.zeros(1, 9, 96, dtype=torch.bfloat16)], 1, 4, 1.0) is None
        assert kernels.aggregate([torch.zeros(0, 9, 96)], 1, 4, 1.0) is None
    finally:
        kernels.find_kernels.cache_clear()


def test_libraries_that_are_none_are_not_passed_over(build, monkeypatch, tmp_path: Path) -> None:
    wrong = tmp_path / "libemra_kernels.so"
    wrong.write_bytes(b"text")
    for named, code in (
        ("libemra_kernels.so", "plugin-path"),
        (str(tmp_path / "none.so"), "plugin-missing"),
        (str(wrong), "plugin-format"),
        (str(build(kernels.VERSION + 1)), "kernels-version"),
        (str(build(kernels.VERSION, "-Demra_aggregation_launch=other")), "plugin-symbol"),
    ):
        kernels.find_kernels.cache_clear()
        monkeypatch.setenv(kernels.VARIABLE, named)
        with pytest.raises(EmraError) as caught:
            kernels.find_kernels()
        assert caught.value.code == code
    monkeypatch.delenv(kernels.VARIABLE)
    monkeypatch.setattr(kernels, "PLACES", (tmp_path / "none.so", tmp_path / "built.so"))
    kernels.find_kernels.cache_clear()
    assert kernels.find_kernels() is None
    shutil.copy(build(kernels.VERSION), tmp_path / "built.so")
    kernels.find_kernels.cache_clear()
    assert isinstance(kernels.find_kernels(), kernels.Kernels)
    kernels.find_kernels.cache_clear()


def test_the_binding_follows_the_header() -> None:
    text = HEADER.read_text()
    assert int(re.search(r"#define EMRA_AGGREGATION_VERSION (\d+)", text)[1]) == kernels.VERSION
    body = re.search(r"struct EmraAggregationShape \{(.*?)\n\};", text, re.S)[1]
    ctype = {"int32_t": ctypes.c_int32, "float": ctypes.c_float}
    declared = [(name, ctype[kind]) for kind, name in re.findall(r"(int32_t|float) (\w+);", body)]
    assert tuple(declared) == kernels.Shape._fields_
    assert re.search(r"EMRA_FP32 = 0, EMRA_FP16 = 1", text)


@pytest.mark.gpu
def test_the_kernels_on_cuda() -> None:
    if not torch.cuda.is_available() or kernels.find_kernels() is None:
        pytest.skip("no CUDA device, or the kernels are not built")
    for dtype in (torch.float32, torch.float16):
        case = (2, 3, 64, 5, 200, 4)
        qkv = [block.to("cuda", dtype).requires_grad_() for block in random_qkv(case, torch.float32)]
        expected = aggregate_explicit([block.double() for block in qkv], 3, 5, 0.125)
        found = call(qkv, case)
        assert (found - expected).abs().max() <= 2e-3 * expected.max()
        gradients = torch.autograd.grad(found.sum(), qkv)
        assert all(gradient.isfinite().all() for gradient in gradients)
