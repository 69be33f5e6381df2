"""A long run: growth of memory, lost descriptors, ages of results."""

from __future__ import annotations

import os
import statistics
import time
from array import array
from pathlib import Path
from typing import Any

from benchmarks.streams.follow import Follower, percentile, reconciles
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.stream import Stream, StreamResult
from emra_deploy.stream.sinks import open_sink

WARM_UP = 0.2
"""Share of the run after which memory is compared: allocators and codecs fill their pools first."""

WINDOW = 0.1
"""Share of the run over whose samples a median is taken, at either end."""

GROWTH_LIMIT = 0.01
"""Growth of resident memory from which a run counts as leaking."""


def resident_bytes() -> int:
    """Resident memory of this process, from the kernel."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    """Open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def soak(segmenter: Segmenter, url: str, frames: int, overlay: Path | None = None, leak: int = 0) -> dict[str, Any]:
    """Follow a live source until it has delivered a number of frames.

    Args:
        segmenter: Labels the frames.
        url: The source.
        frames: Frames to receive.
        overlay: MP4 file to write, or None.
        leak: Bytes to lose on purpose with each result, as a test of the detection.
    """
    lost: list[bytes] = []
    # Allocated at the start: this record must not look like a leak.
    ages = array("d", bytes(8 * frames))
    delivered = 0
    sink = None if overlay is None else open_sink(str(overlay))
    before = open_descriptors()

    def keep(result: StreamResult) -> None:
        nonlocal delivered
        if delivered < frames:
            ages[delivered] = result.age
        delivered += 1
        if sink is not None:
            sink.write(result.overlay(), result.frame.time)
        if leak:
            lost.append(os.urandom(leak))

    samples: list[tuple[int, int]] = []
    began = time.monotonic()
    with Follower(Stream(segmenter, url), keep) as follower:
        wanted = 0
        while wanted < frames:
            wanted = min(frames, wanted + max(1, frames // 200))
            follower.wait_received(wanted)
            samples.append((wanted, resident_bytes()))
    seconds = time.monotonic() - began
    if sink is not None:
        sink.close()
    # Threads need a moment to end.
    time.sleep(0.5)
    warm = statistics.median(size for at, size in samples if WARM_UP <= at / frames <= WARM_UP + WINDOW)
    end = statistics.median(size for at, size in samples if at / frames >= 1 - WINDOW)
    growth = end / warm - 1
    return {
        "received": follower.stream.status().counters.received,
        "delivered": delivered,
        "seconds": seconds,
        "warm_bytes": warm,
        "end_bytes": end,
        "growth": growth,
        "samples": samples[:: max(1, len(samples) // 40)],
        "leaks": growth >= GROWTH_LIMIT,
        "descriptors_lost": open_descriptors() - before,
        "age_p50": percentile(ages[: min(delivered, frames)], 0.5),
        "age_p99": percentile(ages[: min(delivered, frames)], 0.99),
        "reconciles": reconciles(follower.stream.status().counters),
        "planted_leak_bytes": leak,
    }
