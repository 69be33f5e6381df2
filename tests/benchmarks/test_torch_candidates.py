"""Candidates in PyTorch: checkpoints, peers, compiled and replayed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.candidates.open import open_candidate
from benchmarks.candidates.spec import Spec, make_specs
from emra_deploy.errors import EmraError
from tests.onnx_models import make_manifest, scene


def test_a_checkpoint_runs_with_torch(small_checkpoint: Path) -> None:
    spec = Spec("checkpoint", "checkpoint", "torch", None, 2, (64, 96), small_checkpoint, 1)
    backend = open_candidate(spec)
    outputs = backend.run(np.stack([scene(64, 96, seed) for seed in range(2)]))
    assert {name: value.shape for name, value in outputs.items()} == {"classes": (2, 64, 96)}
    assert backend.stages["compute"] > 0
    assert backend.input_shape == (None, 64, 96)
    assert backend.parameter_bytes() > 1000  # type: ignore[attr-defined]
    layers = backend.profile(np.zeros((2, 64, 96, 3), np.uint8), 1)
    assert layers
    backend.close()


def test_bf16_differs_from_fp32_but_little(small_checkpoint: Path) -> None:
    picture = scene(64, 64)[None]
    found = {}
    for option in (None, "bf16"):
        spec = Spec("checkpoint", "checkpoint", "torch", option, 1, None, small_checkpoint, 1)
        backend = open_candidate(spec)
        found[option] = backend.run(picture)["classes"]
    assert "bf16" in backend.precision
    assert float(np.mean(found[None] == found["bf16"])) > 0.9


@pytest.mark.parametrize("name", ["smp-unet-resnet18", "smp-segformer-b2", "timm-vit-base"])
def test_peers_label_pictures_of_any_size(name: str) -> None:
    """Sides that are no multiples of 32, as the shipped model's are: the picture is padded and the labels cut."""
    pytest.importorskip("segmentation_models_pytorch")
    backend = open_candidate(Spec(name, "peer", "torch", None, 1, (72, 50), None, 1))
    labels = backend.run(scene(72, 50)[None])["classes"]
    assert labels.shape == (1, 72, 50)
    assert labels.max() < len(backend.manifest.classes)


def test_padding_leaves_the_picture_where_it_was() -> None:
    import torch

    from benchmarks.candidates.peers import Padded

    seen = []
    padded = Padded(torch.nn.Sequential(), (3, 5), (4, 8))
    padded.register_forward_hook(lambda module, inputs, output: seen.append(output))
    padded.model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    image = torch.rand(1, 3, 3, 5)
    assert torch.equal(padded(image), image)
    assert seen[0].shape == (1, 3, 4, 8)
    assert torch.equal(seen[0][..., 3, 7], image[..., 2, 4])


def test_a_trained_peer_is_known_by_its_weights(tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    trained = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    weights = tmp_path / "model.safetensors"
    # As training/peer_unet.py names them.
    save_file({f"net.{name}": value.contiguous() for name, value in trained.state_dict().items()}, weights)
    specs = make_specs([], [f"smp-unet-resnet18@64={weights}"], sizes=((96, 96),))
    assert [(spec.size, spec.path) for spec in specs] == [((64, 64), weights)]
    picture = scene(64, 64)[None]
    labels = open_candidate(specs[0]).run(picture)["classes"]
    image = torch.from_numpy(picture).permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    with torch.inference_mode():
        expected = trained(image / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)).argmax(1)
    assert float((labels == expected.numpy()).mean()) > 0.999
    assert labels.max() < 3
    for path, content in (("other.safetensors", {"a": torch.zeros(1)}), ("none.safetensors", None)):
        if content is not None:
            save_file(content, tmp_path / path)
        with pytest.raises(EmraError) as caught:
            open_candidate(replace(specs[0], path=tmp_path / path))
        assert caught.value.code == "model-unreadable"


@pytest.mark.slow
def test_compiled_and_eager_pytorch_agree() -> None:
    """On one layer: compiling a whole model takes minutes, and it is the compiling that is tested."""
    import torch

    from benchmarks.candidates.torch_models import TimedTorch

    torch.manual_seed(0)
    layer, picture = torch.nn.Conv2d(3, 5, 3, padding=1), scene(64, 64)[None]
    found = {}
    for name in ("torch", "torch-compile"):
        spec = Spec("one layer", "peer", name, None, 1, (64, 64), None, 1)
        backend = TimedTorch(spec, layer, make_manifest((64, 64)))
        found[name] = backend.run(picture)["classes"]
        assert backend.stages["compute"] > 0
        assert backend.describe()["backend"] == name
        backend.close()
    assert found["torch"].max() > 0
    assert float(np.mean(found["torch"] == found["torch-compile"])) > 0.999


@pytest.mark.parametrize("backend", ["torch", "torch-compile"])
def test_cuda_graphs_need_a_gpu(small_checkpoint: Path, backend: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EmraError) as caught:
        open_candidate(Spec("checkpoint", "checkpoint", backend, "graph", 1, None, small_checkpoint, 1))
    assert caught.value.code == "backend-option"


def test_a_replayed_function_sees_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture and replay without a GPU: a graph that does again what was done while it was captured."""
    import contextlib

    import torch

    from benchmarks.candidates.torch_models import Replay

    class Graph:
        def replay(self) -> None:
            replayed._output.copy_(double(replayed._input))

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    calls: list[float] = []

    def double(values: torch.Tensor) -> torch.Tensor:
        calls.append(float(values[0]))
        return values * 2

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    replayed = Replay(double)
    assert [float(replayed(torch.tensor([value]))[0]) for value in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]
    # Three times to warm up and once captured, then once for each replay.
    assert calls == [1.0] * 4 + [1.0, 2.0, 3.0]
