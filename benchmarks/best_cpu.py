"""Speed-up of the best processor backend and precision over ONNX Runtime's default in FP32, at full size.

python -m benchmarks.best_cpu --calibration data/dubai --json FILE

Exports EMRA-proxy with random weights (time does not depend on them) at 512 x 512, quantises it, and times all forms in
turns, in one run of `benchmarks/latency.py`. The accuracy of INT8 and BF16 is measured on trained
models, by benchmarks/precision/table.py. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import latency
from benchmarks.reporting.command import check_outputs, make_parser, start
from benchmarks.reporting.provenance import REPOSITORY
from benchmarks.reporting.results import read_result
from emra_deploy.errors import EmraError
from emra_deploy.host.command import words
from emra_deploy.host.extras import need
from export.measure import paired_ratio

BACKBONES = ("small", "base")
BACKENDS = "onnxruntime,openvino:f32,openvino:bf16"
GOAL = 3.3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("best_cpu.py", __doc__)
    add = made.add_argument
    add("--calibration", required=True, type=Path, metavar="DIR", help="pictures for INT8")
    add("--backbones", default=",".join(BACKBONES), metavar="NAMES", help=f"comma-separated ({','.join(BACKBONES)})")
    add("--size", type=int, default=512, metavar="N", help="side of the pictures (512)")
    add("--backend", default=BACKENDS, metavar="NAMES", help=f"as of latency.py ({BACKENDS})")
    add("--iterations", type=int, default=20, metavar="N", help="measured, of each (20)")
    add("--warmup", type=int, default=2, metavar="N", help="thrown away before, of each (2)")
    add("--count", type=int, default=4, metavar="N", help="calibration pictures (4)")
    add("--threads", type=int, metavar="N", help="threads of a backend (its choice)")
    add("--profile", action="store_true", help="then time each layer")
    add("--work", type=Path, metavar="DIR", help="keep the exported files there, and reuse them")
    add("--json", required=True, metavar="FILE", help="write all figures there")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Export, measure, print.

    Returns:
        0 where the goal is reached, 1 where it is missed or a candidate failed.

    Raises:
        EmraError: A bad argument, an export that failed, or an output that cannot be written.
    """
    check_outputs(arguments, "json")
    need("train", "torch", "timm", "safetensors", purpose="making checkpoints")
    need("export", "onnx", "onnxscript", "onnxruntime", purpose="exporting")
    need("bench", "psutil", purpose="measuring")
    backbones = words(arguments.backbones)
    with tempfile.TemporaryDirectory(prefix="emra-best-cpu-") as name:
        folder = (arguments.work or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        for backbone in backbones:
            files += make_files(folder, backbone, arguments.size, arguments.calibration, arguments.count)
        asked = [*map(str, files), "--backend", arguments.backend, "--json", arguments.json]
        asked += ["--iterations", str(arguments.iterations), "--warmup", str(arguments.warmup)]
        asked += ["--threads", str(arguments.threads)] if arguments.threads else []
        asked += ["--profile"] * arguments.profile + ["--overwrite"] * arguments.overwrite
        status = latency.main(asked)
        if status > 1:
            return status
    result = read_result(arguments.json)
    print()
    reached = True
    for line, ratio in best_of(result, [file.name for file in files[::2]]):
        reached &= ratio is not None and ratio >= GOAL
        print(line)
    return status if reached else 1


def make_files(folder: Path, backbone: str, size: int, calibration: Path, count: int) -> tuple[Path, Path]:
    """The FP32 and the INT8 file of a backbone; existing ones are kept.

    Raises:
        EmraError: ``export-failed``, with the command's message.
    """
    fp32, int8 = (folder / f"emra-{backbone}-{size}{kind}.onnx" for kind in ("", ".int8"))
    if not fp32.exists():
        from benchmarks.candidates.random_checkpoints import write_random_checkpoint

        write_random_checkpoint(folder / backbone, backbone, size)
        _export("to_onnx.py", "--checkpoint", folder / backbone, "--output", fp32)
    if not int8.exists():
        _export("to_int8.py", fp32, "--calibration", calibration.resolve(), "--count", count, "--output", int8)
    return fp32, int8


def _export(script: str, *words: Any) -> None:
    print(f"export/{script} {' '.join(map(str, words))}", file=sys.stderr, flush=True)
    command = [sys.executable, str(REPOSITORY / "export" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise EmraError("export-failed", f"export/{script} ended with {done.returncode}: {said}", "Run it by itself")


def best_of(result: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, float | None]]:
    """For each FP32 file a line of text, and the time of ONNX Runtime's default over that of the best candidate.

    Args:
        result: A latency result.
        names: Names of the FP32 files; the INT8 file of ``a.onnx`` is ``a.int8.onnx``.
    """
    found: list[tuple[str, float | None]] = []
    for name in names:
        both = (name, f"{Path(name).stem}.int8.onnx")
        entries = {entry["key"]: entry for entry in result["content"]["candidates"] if entry["name"] in both}
        default = next((key for key in entries if key.startswith(f"{name} | onnxruntime |")), None)
        if default is None:
            found.append((f"{name}: ONNX Runtime's default failed", None))
            continue
        best = min(entries, key=lambda key: entries[key]["stages"]["compute"]["p50"])
        ratio = paired_ratio(entries[default]["rounds"]["compute"], entries[best]["rounds"]["compute"])
        noise = "" if result["content"]["noise"]["quiet"] else " (machine too noisy to conclude)"
        found.append(
            (
                f"{name}: {best} is {ratio.value:.2f} x ({ratio.low:.2f} to {ratio.high:.2f}) as fast as ONNX Runtime "
                f"in FP32, goal {GOAL}{noise}",
                ratio.value,
            )
        )
    return found


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
