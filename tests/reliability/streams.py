"""The measurements of `benchmarks.stream_soak` as rows of the scoreboard."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import stream_soak
from benchmarks.streams.stops import LIMIT
from tests.reliability.board import Row, counted

RESUME_LIMIT = 1.0
"""Promised seconds from the server's return to the next result, in 95 of 100 outages."""

NOTICE_LIMIT = 2.0
"""Promised seconds until a stalled server is noticed."""


def stress(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Run `benchmarks.stream_soak` and compare its figures with the promises.

    Raises:
        EmraError: Those of `stream_soak.measure`.
    """
    arguments = argparse.Namespace(**{**vars(options), "only": list(stream_soak.PARTS)})
    arguments.model = None if options.model is None else str(options.model)
    parts = dict(stream_soak.measure(arguments))
    return parts, rows_of(parts)


def rows_of(parts: dict[str, Any]) -> list[Row]:
    """Rows for the measurements of `benchmarks.stream_soak`."""
    soak, leak, outages, slow, stops = (parts[name] for name in ("soak", "leak", "outages", "slow", "stops"))
    growth, lost = soak["growth"], soak["descriptors_lost"]
    rows = [
        counted(
            "soak",
            soak["received"],
            int(soak["leaks"]) + int(lost > 0) + int(not soak["reconciles"]),
            f"memory {100 * growth:+.2f} %, {lost} descriptors lost",
            "growth < 1 %, none lost",
        ),
        counted(
            "planted leak",
            leak["received"],
            int(not leak["leaks"]),
            f"memory {100 * leak['growth']:+.2f} %: {'caught' if leak['leaks'] else 'NOT CAUGHT'}",
            "caught",
        ),
    ]
    resume = outages["cut_resume_p95"]
    unresumed = outages["cuts"] - outages["cuts_resumed"]
    rows.append(
        Row(
            "RTSP server cut",
            outages["cuts"],
            unresumed,
            f"{outages['cuts_resumed']} resumed, p95 {_seconds(resume)} after its return",
            f"all resumed, p95 <= {RESUME_LIMIT:g} s",
            outages["cuts"] > 0 and unresumed == 0 and resume is not None and resume <= RESUME_LIMIT,
        )
    )
    noticed = outages["stall_noticed_max"]
    unnoticed = outages["stalls"] - outages["stalls_noticed"]
    rows.append(
        Row(
            "RTSP server stalled",
            outages["stalls"],
            unnoticed,
            f"{outages['stalls_noticed']} noticed, after at most {_seconds(noticed)}",
            f"all noticed within {NOTICE_LIMIT:g} s",
            outages["stalls"] > 0 and unnoticed == 0 and noticed is not None and noticed <= NOTICE_LIMIT,
        )
    )
    late = slow["age_p99"] is None or slow["age_p99"] > slow["max_age"]
    rows.append(
        counted(
            "consumer 10 x too slow",
            slow["received"],
            int(late) + int(not slow["reconciles"]),
            f"p99 age {_seconds(slow['age_p99'])}, counts {'reconcile' if slow['reconciles'] else 'DO NOT RECONCILE'}",
            f"p99 <= {slow['max_age']:g} s, counts exact",
        )
    )
    late_stops = stops["signals"] - stops["within_limit"]
    rows.append(
        counted(
            "SIGTERM",
            stops["signals"],
            late_stops + (stops["signals"] - stops["overlays_whole"]) + stops["left_over"],
            f"exit after at most {_seconds(stops['exit_max'])}, {stops['overlays_whole']} overlays whole",
            f"exit within {LIMIT:g} s, files whole",
        )
    )
    return rows


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"
