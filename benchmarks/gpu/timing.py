"""Times of GPU work: CUDA graphs, device events, candidates in turn, medians."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from emra_deploy.errors import one_line

Work = Callable[[], object]


def capture(works: Sequence[Work]) -> torch.cuda.CUDAGraph:
    """One graph that does all the work, warmed up on the side first, as capture demands."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            for work in works:
                work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    return graph


def time_graphs(
    candidates: Mapping[str, Sequence[Work]], rounds: int = 7, seconds: float = 0.15
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Seconds of one unit of work of each candidate.

    Each candidate's works, one per set of inputs, become one graph, so that inputs change from call to call and
    launches cost little. In each round every candidate has its turn, in an order that moves on; the median is over all
    replays.

    Args:
        candidates: Name -> one callable per set of inputs.
        rounds: How often each has its turn.
        seconds: About how long each turn lasts.

    Returns:
        Name -> (median, scatter of the rounds' medians as a fraction); and name -> why, of those that could not be
        captured.
    """
    graphs, failures = {}, {}
    for name, works in candidates.items():
        try:
            graphs[name] = capture(works)
        except RuntimeError as error:
            failures[name] = one_line(error, 80)
    replays = {name: max(3, min(200, round(seconds / max(_once(graph), 1e-6)))) for name, graph in graphs.items()}
    samples: dict[str, list[list[float]]] = {name: [] for name in graphs}
    names = list(graphs)
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            samples[name].append(_replay(graphs[name], replays[name]))
    results = {}
    for name, turns in samples.items():
        count = len(candidates[name])
        medians = [statistics.median(turn) for turn in turns]
        middle = statistics.median(value for turn in turns for value in turn)
        results[name] = (middle / count, (max(medians) - min(medians)) / middle)
    return results, failures


def _once(graph: torch.cuda.CUDAGraph) -> float:
    graph.replay()
    return min(_replay(graph, 2))


def _replay(graph: torch.cuda.CUDAGraph, count: int) -> list[float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) * 1e-3 for begin, end in itertools.pairwise(marks)]


def extra_memory(work: Work) -> int:
    """Peak bytes that a call allocates beyond earlier allocations, its result included."""
    work()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before
