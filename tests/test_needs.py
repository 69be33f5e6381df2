"""Commands check their requirements before any work: missing libraries, outputs that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.models import SHIPPED
from tests.conftest import FP32_MODEL, REPOSITORY
from tests.emra_deploy.cli.cli_helpers import save_png

# As a missing library: an import of it fails wherever it is, in this process and in none that it starts.
BLOCKED = """
import runpy, sys
module, blocked, *words = sys.argv[1:]
for name in filter(None, blocked.split(",")):
    sys.modules[name] = None
sys.argv = [module, *words]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

MODEL = str(REPOSITORY / "emra_deploy" / "models" / SHIPPED)
FP32 = str(FP32_MODEL)
RESULT = str(REPOSITORY / "benchmarks" / "results" / "latency-emra-ti-dubai.json")
SEGMENT = "emra_deploy segment in.png --output out"
RUNTIME = f"benchmarks.runtime --model {MODEL}"

# Command, and each library that it needs with these arguments.
COMMANDS = [
    (f"{SEGMENT}.tif", "rasterio"),
    (f"{SEGMENT}.tif --polygons out.gpkg", "pyogrio shapely"),
    ("emra_deploy stream in.mp4", "av"),
    ("training.data.scenes --output folder --size 4000 4000", "rasterio"),
    (f"benchmarks.latency {MODEL} --json out.json", "psutil"),
    (f"benchmarks.latency {MODEL} --plot out.svg", "matplotlib"),
    (f"benchmarks.memory {MODEL} --json out.json", "psutil onnx"),
    (f"benchmarks.roofline {MODEL} --json out.json --plot out.svg", "psutil onnx matplotlib"),
    (f"benchmarks.accuracy {MODEL} --data data --page out.html", "jinja2"),
    (f"benchmarks.report {RESULT} --html out.html", "jinja2"),
    (f"benchmarks.report {RESULT} --plot out.svg", "matplotlib"),
    ("benchmarks.raster --json out.json", "rasterio psutil"),
    (f"{RUNTIME} --skip import cold overhead", "rasterio psutil"),
    (f"benchmarks.backend_choice {MODEL}", "onnxruntime openvino"),
    (
        "benchmarks.best_cpu --calibration data --json out.json",
        "torch timm onnx onnxscript onnxruntime psutil",
    ),
    ("benchmarks.stream_soak --json out.json", "av"),
    ("tests.reliability --only planted images", "rasterio tifffile"),
    ("tests.reliability --only planted threads", "onnx"),
    (f"export.to_fp16 {FP32} --output out.onnx", "onnx onnxruntime"),
    (f"export.rewrite_aggregation {FP32} --to plugin --output out.onnx", "onnx onnxruntime"),
    (f"export.to_int8 {FP32} --calibration data --output out.onnx", "onnx onnxruntime"),
    (f"export.optimize {FP32} --data data --plot out.png", "onnx onnxruntime matplotlib"),
    (f"export.check {FP32} {MODEL}", "onnx"),
    (f"benchmarks.precision.half_ablation {FP32}", "onnx onnxruntime"),
    (f"benchmarks.precision.int8_ablation {FP32} --data data", "onnx onnxruntime"),
    (f"benchmarks.precision.table {FP32} --data data --output out.md", "onnx onnxruntime psutil"),
    (f"export.build_engine {FP32} --output out.engine", "onnx"),
    ("export.to_onnx --checkpoint none --output out.onnx", "torch timm safetensors onnx onnxscript onnxruntime"),
    ("training.train --config training/recipes/dubai_tiny.yaml", "torch timm safetensors tensorboard"),
    ("training.evaluate --checkpoint none --data data", "torch timm safetensors"),
    ("training.evaluate --checkpoint none --data data --page out.html", "jinja2"),
    ("training.ablation none --data data", "torch timm safetensors"),
    (f"training.from_onnx {FP32} --output checkpoint", "torch timm safetensors onnx"),
    ("training.peer_unet --config training/recipes/dubai_peer_unet.yaml", "torch segmentation_models_pytorch"),
    ("training.model", "torch"),
]
PAIRS = [(command, library) for command, libraries in COMMANDS for library in libraries.split()]


def start(command: str, blocked: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = command.replace("training/recipes", str(REPOSITORY / "training" / "recipes")).split()
    line = [sys.executable, "-c", BLOCKED, words[0], blocked, *words[1:]]
    # The scoreboard is a module of the tests, which no installation has.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, cwd=folder, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_png(tmp_path / "in.png", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "in.mp4").write_bytes(b"")
    (tmp_path / "data").mkdir()
    return tmp_path


def refused(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """The line of a command that refused to start: status 2, nothing printed or left."""
    assert done.returncode == 2, f"{done.stdout}\n{done.stderr}"
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert {path.name for path in folder.iterdir()} == {"in.png", "in.mp4", "data"}
    return done.stderr


@pytest.mark.parametrize(("command", "library"), PAIRS, ids=[f"{c.split()[0]}-{lib}" for c, lib in PAIRS])
def test_a_missing_library_is_reported_before_the_work(command: str, library: str, folder: Path) -> None:
    reported = refused(start(command, library, folder), folder)
    assert f"{library} is not installed" in reported or f"needs {library}, which is not installed" in reported
    assert "pip install " in reported


def test_a_window_needs_opencv(folder: Path) -> None:
    reported = refused(start("emra_deploy stream in.mp4 --overlay window", "cv2", folder), folder)
    assert "pip install opencv-python" in reported


# Each command that writes at its end what took minutes to make.
WRITERS = [
    f"{SEGMENT}.png --overlay {{}}.png",
    f"benchmarks.latency {MODEL} --json {{}}",
    f"benchmarks.latency {MODEL} --plot {{}}.svg",
    f"benchmarks.memory {MODEL} --json {{}}",
    f"benchmarks.roofline {MODEL} --json {{}}",
    f"benchmarks.accuracy {MODEL} --data data --json {{}}",
    f"benchmarks.accuracy {MODEL} --data data --page {{}}",
    "benchmarks.raster --json {}",
    f"{RUNTIME} --json {{}}",
    "benchmarks.stream_soak --json {}",
    "tests.reliability --json {}",
    f"export.to_fp16 {FP32} --output out.onnx --audit {{}}",
    f"export.rewrite_aggregation {FP32} --to plugin --output {{}}.onnx",
    f"export.to_int8 {FP32} --calibration data --output {{}}.onnx",
    f"export.optimize {FP32} --data data --plot {{}}.png",
    f"export.check {FP32} {MODEL} --json {{}}",
    f"benchmarks.precision.half_ablation {FP32} --json {{}}",
    f"benchmarks.precision.table {FP32} --data data --output {{}}",
    f"export.build_engine {FP32} --output {{}}.engine",
]


@pytest.mark.parametrize("command", WRITERS, ids=[command.split()[0] for command in WRITERS])
def test_an_output_that_cannot_be_written_is_reported_before_the_work(command: str, folder: Path) -> None:
    assert "[output-folder-missing]" in refused(start(command.format("missing/out"), "", folder), folder)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"benchmarks.latency {MODEL} --json out.svg --plot out.svg", "output-is-input"),
        (f"benchmarks.accuracy {MODEL} --data data --json out --page out", "output-is-input"),
        (f"export.optimize {FP32} --data data --table out.png --plot out.png", "output-is-input"),
        (f"export.to_fp16 {FP32} --output out.onnx --audit out.onnx", "output-is-input"),
        (f"benchmarks.latency {MODEL} --plot out.gif", "output-suffix"),
        (f"export.optimize {FP32} --data data --plot out.gif", "output-suffix"),
        (f"{RUNTIME} --json in.png", "output-exists"),
    ],
)
def test_outputs_that_do_not_fit_are_reported_before_the_work(command: str, code: str, folder: Path) -> None:
    assert f"[{code}]" in refused(start(command, "", folder), folder)


def test_a_folder_that_takes_no_file_is_reported_before_the_work(folder: Path) -> None:
    (folder / "data").chmod(0o500)
    if (folder / "data").stat().st_uid == 0:
        pytest.skip("root may write anywhere")
    reported = refused(start(f"benchmarks.latency {MODEL} --json data/out.json", "", folder), folder)
    assert "[output-unwritable]" in reported


def test_every_command_is_here() -> None:
    """A new script with a command line must declare its requirements."""
    plain = {"training.data", "benchmarks.gpu_suite", "benchmarks.compare"}
    known = {command.split()[0] for command, _ in COMMANDS} | plain
    found = set()
    for room in ("export", "benchmarks", "training"):
        for path in (REPOSITORY / room).glob("*.py"):
            if "def main(" in path.read_text(encoding="utf-8"):
                found.add(f"{room}.{path.stem}")
    assert found <= known
    assert json.loads(Path(RESULT).read_text(encoding="utf-8"))["kind"] == "latency"
