"""Share of this machine that a model attains: counted operations and bytes against measured ceilings.

python -m benchmarks.roofline model.onnx --backend onnxruntime,openvino --json FILE --plot FILE.svg

Operations and bytes are counted on the graph (`benchmarks.candidates.graph_cost`); ceilings
(`benchmarks.machine_state.ceilings`) and each model's time are measured. The shortest time that the ceilings allow is
the larger of two: matrix operations over the ceiling of their precision, and bytes that must be moved over the copy's.
A model's attained fraction is that time over its own (S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52 (4),
2009).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.candidates.graph_cost import GraphCost, count_file
from benchmarks.candidates.opened import Opened, add_candidates, opened_candidates
from benchmarks.candidates.pictures import write_pictures
from benchmarks.candidates.spec import Spec
from benchmarks.candidates.timed import Pipeline, TimedBackend
from benchmarks.machine_state.ceilings import measure_gpu, measure_host
from benchmarks.reporting.command import check_outputs, failure, finish, make_parser, nothing, start
from benchmarks.reporting.not_measured import list_unmeasured
from benchmarks.reporting.plots import roofline_figure
from benchmarks.reporting.provenance import describe_machine
from benchmarks.reporting.results import make_result
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from export.measure import Plan, Series, Watch, measure, summarise
from export.measure.noise import PROBE, Probe

_COMPUTED_IN = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("roofline.py", __doc__)
    add_candidates(made)
    made.add_argument("--iterations", type=int, default=30, metavar="N", help="measured iterations of each (30)")
    made.add_argument("--warmup", type=int, default=5, metavar="N", help="discarded iterations before, of each (5)")
    made.add_argument("--plot", metavar="FILE", help="write a chart there: .svg, .png or .pdf")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Count, measure, print and write.

    Returns:
        0, or `benchmarks.reporting.command.FAILED` when some candidates failed.

    Raises:
        EmraError: A bad argument, an output that cannot be written, or no candidate that can be measured.
    """
    need("bench", "psutil", "onnx", purpose="measuring")
    check_outputs(arguments, "json", "plot")
    plan = Plan(arguments.iterations, arguments.warmup, min(10, max(1, arguments.iterations)))
    with opened_candidates(arguments) as (opened, say):
        costs, failures = _count(opened)
        say("measuring the ceilings")
        watch = Watch()
        host, gpu = measure_host(arguments.threads), measure_gpu()
        series = _time(opened, costs, plan, say)
        noise = watch.noise(series[PROBE].medians("end_to_end"))
        rows = []
        for spec, cost in costs.items():
            error = series[spec.key].failure
            if error is not None:
                failures.append(failure(spec.key, error))
                continue
            # A runner that reports CUDA graphs has a GPU.
            runner = opened.runners[spec]
            ceilings = host if runner.cuda_graph is None else gpu
            rows.append(_row(spec, runner, opened, cost, series[spec.key], ceilings))
    failures = [*opened.failures, *failures]
    if not rows:
        raise nothing(failures)
    result = make_result(
        "roofline",
        "roofline.py",
        arguments.argv,
        {"ceilings": host, "gpu_ceilings": gpu, "noise": noise.to_dict(), "models": rows},
        models=opened.models,
        failures=failures,
        not_measured=list_unmeasured(describe_machine(), has_meter=True),
    )
    return finish(arguments, result, roofline_figure)


def _count(opened: Opened) -> tuple[dict[Spec, GraphCost], list[dict[str, Any]]]:
    """Counted graphs of ONNX files, and of engines whose ONNX file is in the same command."""
    costs: dict[Spec, GraphCost] = {}
    failures = []
    files = {opened.sha256(spec): spec.path for spec in opened.runners if spec.kind == "onnx"}
    for spec, runner in opened.runners.items():
        path = spec.path if spec.kind == "onnx" else None
        if spec.kind == "engine":
            path = files.get(runner.manifest.parent_sha256)
        try:
            if path is None:
                raise EmraError(
                    "graph-missing",
                    "Only the graph of an ONNX file can be counted",
                    "Give an ONNX file; for an engine, the one it was built from beside it",
                    spec.path,
                )
            costs[spec] = count_file(path, spec.batch)
        except EmraError as error:
            failures.append(failure(spec.key, error))
    return costs, failures


def _time(opened: Opened, costs: Mapping[Spec, GraphCost], plan: Plan, say: Any) -> dict[str, Series]:
    with tempfile.TemporaryDirectory(prefix="emra-roofline-") as name:
        sizes = {spec.size: write_pictures(Path(name), spec.size) for spec in costs if spec.size}
        pipelines = {
            spec.key: Pipeline(opened.runners[spec], sizes[spec.size], spec.batch) for spec in costs if spec.size
        }
        return measure({PROBE: Probe(), **pipelines}, plan, lambda number, key: say(key))


def _row(
    spec: Spec,
    runner: TimedBackend,
    opened: Opened,
    cost: GraphCost,
    series: Series,
    ceilings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    times = summarise(series.samples("compute"))
    row = {
        **opened.describe(spec),
        **cost.to_dict(),
        "seconds": times.to_dict(),
        "flops_per_second": cost.flops / times.p50,
        "intensity_fused": cost.flops / cost.bytes_fused,
        "intensity_unfused": cost.flops / cost.bytes_unfused,
        "bound_seconds": None,
        "bound_by": None,
        "attained": None,
    }
    if ceilings is None:
        return row
    bound = least_time(cost, ceilings, runner.describe().get("precision"))
    if bound is not None:
        row.update(bound_seconds=bound[0], bound_by=bound[1], attained=bound[0] / times.p50)
    return row


def least_time(cost: GraphCost, ceilings: Mapping[str, Any], computed_in: str | None) -> tuple[float, str] | None:
    """The shortest time that the ceilings allow, and its limit, ``"compute"`` or ``"memory"``.

    Args:
        cost: Cost of the graph.
        ceilings: Ceilings by `benchmarks.machine_state.ceilings`.
        computed_in: Floating-point precision of a backend with a choice, such as OpenVINO's ``"bf16"``.

    Returns:
        None if the ceiling of a precision was not measured.
    """
    seconds = 0.0
    for precision, flops in cost.matrix_flops.items():
        name = precision
        if computed_in is not None and precision in ("fp32", "fp16"):
            name = _COMPUTED_IN.get(computed_in, precision)
        ceiling = ceilings["compute"].get(name)
        if ceiling is None:
            return None
        seconds += flops / ceiling["per_second"]
    moving = cost.bytes_fused / ceilings["bandwidth"]["per_second"]
    return (seconds, "compute") if seconds >= moving else (moving, "memory")


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
