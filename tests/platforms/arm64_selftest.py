"""Run the shipped model's self-test on an emulated arm64 processor, with the library versions of JetPack 6.

    python tests/platforms/arm64_selftest.py [--keep FOLDER]

Needs Debian or Ubuntu with `apt-get install mmdebstrap qemu-user-static`, pip, the registries of both, 700 MB in the
temporary folder and some minutes. Debian 12 has Python 3.11 where JetPack 6 has 3.10; the releases are those of
requirements/jetpack-6.txt. ONNX Runtime 1.32 ends by a segmentation fault in QEMU 7.2, so JetPack 7's is not run here.

Exit status: 0 when every library was imported and the self-test passed, 1 when not, 2 when something is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.platforms.resolving import JETPACK_6, requirements_of  # noqa: E402

SUITE, PYTHON = "bookworm", "3.11"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
WHEELS = [*(f"manylinux_2_{minor}_aarch64" for minor in range(35, 16, -1)), "manylinux2014_aarch64"]
EXTRAS = ("runtime", "raster", "vector", "video", "openvino")
MODULES = ("numpy", "PIL", "onnxruntime", "rasterio", "pyogrio", "shapely", "av", "onnx", "openvino")
TIME_LIMIT = 1200
"""Seconds for the self-test, which takes a second or two on a processor that is not emulated."""


def find_tool(names: Sequence[str]) -> str:
    """The first of some programs that is here."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise SystemExit(missing(f"{names[0]} is not installed"))


def missing(cause: str) -> str:
    """Say what is missing and how to get it; to be raised, with exit status 2."""
    print(f"{cause}: apt-get install mmdebstrap qemu-user-static", file=sys.stderr)
    sys.exit(2)


def run(words: Sequence[str | Path], limit: int = 900) -> str:
    """Run a command and return its output; end the script with the reason if it fails."""
    try:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"{Path(words[0]).name} took longer than {limit} s")
    if done.returncode:
        reported = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        sys.exit(f"{' '.join(map(str, words))}\nended with {done.returncode}:\n{reported}")
    return done.stdout


def make_userland(folder: Path) -> None:
    """Unpack Debian's Python for arm64 into a folder; nothing of it is run, so no emulator has to be registered."""
    tool = find_tool(("mmdebstrap",))
    packages = f"python{PYTHON},libstdc++6,zlib1g,libexpat1"
    run([tool, "--quiet", "--variant=extract", "--architectures=arm64", "--skip=check/qemu", f"--include={packages}",
         SUITE, folder])  # fmt: skip


def install_wheels(folder: Path) -> None:
    """Install the arm64 wheels that JetPack 6 gets into a folder, for Debian's Python."""
    # The markers are those of 3.10: they choose ONNX Runtime 1.23.2.
    lines = [line.split(";")[0] for line in requirements_of(EXTRAS) if 'python_version >= "3.11"' not in line]
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    words += ["--python-version", PYTHON, "--only-binary=:all:"]
    words += [word for wheel in WHEELS for word in ("--platform", wheel)]
    words += ["--constraint", str(REPOSITORY / "requirements" / JETPACK_6.lock)]
    run([*words, *lines])


def main(argv: list[str] | None = None) -> int:
    """Make the userland, run the self-test in it, and print what was run and how long it took."""
    parser = argparse.ArgumentParser(description="Run the shipped model's self-test on an emulated arm64 processor.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder and leave it, for a next run")
    options = parser.parse_args(argv)
    emulator = find_tool(EMULATORS)
    find_tool(("mmdebstrap",))
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emra-arm64-")))
        root, wheels, done = folder / "root", folder / "wheels", folder / "complete"
        if not done.exists():
            for half_made in (root, wheels):
                shutil.rmtree(half_made, ignore_errors=True)
                half_made.mkdir(parents=True)
            make_userland(root)
            install_wheels(wheels)
            done.touch()
        python = [emulator, "-L", root, "-E", f"PYTHONPATH={REPOSITORY}:{wheels}", "-E", "PYTHONDONTWRITEBYTECODE=1",
                  root / "usr" / "bin" / f"python{PYTHON}"]  # fmt: skip
        imports = f"import platform, {', '.join(MODULES)}; print(platform.machine(), platform.python_version())"
        machine = run([*python, "-c", imports])
        print(f"{machine.strip()}: imported {', '.join(MODULES)}", flush=True)
        begin = time.monotonic()
        # ONNX Runtime by name: the backend that JetPack 6 falls back to, and whose release is what is tried.
        facts = json.loads(run([*python, "-c", SELF_TEST], TIME_LIMIT))
        seconds = time.monotonic() - begin
    print(
        f"onnxruntime {facts['version']}, {facts['model']}: {100 * facts['different']:.3f} % of the golden tile "
        f"differs (limit {100 * facts['tolerance']:g} %), {seconds:.0f} s in {Path(emulator).name}"
    )
    return 0


SELF_TEST = """
import json, onnxruntime
from emra_deploy.backends.opening import open_backend
from emra_deploy.models import shipped_model
from emra_deploy.segmenting.selftest import self_test
backend = open_backend(shipped_model(), backend="onnxruntime")
manifest = backend.manifest
different = self_test(backend)
print(json.dumps({"version": onnxruntime.__version__, "model": manifest.name, "different": different,
                  "tolerance": manifest.golden.tolerance}))
"""

if __name__ == "__main__":
    sys.exit(main())
