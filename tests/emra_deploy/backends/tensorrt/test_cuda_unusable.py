"""Why CUDA cannot be used: by the real cuda-python over a driver made of C, and by libraries made of Python."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emra_deploy.backends.tensorrt import cuda
from emra_deploy.backends.tensorrt.cuda import UNUSABLE, CudaPython, PyCuda, open_cuda
from emra_deploy.backends.tensorrt.cuda_base import failed
from emra_deploy.backends.tensorrt.cuda_unusable import driver_is_missing, meaning, number_of, pin_for, unusable
from emra_deploy.errors import EmraError
from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeDriver, FakeRuntime

SOURCE = Path(__file__).with_name("fake_libcuda.c")
ASK = "import json; from emra_deploy.backends.tensorrt.cuda import cuda_state; print(json.dumps(cuda_state()))"


def ask(folder: Path | None = None, **answers: object) -> dict[str, Any]:
    """The findings of a separate process."""
    environment = {**os.environ, **{name: str(value) for name, value in answers.items()}}
    if folder is not None:
        environment["LD_LIBRARY_PATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    state: dict[str, Any] = json.loads(done.stdout)
    return state


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda.so.1."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for Linux")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-Wl,-soname,libcuda.so.1", "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return folder


@pytest.mark.parametrize(
    ("number", "code", "cause", "remedy"),
    [
        (2, "gpu-memory", "no memory left", "Close what else"),
        (3, "gpu-start", "does not start", "nvidia-smi"),
        (34, "gpu-driver", "stub", "LD_LIBRARY_PATH"),
        (35, "cuda-version", "later CUDA than the driver knows", "later driver"),
        (46, "gpu-busy", "another process", "compute-mode"),
        (100, "no-gpu", "finds no GPU", "CUDA_VISIBLE_DEVICES"),
        (101, "no-gpu", "this process may not use", "CUDA_VISIBLE_DEVICES"),
        (802, "gpu-start", "not ready", "nvidia-fabricmanager"),
        (803, "cuda-mismatch", "different drivers", "Reboot"),
        (804, "cuda-mismatch", "cuda-compat", "Reboot"),
        (999, "gpu-start", "does not say why", "dmesg"),
    ],
)
def test_the_real_library_over_a_driver(driver: Path, number: int, code: str, cause: str, remedy: str) -> None:
    error = ask(driver, FAKE_CUINIT=number)["error"]
    assert error["code"] == code
    assert cause in error["cause"]
    assert remedy in error["remedy"]
    assert "the ONNX file, which runs on the processor" in error["remedy"]
    assert "device it was built for" not in error["remedy"]


def test_a_driver_without_gpus(driver: Path) -> None:
    assert ask(driver)["error"]["code"] == "no-gpu"


def test_an_older_driver(driver: Path) -> None:
    runtime = importlib.import_module("cuda.bindings.runtime").cudaRuntimeGetVersion()[1]
    if runtime < 13000:
        pytest.skip("this cuda-python takes the drivers of its own CUDA 12")
    error = ask(driver, FAKE_CUDA=12060)["error"]
    assert error["code"] == "cuda-version"
    assert f"has a CUDA {runtime // 1000}.{runtime % 1000 // 10} runtime" in error["cause"]
    assert "the driver knows CUDA 12.6 at most" in error["cause"]
    assert f"pip install '{pin_for(12060)}'" in error["remedy"]
    old = ask(driver, FAKE_CUDA=11040)["error"]
    assert "driver that knows CUDA 12.6 or later" in old["remedy"]


def test_no_driver() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if not driver_is_missing():
        pytest.skip("NVIDIA's driver is here")
    error = ask()["error"]
    assert error["code"] == "gpu-driver"
    assert "there is no libcuda.so.1" in error["cause"]
    assert "insufficient" not in error["cause"]


def test_the_doctor_reports_it(driver: Path) -> None:
    def doctor(**answers: object) -> dict[str, Any]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **{k: str(v) for k, v in answers.items()}}
        command = [sys.executable, "-m", "emra_deploy", "doctor", "--json", "--model", "none.onnx"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        found: dict[str, Any] = json.loads(done.stdout)["cuda"]
        return found

    assert doctor(FAKE_CUINIT=803)["error"]["code"] == "cuda-mismatch"
    crashed = doctor(FAKE_ABORT=1)["error"]
    assert "crashes" in crashed["cause"]


class Raising(FakeRuntime):
    """cuda-python up to 12.8, which finds out with its first call that there is no driver, or no such function."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self._texts = list(texts)

    def cudaGetDeviceCount(self) -> Any:
        raise RuntimeError(self._texts.pop(0))


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("text", ["Failed to dlopen libcuda.so.1", 'Function "cuInit" not found'])
def test_a_bare_runtime_error(monkeypatch: pytest.MonkeyPatch, text: str, missing: bool) -> None:
    monkeypatch.setattr("emra_deploy.backends.tensorrt.cuda_python.driver_is_missing", lambda: missing)
    with pytest.raises(EmraError) as caught:
        CudaPython(Raising(text))
    assert caught.value.code == ("gpu-driver" if missing else "cuda-version")
    assert text in caught.value.cause


def test_a_function_that_the_driver_lacks_shows_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emra_deploy.backends.tensorrt.cuda_python.driver_is_missing", lambda: False)
    runtime = FakeRuntime()

    def lacking() -> Any:
        raise RuntimeError('Function "cuStreamCreate" not found')

    runtime.cudaStreamCreate = lacking  # type: ignore[method-assign]
    with pytest.raises(EmraError, match="cuStreamCreate") as caught:
        CudaPython(runtime).stream()
    assert caught.value.code == "cuda-version"


class Answering(FakeRuntime):
    """A runtime that finds no GPU it can use."""

    def __init__(self, number: int, runtime: int = 13000, driver: int = 12060) -> None:
        super().__init__()
        self._number, self._versions = number, (runtime, driver)

    def cudaGetDeviceCount(self) -> Any:
        return self._number, None

    def cudaRuntimeGetVersion(self) -> Any:
        return 0, self._versions[0]

    def cudaDriverGetVersion(self) -> Any:
        return 0, self._versions[1]


class Refusing(FakeDriver):
    """pycuda over a driver that does not start."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def init(self) -> None:
        raise self.Error(self._text)


def here(monkeypatch: pytest.MonkeyPatch, **found: object) -> None:
    """Put these in place of the libraries; what is no library is raised."""
    modules = {"cuda.bindings.runtime": found.get("cuda_python"), "pycuda.driver": found.get("pycuda")}

    def load(name: str) -> object:
        module = modules.get(name)
        if module is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(cuda.importlib, "import_module", load)


def refused(monkeypatch: pytest.MonkeyPatch, **found: object) -> EmraError:
    here(monkeypatch, **found)
    with pytest.raises(EmraError) as caught:
        open_cuda()
    assert caught.value.code in UNUSABLE
    return caught.value


def test_pycuda_where_cuda_python_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for misfit in (Answering(35), ImportError("undefined symbol: cuFoo")):
        here(monkeypatch, cuda_python=misfit, pycuda=FakeDriver())
        assert isinstance(open_cuda(), PyCuda)


def test_reports_where_neither_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch).code == "backend-missing"
    mismatch = refused(monkeypatch, cuda_python=Answering(35))
    assert "has a CUDA 13.0 runtime, and the driver knows CUDA 12.6 at most" in mismatch.cause
    # pycuda has asked the driver itself.
    text = "cuInit failed: system has unsupported display driver / cuda driver combination"
    assert refused(monkeypatch, cuda_python=Answering(35), pycuda=Refusing(text)).code == "cuda-mismatch"
    assert refused(monkeypatch, pycuda=Refusing("cuInit failed: no CUDA-capable device is detected")).code == "no-gpu"


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "libcuda.so.1: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(cuda, "driver_is_missing", lambda: True)
    assert refused(monkeypatch, pycuda=ImportError(text)).code == "gpu-driver"
    monkeypatch.setattr(cuda, "driver_is_missing", lambda: False)
    broken = refused(monkeypatch, pycuda=ImportError("libcurand.so.10: cannot open shared object file"))
    assert broken.code == "backend-broken"
    assert "pycuda is installed and does not load (libcurand.so.10" in broken.cause
    lacking = ModuleNotFoundError("No module named 'pytools'", name="pytools")
    assert "pytools" in refused(monkeypatch, pycuda=lacking).cause


def test_pins() -> None:
    assert pin_for(12060, (3, 10)) == "cuda-python==12.6.*"
    assert pin_for(13000, (3, 12)) == pin_for(13000, (3, 13)) == "cuda-python==13.0.*"
    assert pin_for(12060, (3, 13)) == "cuda-python>=12.8,<13"


def test_errors_that_come_later() -> None:
    busy = failed("making a stream", "CUDA-capable device(s) is/are busy or unavailable", 46)
    assert busy.code == "gpu-busy"
    assert failed("making a stream", "cuStreamCreate failed: system not yet initialized").code == "gpu-start"
    assert failed("making a stream", "out of memory", 2).code == "gpu-memory"
    assert failed("making a stream", "invalid resource handle", 400).code == "gpu"


def test_every_number_has_a_cause_and_a_remedy() -> None:
    for number in (2, 3, 34, 35, 36, 46, 100, 101, 802, 803, 804, 999):
        reported = meaning(number)
        assert reported is not None
        assert reported[0] in UNUSABLE
    assert meaning(None) is None
    assert unusable(12345, "odd").code == "no-gpu"
    assert number_of("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0") == 35
    assert number_of("CUDA failure 999: unknown error") is None
