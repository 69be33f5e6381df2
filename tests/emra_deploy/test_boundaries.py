"""Imports allowed in the runtime, at import time and later."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import emra_deploy

_OPTIONAL = ("onnxruntime", "PIL", "rasterio", "numpy", "rich", "jsonargparse", "openvino", "onnx", "tensorrt")
_OPTIONAL += ("av", "gi", "cv2")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(emra_deploy.__path__, "emra_deploy.")]
    return ["emra_deploy", *(name for name in found if not name.endswith("__main__"))]


def test_every_module_imports_where_torch_does_not_exist() -> None:
    names = modules()
    assert "emra_deploy.segmenting.segmenter" in names
    run(
        "import sys, importlib\n"
        "for name in ('torch', 'torchvision', 'timm', 'training', 'export', 'benchmarks'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )


def test_importing_the_package_loads_no_library() -> None:
    loaded = run(f"import sys, json, emra_deploy; print(json.dumps([n for n in {_OPTIONAL!r} if n in sys.modules]))")
    assert json.loads(loaded) == []


def test_no_module_loads_a_heavy_library_when_imported() -> None:
    heavy = tuple(name for name in _OPTIONAL if name not in ("numpy", "rich", "jsonargparse"))
    names = [name for name in modules() if ".cli" not in name]
    loaded = run(
        f"import sys, json, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(json.dumps([n for n in {heavy!r} if n in sys.modules]))"
    )
    assert json.loads(loaded) == []


def test_the_public_names_are_there() -> None:
    for name in emra_deploy.__all__:
        assert getattr(emra_deploy, name) is not None
        assert name in dir(emra_deploy)
