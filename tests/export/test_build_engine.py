"""Engines built by the real TensorRT-RTX without a GPU, and refusals before and after the build."""

from __future__ import annotations

import hashlib
import json
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emra_deploy.backends.tensorrt.flavour import load_flavour
from emra_deploy.backends.tensorrt.plan import read_header
from emra_deploy.backends.tensorrt.sidecar import read_sidecar, sidecar_path
from emra_deploy.errors import EmraError
from export.build_engine import build_engine, main
from export.graphs.model_file import read_model, write_model
from tests.conftest import FP32_MODEL, REPOSITORY
from tests.emra_deploy.backends.tensorrt.small_models import LINEARS, build_graph, save_model
from tests.onnx_models import build_model

trt = pytest.importorskip("tensorrt_rtx_bindings")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SCRIPT = REPOSITORY / "export" / "build_engine.py"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(model: Path, output: Path | None = None, **options: object) -> EmraError:
    """The error of a build with TensorRT-RTX, which must leave no output."""
    before = names(model.parent)
    with pytest.raises(EmraError) as caught:
        build_engine(model, output or model.with_suffix(".engine"), flavour="rtx", **options)
    assert names(model.parent) == before
    return caught.value


@pytest.mark.parametrize(("precision", "counts"), [("fp32", {"fp32"}), ("fp16", {"fp16"}), ("int8", {"int8", "fp16"})])
def test_engines_of_every_precision(tmp_path: Path, precision: str, counts: set[str]) -> None:
    model, output = tmp_path / "m.onnx", tmp_path / "m.engine"
    manifest = save_model(model, precision)
    engine = build_engine(model, output, flavour="rtx", max_batch=4)
    assert names(tmp_path) == ["m.engine", "m.engine.json", "m.onnx"]
    found = read_sidecar(output)
    assert found == (engine.sidecar, manifest)
    sidecar = engine.sidecar
    assert sidecar.sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert sidecar.onnx_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert read_header(output).version == tuple(map(int, sidecar.version.split("."))) == load_flavour("rtx").version
    assert (sidecar.profile.minimum[0], sidecar.profile.optimum[0], sidecar.profile.maximum[0]) == (1, 4, 4)
    assert set(sidecar.precision.counts) == counts
    if precision == "int8":
        # q, k and v are one product in the engine.
        assert sidecar.precision.counts["int8"] in (len(LINEARS), len(LINEARS) - 2)
    if sidecar.machine.gpu is None:
        reason = sidecar.self_test.reason
        assert reason
        assert f"self-test: not run: {reason}" in engine.lines
        assert sidecar.precision.source == "builder's layer list"
    assert sidecar.memory.weights
    assert sidecar.memory.activations
    assert sidecar.memory.io == 4 * 32 * 32 * (3 + 1)


def test_a_graph_of_one_batch_size(tmp_path: Path) -> None:
    save_model(tmp_path / "m.onnx", batch=2)
    engine = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", flavour="rtx")
    assert engine.sidecar.profile.minimum == engine.sidecar.profile.maximum == (2, 32, 32, 3)
    assert "Shapes" not in engine.sidecar.command
    assert "no other" in refused(tmp_path / "m.onnx", tmp_path / "other.engine", max_batch=3).cause


def test_the_command(tmp_path: Path) -> None:
    build_model(tmp_path / "m.onnx")
    done = run(tmp_path / "m.onnx", "--output", tmp_path / "m.engine", "--max-batch", 3, "--opt-batch", 2, "--no-tf32")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("strongly typed network" in line for line in lines)
    by_hand = next(line for line in lines if "by hand" in line).split(": ", 1)[1]
    first = read_sidecar(tmp_path / "m.engine")
    assert f"wrote {tmp_path / 'm.engine'} and m.engine.json" in lines[-1]
    assert not json.loads(sidecar_path(tmp_path / "m.engine").read_text())["flags"]["tf32"]
    # Pasted into a shell, it builds the same engine again, over the first.
    program, *words = shlex.split(by_hand)
    assert program == "python"
    pasted = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
    assert pasted.returncode == 0, pasted.stderr
    second = read_sidecar(tmp_path / "m.engine")
    assert first is not None
    assert second is not None
    assert (second[0].profile, second[0].flags, second[0].command) == (first[0].profile, first[0].flags, by_hand)

    again = run(tmp_path / "m.onnx", "--output", tmp_path / "m.engine")
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1
    assert "--overwrite" in again.stderr


def test_it_needs_no_torch(tmp_path: Path) -> None:
    save_model(tmp_path / "m.onnx")
    code = (
        "import sys\nfor name in ('torch', 'timm', 'training'): sys.modules[name] = None\n"
        "from export.build_engine import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "m.onnx"), "--output", str(tmp_path / "m.engine")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0, done.stderr


def test_functions_are_put_in_place(tmp_path: Path) -> None:
    """The same engine's layers whether a part of the graph is a function of the domain or not."""
    manifest = save_model(tmp_path / "plain.onnx")
    model = onnx.load(tmp_path / "plain.onnx")
    gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
    inner = onnx.helper.make_node("Gelu", ["x"], ["y"])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("emra", 1)]
    model.functions.append(onnx.helper.make_function("emra", "Curve", ["x"], ["y"], [inner], opsets))
    model.opset_import.append(opsets[1])
    gelu.op_type, gelu.domain = "Curve", "emra"
    onnx.save_model(model, tmp_path / "function.onnx")
    first, second = (
        build_engine(tmp_path / f"{name}.onnx", tmp_path / f"{name}.engine", flavour="rtx")
        for name in ("plain", "function")
    )
    assert second.sidecar.precision == first.sidecar.precision
    assert read_sidecar(tmp_path / "function.engine") == (second.sidecar, manifest)
    del model.functions[:]
    onnx.save_model(model, tmp_path / "bare.onnx")
    error = refused(tmp_path / "bare.onnx")
    assert error.code == "operator-unsupported"
    assert "emra::Curve of node 'gelu'" in error.cause
    assert "--plugin" in error.remedy


def test_operators_that_the_parser_does_not_know_are_named(tmp_path: Path) -> None:
    save_model(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Hardmax"
    softmax.name = "block3/attention/hardmax"
    onnx.save_model(model, tmp_path / "m.onnx")
    # Hardmax itself may be known; Det is a standard operator that TensorRT lacks.
    point = onnx.helper.make_node("Det", [softmax.output[0]], ["unused"], name="block3/det")
    model.graph.node.append(point)
    onnx.save_model(model, tmp_path / "m.onnx")
    error = refused(tmp_path / "m.onnx")
    assert error.code == "operator-unsupported"
    assert "operator Det of node 'block3/det'" in error.cause


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: b"", "model-unreadable"),
        (lambda data: b"hello there, this is no model" * 9, "model-unreadable"),
        (lambda data: data[: len(data) // 2], "model-unreadable"),
        (lambda data: data[:-1], "model-unreadable"),
    ],
    ids=["empty", "text", "half", "cut"],
)
def test_files_that_are_no_models(tmp_path: Path, damage, code: str) -> None:
    save_model(tmp_path / "whole.onnx")
    (tmp_path / "m.onnx").write_bytes(damage((tmp_path / "whole.onnx").read_bytes()))
    assert refused(tmp_path / "m.onnx").code == code


def test_a_sealed_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m.onnx")
    write_model(*read_model(tmp_path / "m.onnx"), tmp_path / "sealed.onnx")
    content = bytearray((tmp_path / "sealed.onnx").read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "sealed.onnx").write_bytes(content)
    assert refused(tmp_path / "sealed.onnx").code == "model-damaged"


@pytest.mark.parametrize("version", [7, 40])
def test_opsets_that_no_parser_reads(tmp_path: Path, version: int) -> None:
    save_model(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    model.opset_import[0].version = version
    onnx.save_model(model, tmp_path / "m.onnx")
    error = refused(tmp_path / "m.onnx")
    assert error.code == "model-opset"
    assert f"opset {version}" in error.cause


def test_models_without_a_manifest_or_with_another_precisions(tmp_path: Path) -> None:
    onnx.save_model(build_graph("fp32"), tmp_path / "bare.onnx")
    assert refused(tmp_path / "bare.onnx").code == "manifest-missing"
    save_model(tmp_path / "m.onnx", "fp16")
    model = onnx.load(tmp_path / "m.onnx")
    save_model(tmp_path / "other.onnx", "fp32")
    onnx.helper.set_model_props(model, {e.key: e.value for e in onnx.load(tmp_path / "other.onnx").metadata_props})
    onnx.save_model(model, tmp_path / "m.onnx")
    error = refused(tmp_path / "m.onnx")
    assert error.code == "precision-mismatch"
    assert error.path == str(tmp_path / "m.onnx")


def test_external_data_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    save_model(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    path = tmp_path / "inside" / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    engine = build_engine(path, tmp_path / "inside" / "m.engine", flavour="rtx")
    assert engine.sidecar.precision.counts
    (tmp_path / "inside" / "m.data").rename(tmp_path / "secret.data")
    assert refused(path, tmp_path / "inside" / "other.engine").code == "model-external-data"
    for location in ("../secret.data", str(tmp_path / "secret.data")):
        named = onnx.load(path, load_external_data=False)
        for tensor in named.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        other = tmp_path / "inside" / "other.onnx"
        other.write_bytes(named.SerializeToString())
        assert refused(other).code == "model-external-data"
    (tmp_path / "inside" / "m.data").symlink_to(tmp_path / "secret.data")
    assert refused(path, tmp_path / "inside" / "other.engine").code == "model-external-data"


def test_too_little_workspace_says_so(tmp_path: Path) -> None:
    from emra_deploy.backends.tensorrt.sidecar import Flags

    build_model(tmp_path / "m.onnx")
    error = refused(tmp_path / "m.onnx", flags=Flags(workspace=2**20))
    assert error.code == "build-failed"
    assert "workspace" in error.cause
    assert "more than --workspace 1" in error.remedy


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--timing-cache", "t.cache"], "keeps no timing cache"),
        (["--hardware-compatible"], "hardware compatib"),
        (["--version-compatible"], "version compatib"),
        (["--dla"], "has no DLA"),
        (["--plugin", "p.so"], "takes no plugins"),
        (["--max-batch", "0"], "not in order"),
        (["--min-batch", "4", "--max-batch", "2"], "not in order"),
        (["--workspace", "nan"], "workspace"),
        (["--output", "m.txt"], ".engine"),
        (["--output", "/dev/full"], ".engine"),
        (["--output", "none/m.engine"], "no folder"),
    ],
)
def test_arguments_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], reported: str
) -> None:
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "m.onnx")
    assert main(["m.onnx", "--flavor", "rtx", "--output", "m.engine", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reported in error
    assert error.count("\n") == 1
    assert names(tmp_path) == ["m.onnx"]


def test_a_device_that_is_full_is_no_place_for_an_engine(tmp_path: Path) -> None:
    build_model(tmp_path / "m.onnx")
    (tmp_path / "full.engine").symlink_to("/dev/full")
    error = refused(tmp_path / "m.onnx", tmp_path / "full.engine", overwrite=True)
    assert error.code == "output-unwritable"


def test_a_disk_that_fills_up_leaves_the_old_engine(tmp_path: Path) -> None:
    build_model(tmp_path / "m.onnx")
    (tmp_path / "m.engine").write_text("old")
    (tmp_path / "m.engine.json").write_text("old")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run(tmp_path / "m.onnx", "--output", tmp_path / "m.engine", "--overwrite", preexec_fn=small_files)
    assert done.returncode == 2, done.stderr
    assert "[output-write]" in done.stderr
    assert names(tmp_path) == ["m.engine", "m.engine.json", "m.onnx"]
    assert (tmp_path / "m.engine").read_text() == (tmp_path / "m.engine.json").read_text() == "old"


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A real file system of 300 KiB, in a name space of its own."""
    build_model(tmp_path / "m.onnx")
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    mount = f"mount -t tmpfs -o size=300k none {shlex.quote(str(disk))}"
    if shutil.which("unshare") is None or subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    build = shlex.join(command(tmp_path / "m.onnx", "--output", disk / "m.engine"))
    line = f"{mount} && {build}; echo status $?; ls -A {shlex.quote(str(disk))}"
    done = subprocess.run([*inside, line], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "status 2\n", done.stderr
    assert "No space left on device" in done.stderr
    assert "[output-write]" in done.stderr


def test_a_disk_that_is_too_small_is_reported_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    build_model(tmp_path / "m.onnx")
    monkeypatch.setattr("export.build_engine.shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    assert refused(tmp_path / "m.onnx").code == "output-write"


def started(folder: Path) -> subprocess.Popen[str]:
    """A build of a full-sized model, in the middle of its work."""
    words = command(FP32_MODEL, "--output", folder / "m.engine", "--overwrite", "--max-batch", 4)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "building\n"
    time.sleep(0.3)
    return process


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; no output was changed" in errors
    assert "Traceback" not in errors
    assert names(tmp_path) == []


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_text("old")
    process = started(tmp_path)
    process.kill()
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["m.engine"]
    assert (tmp_path / "m.engine").read_text() == "old"


def test_the_forecast_of_a_full_sized_model_is_what_the_builder_says(tmp_path: Path) -> None:
    """Close to the counted memory, and within the allowed memory."""
    from emra_deploy.backends.tensorrt.forecast import Forecast
    from emra_deploy.backends.tensorrt.graph_memory import measure_graph

    engine = build_engine(FP32_MODEL, tmp_path / "m.engine", flavour="rtx", max_batch=2)
    forecast = Forecast(measure_graph(onnx.load(FP32_MODEL), 2), 2)
    said = engine.sidecar.memory
    assert said.weights == pytest.approx(forecast.graph.weights, rel=0.05)
    assert 0.8 * forecast.graph.activations <= said.activations <= forecast.activations
    assert said.total <= forecast.needed
    assert said.io == forecast.graph.io
    assert (tmp_path / "m.engine").stat().st_size == engine.sidecar.bytes
