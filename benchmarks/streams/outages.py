"""Outages of a server: seconds until a stall is noticed and until results return after a kill."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.streams.follow import Follower, percentile, reconciles
from benchmarks.streams.rtsp import RtspServer
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.segmenting.segmentation import Segmentation
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.stream import Stream, StreamOptions, StreamState


def cut_and_stall(segmenter: Segmenter, cuts: int, stalls: int, seed: int = 0) -> dict[str, Any]:
    """Kill GStreamer's RTSP server and start it again; then stop and continue it.

    Args:
        segmenter: Labels the pictures.
        cuts: Number of kills.
        stalls: Number of stops.
        seed: Determines the lengths of the outages.
    """
    chance = random.Random(seed)
    back, noticed, resumed = [], [], []
    server = RtspServer()
    server.start()
    try:
        with Follower(Stream(segmenter, server.url)) as follower:
            follower.wait_results(10)
            for _ in range(cuts):
                server.kill()
                follower.wait_state(StreamState.DEGRADED)
                time.sleep(chance.uniform(0.2, 3.0))
                server.start()
                since = time.monotonic()
                back.append(follower.wait_results(1, after=since) - since)
                follower.wait_results(10, after=since)
            for _ in range(stalls):
                assert server.process is not None
                server.process.send_signal(signal.SIGSTOP)
                stopped = time.monotonic()
                noticed.append(follower.wait_state(StreamState.DEGRADED) - stopped)
                time.sleep(chance.uniform(0.2, 3.0))
                server.process.send_signal(signal.SIGCONT)
                since = time.monotonic()
                resumed.append(follower.wait_results(1, after=since) - since)
                follower.wait_results(10, after=since)
        counters = follower.stream.status().counters
    finally:
        server.kill()
    return {
        "cuts": cuts,
        "cuts_resumed": len(back),
        "cut_resume_p50": percentile(back, 0.5),
        "cut_resume_p95": percentile(back, 0.95),
        "stalls": stalls,
        "stalls_noticed": len(noticed),
        "stall_noticed_max": max(noticed, default=None),
        "stall_resume_p95": percentile(resumed, 0.95),
        "connections": counters.connections,
        "reconciles": reconciles(counters),
    }


@dataclass(frozen=True)
class _Slow:
    """A segmenter with an extra delay for each picture."""

    segmenter: Segmenter
    seconds: float

    @property
    def restarts(self) -> int:
        return self.segmenter.restarts

    def segment_source(self, source: ImageSource) -> Segmentation:
        time.sleep(self.seconds)
        return self.segmenter.segment_source(source)


def slow_consumer(segmenter: Segmenter, url: str, fps: int, max_age: float, results: int) -> dict[str, Any]:
    """Follow a live source with a segmenter that takes ten frame intervals for each picture.

    Args:
        segmenter: Labels the pictures.
        url: A live source.
        fps: Its frames per second.
        max_age: The limit on results, seconds.
        results: Number of results to wait for.
    """
    most = 0
    ages: list[float] = []
    stream = Stream(_Slow(segmenter, 10 / fps), url, StreamOptions(max_age=max_age))
    with Follower(stream, lambda result: ages.append(result.age)) as follower:
        while len(ages) < results:
            follower.wait_results(1, after=time.monotonic())
            most = max(most, follower.stream.status().counters.waiting)
    counters = follower.stream.status().counters
    return {
        "max_age": max_age,
        "age_p50": percentile(ages, 0.5),
        "age_p99": percentile(ages, 0.99),
        "received": counters.received,
        "delivered": counters.delivered,
        "dropped": counters.dropped,
        "expired": counters.expired,
        "left": counters.left,
        "most_held": most,
        "reconciles": reconciles(counters),
    }
