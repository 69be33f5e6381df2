"""Memory of models on this machine: peaks of host and device, weights, activations and workspace.

python -m benchmarks.memory model.onnx --backend onnxruntime,openvino --batch 1,4 --json FILE

Each measurement is a fresh process, which loads one model, runs it and reports the kernel's counts. A Jetson's GPU
shares the host's memory: there, ``shared`` is the memory that the whole machine lost meanwhile, and swap is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.candidates.graph_cost import count_file
from benchmarks.candidates.opened import PEER_SIZE, add_candidates, describe_candidate, specs_of
from benchmarks.candidates.spec import Spec, with_size
from benchmarks.reporting.command import check_outputs, failure, finish, make_parser, nothing, start
from benchmarks.reporting.not_measured import list_unmeasured
from benchmarks.reporting.provenance import REPOSITORY, describe_file, describe_machine
from benchmarks.reporting.results import make_result
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need

TIMEOUT = 1800
"""Seconds after which a process counts as hung: torch.compile and engines take minutes."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("memory.py", __doc__)
    add_candidates(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write.

    Returns:
        0, or `benchmarks.reporting.command.FAILED` when some candidates failed.

    Raises:
        EmraError: A bad argument, an output that cannot be written, or no candidate that can be measured.
    """
    from rich.console import Console

    need("bench", "psutil", "onnx", purpose="measuring")
    check_outputs(arguments, "json")
    machine = describe_machine()
    candidates: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    models: dict[Path, dict[str, Any]] = {}
    with Console(stderr=True).status("measuring") as status:
        for spec in _sized(specs_of(arguments)):
            status.update(spec.key)
            try:
                report = start_probe(spec)
                if spec.path is not None and spec.path not in models:
                    models[spec.path] = {**describe_file(spec.path), "manifest": report["manifest"]}
                sha256 = models[spec.path]["sha256"] if spec.path is not None else None
                candidates.append(_candidate(spec, report, sha256, machine["jetson"] is not None))
            except (EmraError, subprocess.SubprocessError) as error:
                failures.append(failure(spec.key, error))
    if not candidates:
        raise nothing(failures)
    result = make_result(
        "memory",
        "memory.py",
        arguments.argv,
        {"candidates": candidates},
        models=list(models.values()),
        failures=failures,
        not_measured=list_unmeasured(machine, has_meter=True),
    )
    return finish(arguments, result)


def start_probe(spec: Spec) -> dict[str, Any]:
    """The report of a fresh process.

    Raises:
        EmraError: That of the process, and ``probe-failed`` if it died, for example without memory.
        subprocess.TimeoutExpired: It hangs.
    """
    asked = {**asdict(spec), "path": None if spec.path is None else str(spec.path.resolve())}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.candidates.memory_probe"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        cwd=REPOSITORY,
    )
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[-300:]
        died = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise EmraError(
            "probe-failed",
            f"The process that measures {died}: {words or 'no message'}",
            "If memory ran out, give a smaller --batch; else report this",
            spec.path,
        )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in report:
        found = report["error"]
        raise EmraError(found["code"], found["cause"], found["remedy"], found["path"])
    return report


def _sized(specs: Sequence[Spec]) -> list[Spec]:
    return [with_size(spec, PEER_SIZE) if spec.kind == "peer" and spec.size is None else spec for spec in specs]


def _candidate(spec: Spec, report: dict[str, Any], sha256: str | None, jetson: bool) -> dict[str, Any]:
    spec = with_size(spec, tuple(report["size"]))
    weights, activations = report["parameter_bytes"], None
    if spec.kind == "onnx" and spec.path is not None:
        cost = count_file(spec.path, spec.batch)
        weights, activations = cost.weights_bytes, cost.activations_bytes
    return {
        **describe_candidate(spec, sha256, report["backend"], report["precision"], report["cuda_graph"]),
        "host": report["host"],
        "device": report["device"],
        # Other processes take and free memory, too: except on a Jetson, the host's figures are better.
        "shared": report["shared"] if jetson else None,
        "weights_bytes": weights,
        "activations_bytes": activations,
    }


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
