"""Live streams under stress: memory over a long run, ages, outages, a slow consumer, signals.

    python -m benchmarks.stream_soak [--only soak leak outages slow stops] [--model FILE] [--json FILE]

The sender is GStreamer's RTSP server, in a separate process; Debian has it as gir1.2-gst-rtsp-server-1.0, with
gstreamer1.0-tools, gstreamer1.0-plugins-good, gstreamer1.0-plugins-ugly and python3-gi.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reporting.command import make_parser, start
from benchmarks.reporting.results import make_result, write_result
from benchmarks.streams.outages import cut_and_stall, slow_consumer
from benchmarks.streams.rtsp import RtspServer, why_no_rtsp_server
from benchmarks.streams.soak import soak
from benchmarks.streams.stops import stop_many
from emra_deploy.cli.allocator import share_one_arena
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import check_all_outputs
from emra_deploy.segmenting.segmenter import Segmenter

PARTS = ("soak", "leak", "outages", "slow", "stops")
SIDE = 256
FPS = 50
SLOW_LIMIT = 0.5
"""Age limit in seconds for the consumer that takes a fifth of a second a frame."""


def check_ready() -> None:
    """Refuse to start without the libraries that make and read streams.

    Raises:
        EmraError: ``library-missing`` without PyAV or an RTSP server.
    """
    need("video", "av", purpose="reading streams")
    missing = why_no_rtsp_server()
    if missing is not None:
        raise EmraError("library-missing", missing, "Install it and run this again")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the selected parts, and print the figures of each as soon as they are known.

    Raises:
        EmraError: Those of loading a model, and that of `check_ready`.
    """
    check_ready()
    parts: dict[str, Any] = {}

    def keep(name: str, part: dict[str, Any]) -> None:
        parts[name] = part
        print("\n".join(lines({name: part})), flush=True)

    # As `emra stream` does.
    share_one_arena()
    with Segmenter.open(arguments.model) as segmenter, tempfile.TemporaryDirectory() as scratch:
        parts["model"] = segmenter.manifest.name
        server = RtspServer()
        server.start(SIDE, SIDE, FPS)
        try:
            if "soak" in arguments.only:
                keep("soak", soak(segmenter, server.url, arguments.frames, Path(scratch) / "soak.mp4"))
            if "leak" in arguments.only:
                # A list of numbers that is never emptied loses a few kilobytes with each result.
                keep("leak", soak(segmenter, server.url, arguments.frames, leak=arguments.leak))
            if "slow" in arguments.only:
                keep("slow", slow_consumer(segmenter, server.url, FPS, SLOW_LIMIT, arguments.slow_results))
            if "stops" in arguments.only:
                folder = Path(scratch) / "stops"
                folder.mkdir()
                keep("stops", stop_many(server.url, arguments.model, folder, arguments.stops))
        finally:
            server.kill()
        if "outages" in arguments.only:
            keep("outages", cut_and_stall(segmenter, arguments.cuts, arguments.stalls))
    return parts


def lines(parts: dict[str, Any]) -> list[str]:
    """The figures as text."""
    said = []
    for name in ("soak", "leak"):
        if name in parts:
            part = parts[name]
            planted = part["planted_leak_bytes"]
            said.append(
                f"{name}: {part['received']:,} frames received, {part['delivered']:,} segmented, "
                f"{part['seconds']:.0f} s" + (f", {planted} bytes lost on purpose with each" if planted else "")
            )
            said.append(
                f"  resident memory {part['warm_bytes'] / 2**20:.1f} -> {part['end_bytes'] / 2**20:.1f} MiB "
                f"({100 * part['growth']:+.2f} %: {'LEAKS' if part['leaks'] else 'no leak'}), "
                f"{part['descriptors_lost']} descriptors lost"
            )
            said.append(
                f"  age of results: p50 {_ms(part['age_p50'])}, p99 {_ms(part['age_p99'])}; counts {_reconcile(part)}"
            )
    if "outages" in parts:
        part = parts["outages"]
        said.append(
            f"server killed {part['cuts']} times: {part['cuts_resumed']} resumed, after it was back p50 "
            f"{_ms(part['cut_resume_p50'])}, p95 {_ms(part['cut_resume_p95'])}"
        )
        said.append(
            f"server stopped {part['stalls']} times: {part['stalls_noticed']} noticed, after at most "
            f"{_ms(part['stall_noticed_max'])}; resumed p95 {_ms(part['stall_resume_p95'])}; counts {_reconcile(part)}"
        )
    if "slow" in parts:
        part = parts["slow"]
        said.append(
            f"consumer 10 times too slow: age p50 {_ms(part['age_p50'])}, p99 {_ms(part['age_p99'])} "
            f"(limit {_ms(part['max_age'])}), at most {part['most_held']} frames held; "
            f"received {part['received']} = {part['delivered']} delivered + {part['dropped']} dropped + "
            f"{part['expired']} expired + {part['left']} left: {_reconcile(part)}"
        )
    if "stops" in parts:
        part = parts["stops"]
        said.append(
            f"SIGTERM {part['signals']} times: exit after p50 {_ms(part['exit_p50'])}, "
            f"at most {_ms(part['exit_max'])}; {part['within_limit']} within 2 s, "
            f"{part['exit_status_0']} with status 0, {part['overlays_whole']} overlays whole, "
            f"{part['left_over']} files left over"
        )
    return said


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("stream_soak.py", __doc__)
    add = made.add_argument
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    add("--model", help="model file (the shipped one)")
    add("--frames", type=int, default=21_600, help="frames of the soak (21600)")
    add("--leak", type=int, default=4096, help="bytes that the part leak loses with each result (4096)")
    add("--cuts", type=int, default=50, help="times to kill the server (50)")
    add("--stalls", type=int, default=20, help="times to stop the server (20)")
    add("--slow-results", type=int, default=300, help="results of the slow consumer (300)")
    add("--stops", type=int, default=100, help="times to send SIGTERM (100)")
    add("--json", metavar="FILE", help="write all figures there")
    add("--overwrite", action="store_true", help="replace an existing FILE")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write."""
    check_all_outputs([arguments.json], overwrite=arguments.overwrite)
    parts = measure(arguments)
    if arguments.json is not None:
        result = make_result("streams", "stream_soak.py", arguments.argv, parts, models=[])
        write_result(arguments.json, result, overwrite=arguments.overwrite)
    return 0


main = partial(start, parser, run)
"""Run the command; the exit status."""


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1000 * seconds:.0f} ms"


def _reconcile(part: dict[str, Any]) -> str:
    return "reconcile" if part["reconciles"] else "DO NOT RECONCILE"


if __name__ == "__main__":
    sys.exit(main())
