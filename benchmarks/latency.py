"""Latency of models on this machine: any mix of ONNX files, engines and checkpoints, interleaved in one run.

python -m benchmarks.latency model.onnx model.int8.onnx --backend onnxruntime,openvino --json FILE

Fresh pictures are rotated, warm-up is discarded, and GPUs are synchronised. Stages are timed separately: decoding a
JPEG, upload, computing, download, post-processing, and end to end. Ratios come with a 95 % confidence interval, and a
noisy machine is reported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.candidates.opened import Opened, add_candidates, opened_candidates
from benchmarks.candidates.pictures import write_pictures
from benchmarks.candidates.spec import Spec
from benchmarks.candidates.timed import STAGES, Pipeline, describe_profile
from benchmarks.machine_state.meter import Meter, open_meter
from benchmarks.machine_state.nvml import Nvml
from benchmarks.machine_state.snapshot import events_between, take_snapshot
from benchmarks.reporting.command import check_outputs, failure, finish, make_parser, nothing, start
from benchmarks.reporting.not_measured import list_unmeasured
from benchmarks.reporting.plots import latency_figure
from benchmarks.reporting.provenance import describe_machine
from benchmarks.reporting.results import make_result
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from export.measure import Noise, Plan, Series, Watch, measure, paired_ratio, summarise
from export.measure.noise import PROBE, Probe

PROFILED_RUNS = 5
RATIO_STAGES = ("compute", "end_to_end")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("latency.py", __doc__)
    add_candidates(made)
    add, plan = made.add_argument, Plan()
    add("--iterations", type=int, default=plan.iterations, metavar="N", help="measured iterations of each (100)")
    add("--warmup", type=int, default=plan.warmup, metavar="N", help="discarded iterations before, of each (10)")
    add("--rounds", type=int, metavar="N", help="visits to each candidate (10, or fewer iterations)")
    add("--baseline", metavar="TEXT", help="ratios are to the candidate whose key contains this (the first)")
    add("--profile", action="store_true", help="then time each layer, where the backend gives it")
    add("--plot", metavar="FILE", help="write a chart there: .svg, .png or .pdf")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write.

    Returns:
        0, or `benchmarks.reporting.command.FAILED` when some candidates failed.

    Raises:
        EmraError: A bad argument, an output that cannot be written, or no candidate that can be measured.
    """
    need("bench", "psutil", purpose="measuring")
    check_outputs(arguments, "json", "plot")
    rounds = min(10, max(1, arguments.iterations)) if arguments.rounds is None else arguments.rounds
    plan = Plan(arguments.iterations, arguments.warmup, rounds)
    with opened_candidates(arguments) as (opened, say):
        baseline = _find_baseline(opened, arguments.baseline)
        nvml = Nvml.open()
        before = take_snapshot(nvml)
        content, failures, why = _measure(opened, plan, baseline, nvml, before, say, arguments.profile)
        after = take_snapshot(nvml)
    failures = [*opened.failures, *failures]
    if not content["candidates"]:
        raise nothing(failures)
    result = make_result(
        "latency",
        "latency.py",
        arguments.argv,
        content,
        models=opened.models,
        failures=failures,
        not_measured=list_unmeasured(describe_machine(), has_meter=why is None, why_no_meter=why or ""),
        state={"before": before, "after": after},
    )
    return finish(arguments, result, latency_figure)


def _find_baseline(opened: Opened, text: str | None) -> Spec:
    specs = list(opened.runners)
    if text is None:
        return specs[0]
    found = [spec for spec in specs if text in spec.key]
    if not found:
        raise EmraError(
            "baseline",
            f"No candidate's key has {text!r} in it; there are {'; '.join(spec.key for spec in specs)}",
            "Give a part of one of these to --baseline",
        )
    return found[0]


def _measure(
    opened: Opened,
    plan: Plan,
    baseline: Spec,
    nvml: Nvml | None,
    before: Mapping[str, Any],
    say: Any,
    profile: bool,
) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
    """The result's content, the failures, and the reason for missing energy or None."""
    with tempfile.TemporaryDirectory(prefix="emra-latency-") as name:
        pictures = {
            size: write_pictures(Path(name), size)
            for size in dict.fromkeys(spec.size for spec in opened.runners)
            if size
        }
        pipelines = {
            spec: Pipeline(runner, pictures[spec.size], spec.batch)
            for spec, runner in opened.runners.items()
            if spec.size is not None
        }
        meter, scope = open_meter(nvml=nvml)
        watch = Watch()
        try:
            series = measure(
                {PROBE: Probe(), **{spec.key: pipeline for spec, pipeline in pipelines.items()}},
                plan,
                lambda number, key: say(
                    f"{'warm-up' if number < 0 else f'round {number + 1} of {plan.rounds}'}: {key}"
                ),
            )
        finally:
            if meter is not None:
                meter.close()
        throttled = events_between(dict(before), take_snapshot(nvml))
        noise = watch.noise(series[PROBE].medians("end_to_end"), throttled)
        failures = [failure(spec.key, error) for spec in pipelines if (error := series[spec.key].failure) is not None]
        profiles = {}
        if profile:
            for spec, pipeline in pipelines.items():
                if series[spec.key].failure is None:
                    say(f"profiling {spec.key}")
                    profiles[spec.key] = _profile(spec, pipeline, failures)
    measured = [spec for spec in opened.runners if series[spec.key].failure is None]
    content = {
        "plan": asdict(plan),
        "noise": noise.to_dict(),
        "probe": {"rounds": series[PROBE].medians("end_to_end")},
        "energy_scope": scope,
        "candidates": [_candidate(spec, opened, series[spec.key], meter, profiles.get(spec.key)) for spec in measured],
        "ratios": _ratios(baseline, measured, series, noise),
    }
    return content, failures, None if meter is not None else scope


def _profile(spec: Spec, pipeline: Pipeline, failures: list[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        layers = pipeline.backend.profile(pipeline.batch(), PROFILED_RUNS)
    except Exception as error:
        failures.append(failure(f"{spec.key} (profile)", error))
        return None
    return describe_profile(layers) if layers else None


def _candidate(
    spec: Spec, opened: Opened, series: Series, meter: Meter | None, profile: dict[str, Any] | None
) -> dict[str, Any]:
    compute = series.samples("compute")
    # A GPU needs the copies for each picture, too.
    busy = [
        sum(times)
        for times in zip(
            *(series.samples(name) for name in ("upload", "compute", "download") if name in series.stages), strict=True
        )
    ]
    pictures = spec.batch * len(compute)
    energy = None if meter is None else meter.joules(series.spans)
    return {
        **opened.describe(spec),
        "stages": {
            name: summarise(series.samples(name)).to_dict() if name in series.stages else None for name in STAGES
        },
        "rounds": {name: series.medians(name) for name in RATIO_STAGES},
        "throughput": pictures / sum(busy),
        "energy": None
        if energy is None
        else {
            "joules_per_picture": energy / pictures,
            "watts": energy / sum(end - begin for begin, end in series.spans),
        },
        "profile": profile,
    }


def _ratios(baseline: Spec, specs: Sequence[Spec], series: Mapping[str, Series], noise: Noise) -> list[dict[str, Any]]:
    if baseline not in specs:
        return []
    found = []
    for spec in specs:
        if spec == baseline:
            continue
        for stage in RATIO_STAGES:
            ratio = paired_ratio(series[spec.key].medians(stage), series[baseline.key].medians(stage))
            found.append(
                {
                    "key": spec.key,
                    "against": baseline.key,
                    "stage": stage,
                    **ratio.to_dict(),
                    "verdict": ratio.verdict(noise.quiet),
                }
            )
    return found


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
