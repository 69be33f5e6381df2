"""Candidates: parsing of their names, the pipeline around a model, and separate timing of copies."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.candidates.files import TimedCuda, TimedEngine, TimedFile, open_file
from benchmarks.candidates.open import describe_manifest, open_candidate
from benchmarks.candidates.ort_device import open_on_device
from benchmarks.candidates.pictures import write_pictures
from benchmarks.candidates.profiles import parse_onnxruntime
from benchmarks.candidates.spec import Spec, installed, make_specs, parse_batches, parse_sizes
from benchmarks.candidates.timed import LayerTime, Pipeline, describe_profile
from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.tensorrt.cuda import UNUSABLE
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.pictures.images import read_image
from emra_deploy.segmenting.selftest import self_test
from tests.onnx_models import build_model, make_manifest, nearest_colour, scene


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path, size=(64, 64))
    return path


def spec_of(path: Path, backend: str = "onnxruntime", option: str | None = None, **changes: Any) -> Spec:
    return Spec(**{"name": path.name, "kind": "onnx", "backend": backend, "option": option, "batch": 1, "size": None,
                   "path": path, "threads": 1, **changes})  # fmt: skip


def test_every_combination_has_a_key_of_its_own(model: Path) -> None:
    specs = make_specs(
        [model],
        ["timm-vit-base"],
        backends=["onnxruntime", "openvino:bf16", "torch"],
        batches=(1, 4),
        sizes=((64, 64), (64, 96)),
    )
    keys = [spec.key for spec in specs]
    assert len(set(keys)) == len(keys) == 12
    assert "model.onnx | openvino bf16 | b4 | 64x96" in keys
    assert "timm-vit-base | torch | b1 | 64x64" in keys


def test_auto_takes_the_usual_backend_and_all_the_installed_ones(model: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    models = [model, tmp_path / "checkpoint", tmp_path / "a.engine"]
    assert [spec.backend for spec in make_specs(models, [])] == ["onnxruntime", "torch", "tensorrt"]
    found = {spec.backend for spec in make_specs([model], [], backends=["all"])}
    assert found == {name for name in ("onnxruntime", "openvino") if installed(name)}


def test_models_of_one_name_are_distinguished(tmp_path: Path) -> None:
    paths = [tmp_path / "a/model.onnx", tmp_path / "b/model.onnx", tmp_path / "b/model.onnx"]
    assert [spec.name for spec in make_specs(paths, [])] == ["a/model.onnx", "b/model.onnx #1", "b/model.onnx #2"]


@pytest.mark.parametrize(
    ("models", "peers", "backends", "code"),
    [
        ([], [], ["auto"], "no-models"),
        ([], ["resnet"], ["auto"], "peer-unknown"),
        ([], ["timm-vit-base@8"], ["auto"], "size"),
        (["a.onnx"], [], ["caffe"], "backend-unknown"),
        (["a.onnx"], [], ["openvino:int4"], "backend-unknown"),
        (["a.onnx"], [], ["onnxruntime:bf16"], "backend-unknown"),
        (["a.onnx"], [], ["torch"], "backend-unknown"),
        (["a.tflite"], [], ["auto"], "model-format"),
    ],
)
def test_what_cannot_be_meant_is_refused(models: list[str], peers: list[str], backends: list[str], code: str) -> None:
    with pytest.raises(EmraError) as caught:
        make_specs([Path(name) for name in models], peers, backends=backends)
    assert caught.value.code == code


def test_a_missing_file_of_weights_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.latency import main

    assert main(["--peer", "smp-unet-resnet18=none.safetensors"]) == 2
    assert "[model-missing]" in capsys.readouterr().err


def test_sizes_and_batches() -> None:
    assert parse_sizes("256, 512x640,256") == ((256, 256), (512, 640))
    assert parse_batches("1,4,1") == (1, 4)
    for text in ("", "0", "8", "9000", "256x", "x", "1e3", "256;512"):
        with pytest.raises(EmraError) as caught:
            parse_sizes(text)
        assert caught.value.code == "size"
    for text in ("", "0", "-1", "1.5", "a", "99999", "²"):
        with pytest.raises(EmraError) as caught:
            parse_batches(text)
        assert caught.value.code == "batch-size"


def test_pictures_are_distinct_and_of_their_size(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, (40, 72), count=6)
    pictures = [read_image(path) for path in paths]
    assert {picture.shape for picture in pictures} == {(40, 72, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 6


def test_the_pipeline_rotates_pictures_and_its_stages_add_up(model: Path, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, (64, 64), count=3)
    seen = []

    class Watching(TimedFile):
        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            seen.append(batch.copy())
            return super().run(batch)

    spec = spec_of(model, batch=2)
    pipeline = Pipeline(Watching(spec, open_backend(model, spec.load_options())), paths, 2)
    pictures = [read_image(path) for path in paths]
    for number in range(3):
        stages = pipeline(number)
        parts = stages["decode"] + stages["compute"] + stages["post"]
        assert set(stages) == {"decode", "compute", "post", "end_to_end"}
        assert 0 < parts <= stages["end_to_end"]
    expected = [(0, 1), (2, 0), (1, 2)]
    for batch, (first, second) in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(batch, np.stack([pictures[first], pictures[second]]))


def test_a_file_answers_as_it_should_and_describes_itself(model: Path) -> None:
    backend = open_candidate(spec_of(model))
    picture = scene(64, 64)
    np.testing.assert_array_equal(backend.run(picture[None])["classes"][0], nearest_colour(picture))
    assert set(backend.stages) == {"compute"}
    manifest = describe_manifest(spec_of(model), backend)
    assert manifest is not None
    assert manifest["evidence"] == {"miou": 0.5}
    assert (backend.input_shape, backend.cuda_graph, backend.precision) == ((None, 64, 64), None, "fp32")


def test_other_sizes_and_batches_than_the_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    build_model(path, size=(32, 32), batch=2)
    for changes, code in (({"size": (64, 64)}, "model-size"), ({"batch": 1}, "model-batch")):
        with pytest.raises(EmraError) as caught:
            open_file(spec_of(path, **{"batch": 2, **changes}))
        assert caught.value.code == code


def test_a_fast_wrong_answer_is_no_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnx"
    picture = scene(32, 32)
    wrong = GoldenTile.encode(picture, (nearest_colour(picture) + 1) % 5, 0.0)
    build_model(path, manifest=replace(make_manifest(), golden=wrong))
    with pytest.raises(EmraError) as caught:
        open_file(spec_of(path))
    assert caught.value.code == "self-test-failed"
    assert open_file(spec_of(path), check=False).input_shape == (None, 32, 32)


@pytest.mark.parametrize("option", ["cuda", "cuda-graph"])
def test_onnxruntime_on_a_device_answers_like_the_processor(model: Path, option: str) -> None:
    """The code for a GPU, run on the CPU because the tests have no GPU."""
    backend = open_on_device(spec_of(model, option=option), device="cpu")
    assert self_test(backend) == 0.0
    assert backend.cuda_graph is (option == "cuda-graph")
    for seed in range(3):
        picture = scene(64, 64, seed)
        np.testing.assert_array_equal(backend.run(picture[None])["classes"][0], nearest_colour(picture))
    assert set(backend.stages) == {"upload", "compute", "download"}
    assert all(seconds >= 0 for seconds in backend.stages.values())
    backend.close()


def test_onnxruntime_without_a_gpu_is_no_figure_of_one(model: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EmraError) as caught:
        open_candidate(spec_of(model, option="cuda"))
    assert caught.value.code == "backend-option"


def test_a_backend_that_is_not_installed_is_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.candidates.open.installed", lambda backend: False)
    with pytest.raises(EmraError) as caught:
        open_candidate(spec_of(model, "openvino"))
    assert caught.value.code == "backend-missing"
    assert install_command("openvino") in caught.value.remedy


class FakeCuda:
    """A GPU whose copies and computing take a known time, and that only works when it is waited for."""

    def __init__(self) -> None:
        self.pending = 0.0
        self.calls: list[str] = []

    def upload(self, address: int, memory: Any, stream: int) -> None:
        self.calls.append("upload")
        self.pending += 0.02

    def download(self, memory: Any, address: int, stream: int) -> None:
        self.calls.append("download")
        self.pending += 0.01

    def synchronize(self, stream: int) -> None:
        time.sleep(self.pending)
        self.pending = 0.0

    def facts(self) -> str:
        return "facts"


class FakeEngine:
    """A backend over `TimedCuda`, in the order in which the TensorRT backend calls it."""

    name = "tensorrt"
    input_shape = (None, 8, 8)
    manifest = make_manifest(size=(8, 8))

    def __init__(self, cuda: Any, device: FakeCuda) -> None:
        self.cuda, self.device = cuda, device

    def describe(self) -> dict[str, str]:
        return {"backend": self.name}

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.cuda.upload(0, batch, 0)
        self.device.pending += 0.05
        self.cuda.download(batch, 0, 0)
        self.cuda.download(batch, 0, 0)
        self.cuda.synchronize(0)
        return {"classes": batch[..., 0]}


def test_copies_and_computing_of_a_gpu_are_distinguished() -> None:
    device = FakeCuda()
    clock = TimedCuda(device)
    spec = Spec("a.engine", "engine", "tensorrt", None, 1, None, Path("a.engine"))
    backend = TimedEngine(spec, FakeEngine(clock, device), clock)  # type: ignore[arg-type]
    for _ in range(2):
        begin = time.perf_counter()
        backend.run(np.zeros((1, 8, 8, 3), np.uint8))
        stages = backend.stages
        total = time.perf_counter() - begin
        # Sleeping takes at least as long as asked; what belongs to another stage must not be in it.
        assert stages["upload"] >= 0.02
        assert stages["compute"] >= 0.05
        assert stages["download"] >= 0.02
        assert sum(stages.values()) == pytest.approx(total, rel=0.05)
    assert device.calls == ["upload", "download", "download"] * 2
    assert clock.facts() == "facts"
    assert backend.cuda_graph is False


def test_cuda_graphs_of_an_engine_are_reported_and_can_be_turned_off() -> None:
    cuda: Any = FakeCuda()
    # A CUDA library that cannot capture.
    assert TimedCuda(cuda).captures is False
    cuda.captures = True
    assert [TimedCuda(cuda, graphs=on).captures for on in (True, False)] == [True, False]
    clock = TimedCuda(cuda)
    engine: Any = FakeEngine(clock, cuda)
    for batch, expected in ((1, False), (4, True)):
        spec = Spec("a.engine", "engine", "tensorrt", None, batch, None, Path("a.engine"))
        engine.captured = (4, 8)
        assert TimedEngine(spec, engine, clock).cuda_graph is expected
    assert [spec.option for spec in make_specs([Path("a.engine")], [], backends=["tensorrt", "tensorrt:no-graph"])] == [
        None,
        "no-graph",
    ]


def test_an_engine_here_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(b"no engine")
    spec = Spec("a.engine", "engine", "tensorrt", None, 1, None, path)
    with pytest.raises(EmraError) as caught:
        open_candidate(spec)
    assert caught.value.code in {*UNUSABLE, "model-unreadable"}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_profiles_name_layers_and_their_times(model: Path, backend: str) -> None:
    pytest.importorskip(backend)
    layers = open_candidate(spec_of(model, backend)).profile(np.zeros((1, 64, 64, 3), np.uint8), 2)
    assert layers
    assert any("conv" in layer.kind.lower() for layer in layers)
    assert all(layer.seconds >= 0 for layer in layers)
    found = describe_profile(layers)
    assert sum(kind["share"] for kind in found["kinds"]) == pytest.approx(1)


def test_the_first_run_is_not_in_a_profile() -> None:
    def event(name: str, duration: int) -> dict[str, Any]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "args": {"op_name": "Conv"}}

    events = [event("a", 9000), event("a", 10), event("a", 30), {"cat": "Session", "name": "x", "dur": 1}]
    assert parse_onnxruntime(events, 2) == [LayerTime("a", "Conv", 20e-6)]
