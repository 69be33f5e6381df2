"""The list of candidates, from the command line's models, backends, batches and sizes."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from emra_deploy.backends.names import ENGINES
from emra_deploy.backends.options import MAX_BATCH, LoadOptions
from emra_deploy.errors import EmraError

KINDS = {
    "onnx": ("onnxruntime", "openvino"),
    "engine": ("tensorrt",),
    "checkpoint": ("torch", "torch-compile"),
    "peer": ("torch", "torch-compile"),
}
"""Backends of each kind of model, the usual one first."""

BACKENDS = tuple(dict.fromkeys(name for names in KINDS.values() for name in names))
OPTIONS = {
    "onnxruntime": ("cuda", "cuda-graph"),
    "openvino": ("f32", "bf16", "f16"),
    "tensorrt": ("no-graph",),
    "torch": ("bf16", "fp16", "graph"),
    "torch-compile": ("bf16", "fp16", "graph"),
}
"""Words that may follow a backend's name and a colon: its precision, its device, or CUDA graphs."""

_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
"""OpenVINO's names, by which results of earlier runs are found, and the runtime's."""

PEERS = {
    "smp-segformer-b2": "segmentation_models_pytorch's SegFormer with the MiT-B2 encoder",
    "smp-unet-resnet34": "segmentation_models_pytorch's U-Net with the ResNet-34 encoder",
    "smp-unet-resnet18": "the same with the ResNet-18 encoder, which training/peer_unet.py trains",
    "timm-vit-base": "timm's plain ViT-B with a linear classifier per patch: the floor of a ViT-B segmenter",
}
"""Models that a user would pick instead. Their weights are random unless a file is given: time does not depend on
them, accuracy does."""

_MODULES = {"tensorrt": ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"), "torch-compile": ("torch",)}
MAX_SIDE = 8192


@dataclass(frozen=True)
class Spec:
    """One thing to measure.

    Attributes:
        name: Of the model, for people.
        kind: Of `KINDS`.
        backend: Of `BACKENDS`.
        option: Of the backend's `OPTIONS`, or None.
        batch: Pictures at once.
        size: Height and width, None for the model's own.
        path: The model; of a peer its weights, or None for random ones.
        threads: Of a processor's backend; None is its own choice.
    """

    name: str
    kind: str
    backend: str
    option: str | None
    batch: int
    size: tuple[int, int] | None
    path: Path | None
    threads: int | None = None

    def load_options(self) -> LoadOptions:
        """The options of opening the file.

        Raises:
            EmraError: Those of `LoadOptions`.
        """
        precision = _PRECISIONS.get(self.option or "") if self.backend == "openvino" else None
        return LoadOptions(self.backend, precision, threads=self.threads, batch=self.batch)

    @property
    def key(self) -> str:
        """Identifies a candidate within a run and across runs."""
        runner = self.backend if self.option is None else f"{self.backend} {self.option}"
        size = "own size" if self.size is None else f"{self.size[0]}x{self.size[1]}"
        return f"{self.name} | {runner} | b{self.batch} | {size}"


def kind_of(path: Path) -> str:
    """The kind of a model, by its name.

    Raises:
        EmraError: ``model-format``.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return "checkpoint"
    if suffix == ".onnx":
        return "onnx"
    if suffix in ENGINES:
        return "engine"
    raise EmraError(
        "model-format",
        f"The name of the model ends in {suffix!r}, expected .onnx, {', '.join(ENGINES)} or a checkpoint's folder",
        "Give one of these",
        path,
    )


def make_specs(
    models: Sequence[Path],
    peers: Sequence[str],
    *,
    backends: Sequence[str] = ("auto",),
    batches: Sequence[int] = (1,),
    sizes: Sequence[tuple[int, int]] = (),
    threads: int | None = None,
) -> list[Spec]:
    """Every valid combination.

    Args:
        models: Files and checkpoints' folders.
        peers: Names of `PEERS`, each optionally with ``@`` and its size, and ``=`` and a file of weights.
        backends: Names, with options after a colon; ``auto`` is the usual one of each model, ``all`` every installed.
        batches: Pictures at once.
        sizes: Heights and widths; none for each model's own.
        threads: Of a processor's backends.

    Raises:
        EmraError: ``no-models``; ``model-format``; ``peer-unknown``; ``size``; ``backend-unknown``.
    """
    if not models and not peers:
        raise EmraError("no-models", "There is nothing to measure", "Give at least one model file, or a --peer")
    wanted = [_split(name) for name in backends]
    names = _distinct(models)
    specs = []
    things: list[tuple[str, str, Path | None, tuple[tuple[int, int], ...]]]
    things = [(name, kind_of(path), path, tuple(sizes)) for name, path in zip(names, models, strict=True)]
    things += [_peer(peer, sizes) for peer in peers]
    for name, kind, path, own in things:
        runners = list(dict.fromkeys(runner for want in wanted for runner in _runners(kind, want)))
        if not runners:
            raise EmraError(
                "backend-unknown",
                f"None of the backends {', '.join(backends)} runs {name}, which is a model of kind {kind}",
                f"Add one of {', '.join(KINDS[kind])}, or leave --backend out",
                path,
            )
        for (backend, option), batch, size in itertools.product(runners, batches, own or (None,)):
            specs.append(Spec(name, kind, backend, option, batch, size, path, threads))
    return specs


def _peer(text: str, sizes: Sequence[tuple[int, int]]) -> tuple[str, str, Path | None, tuple[tuple[int, int], ...]]:
    """Name, kind, weights and sizes of ``NAME[@SIZE][=FILE]``."""
    head, equals, weights = text.partition("=")
    name, at, size = head.partition("@")
    if name not in PEERS:
        raise EmraError("peer-unknown", f"There is no peer {name!r}", f"Use {', '.join(PEERS)}")
    return name, "peer", Path(weights) if equals else None, parse_sizes(size) if at else tuple(sizes)


def with_size(spec: Spec, size: tuple[int, int]) -> Spec:
    """The same at a size that is known now."""
    return replace(spec, size=size)


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """``"256,512x640"`` as heights and widths.

    Raises:
        EmraError: ``size``.
    """
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", word.strip())
        sides = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
        if not all(16 <= side <= MAX_SIDE for side in sides):
            raise EmraError("size", f"size {word.strip()!r}", f"Give sides of 16 to {MAX_SIDE}, such as 256 or 512x640")
        found.append(sides)
    return tuple(dict.fromkeys(found))


def parse_batches(text: str) -> tuple[int, ...]:
    """``"1,4"`` as numbers.

    Raises:
        EmraError: ``batch-size``.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= MAX_BATCH for word in words):
        raise EmraError("batch-size", f"batch {text!r}", f"Give numbers of 1 to {MAX_BATCH}, such as 1,4")
    return tuple(dict.fromkeys(int(word) for word in words))


def installed(backend: str) -> bool:
    """Whether the library of a backend is here; nothing is imported."""
    return any(find_spec(module) is not None for module in _MODULES.get(backend, (backend,)))


def _split(name: str) -> tuple[str, str | None]:
    backend, colon, option = name.partition(":")
    if backend in ("auto", "all") and not colon:
        return backend, None
    if backend not in BACKENDS:
        raise EmraError("backend-unknown", f"There is no backend {backend!r}", f"Use auto, all, {', '.join(BACKENDS)}")
    if colon and option not in OPTIONS[backend]:
        allowed = ", ".join(f"{backend}:{name}" for name in OPTIONS[backend]) or "it alone"
        raise EmraError("backend-unknown", f"Backend {backend!r} has no option {option!r}", f"Use {allowed}")
    return backend, option if colon else None


def _runners(kind: str, want: tuple[str, str | None]) -> Iterable[tuple[str, str | None]]:
    name, option = want
    if name == "auto":
        return [(KINDS[kind][0], None)]
    if name == "all":
        return [(backend, None) for backend in KINDS[kind] if installed(backend)]
    return [(name, option)] if name in KINDS[kind] else []


def _distinct(models: Sequence[Path]) -> list[str]:
    """File names, with their folders where two are alike."""
    plain = [path.name or path.resolve().name for path in models]
    counts = Counter(plain)
    names = [
        name if counts[name] == 1 else f"{path.resolve().parent.name}/{name}"
        for name, path in zip(plain, models, strict=True)
    ]
    again = Counter(names)
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        if again[name] > 1:
            seen[name] += 1
            names[index] = f"{name} #{seen[name]}"
    return names
