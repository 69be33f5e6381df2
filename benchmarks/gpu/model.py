"""The whole model inside PyTorch: class attention by PyTorch's own fused attention, and by the kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.gpu.formulas import errors
from benchmarks.gpu.rows import Goal, Row
from benchmarks.gpu.timing import extra_memory, time_graphs

if TYPE_CHECKING:
    from training.model import EMRAProxy

SIZE, CLASSES = 512, 7
FORMS = {"SDPA": "streamed", "plugin": "plugin", "explicit": "explicit"}
FLOOR = 2.0**-11
"""Half a unit in FP16's last place: smaller errors are rounding."""


def compare_models(
    kernels: Path, batches: tuple[int, ...] = (1, 4), backbone: str = "base", size: int = SIZE
) -> list[Row]:
    """Rows of EMRA-proxy in FP16 with random weights: error against FP32, time as CUDA graphs, memory.

    Args:
        kernels: The shared library.
        batches: Pictures at once.
        backbone: One of `training.model.BACKBONES`.
        size: Side of the pictures.

    Raises:
        ImportError: timm is not installed.
    """
    # Set before the model looks for a library, so that this build is measured.
    os.environ["EMRA_KERNELS"] = str(kernels)
    from training.model import EMRAConfig, EMRAProxy
    from training.model.kernels import find_kernels

    find_kernels.cache_clear()
    torch.manual_seed(0)
    model = EMRAProxy(EMRAConfig(backbone, num_classes=CLASSES, image_size=(size, size)))
    with torch.no_grad():
        for parameter in model.parameters():
            # Otherwise the logits, and their errors, are close to 0.
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model = model.cuda().eval()
    section = f"EMRA-proxy, ViT {backbone}, {size} x {size}, FP16, whole model in PyTorch"
    rows = _agreement(model, size, section)
    model.half()
    for batch in batches:
        rows += _times(model, batch, size, f"{section}, batch {batch}")
    return rows


def _agreement(model: EMRAProxy, size: int, section: str) -> list[Row]:
    """The error of the FP16 logits against FP32 logits of the formula; the model stays in FP32."""
    image = torch.randn(2, 3, size, size, device="cuda")
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            model.set_aggregation("explicit")
            truth = model(image).double()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
    found, labels = {}, {}
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        for name in ("SDPA", "plugin"):
            model.set_aggregation(FORMS[name])
            logits = model(image)
            found[name] = errors(logits, truth)[1]
            labels[name] = float((logits.argmax(1) == truth.argmax(1)).float().mean())
    goal = Goal("<=", max(2 * found["SDPA"], FLOOR))
    return [
        Row(section, "error of the logits, SDPA", found["SDPA"], note=f"{labels['SDPA']:.3%} of the labels agree"),
        Row(
            section,
            "error of the logits, plugin",
            found["plugin"],
            "",
            goal,
            f"{labels['plugin']:.3%} of the labels agree",
            required=True,
        ),
    ]


def _forward(model: EMRAProxy, form: str, image: Tensor) -> Tensor:
    with torch.inference_mode():
        model.set_aggregation(FORMS[form])
        labels: Tensor = model(image).argmax(dim=1).to(torch.uint8)
    return labels


def _times(model: EMRAProxy, batch: int, size: int, section: str) -> list[Row]:
    # Several pictures, so that none is still in the cache from the previous run.
    images = [torch.randn(batch, 3, size, size, device="cuda", dtype=torch.float16) for _ in range(4)]
    works: dict[str, list[Callable[[], Tensor]]] = {
        name: [partial(_forward, model, name, image) for image in images] for name in FORMS
    }
    times, failures = time_graphs(works)
    rows = [
        Row(section, name, seconds * 1e3, "ms", note=f"{batch / seconds:.0f} pictures/s, scatter {scatter:.1%}")
        for name, (seconds, scatter) in times.items()
    ]
    rows += [Row(section, name, None, note=why, required=name == "plugin") for name, why in failures.items()]
    if {"SDPA", "plugin"} <= set(times):
        rows.append(Row(section, "SDPA / plugin", times["SDPA"][0] / times["plugin"][0]))
    for name in FORMS:
        if name in times:
            taken = extra_memory(works[name][0])
            rows.append(Row(section, f"extra memory, {name}", taken / 1e6, "MB"))
    return rows
