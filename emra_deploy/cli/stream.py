"""``emra stream``: segments a video, camera or network stream; prints areas and states, writes overlays."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emra_deploy.backends.options import LoadOptions
from emra_deploy.cli.allocator import share_one_arena
from emra_deploy.cli.flags import add_flags, read_flags
from emra_deploy.cli.model_options import add_model_arguments
from emra_deploy.errors import EmraError
from emra_deploy.pictures.bands import RGB
from emra_deploy.segmenting.palettes import PALETTES, check_palette
from emra_deploy.stream.options import StreamOptions

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from emra_deploy.stream.run import Stream, StreamResult
    from emra_deploy.stream.service import StreamReport

_log = logging.getLogger(__name__)

HELP = "Segment a video file, a camera or a network stream."

COUNTERS_EVERY = 5.0
"""Seconds between two lines of counters."""

_MOMENT = 0.05
"""Seconds to wait for the other thread that prints."""

LAST_RESORT = 1.95
"""Seconds after a signal until the process is ended forcibly."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add = parser.add_argument
    add(
        "source",
        type=str,
        help="video file, camera:0, /dev/video0, rtsp://, udp://, http://, ... or 'gst:PIPELINE' without its sink",
    )
    add("--overlay", type=str, default=None, help="OUT.mp4, rtsp:// address of a server to publish to, or window")
    add("--opacity", type=float, default=0.5, help="opacity of the overlay's colours, 0 to 1")
    add(
        "--palette",
        type=str,
        default="auto",
        metavar="|".join(PALETTES),
        help="colours of the overlay, as of emra segment",
    )
    add("--overwrite", action="store_true", help="replace an existing overlay")
    add("--json", action="store_true", help="print one JSON object per line on stdout: frame, state, counters, end")
    add("--model", "-m", type=str, default=None, help="model file (default: the one that comes with the package)")
    add("--frames", type=int, default=None, metavar="N", help="stop after N results")
    add_flags(parser, StreamOptions)
    add_model_arguments(parser)


def run(options: Namespace) -> int:
    """Segment until the source ends or a signal comes; 0 in both cases."""
    share_one_arena()
    chosen, load = _read(options), read_flags(options, LoadOptions)
    from emra_deploy.segmenting.segmenter import Segmenter
    from emra_deploy.stream.opening import find_source
    from emra_deploy.stream.run import Stream
    from emra_deploy.stream.service import run_stream
    from emra_deploy.stream.sinks import open_sink

    # Report mistakes before loading a model.
    source = find_source(options.source, chosen)
    sink = None
    if options.overlay is not None:
        sink = open_sink(options.overlay, overwrite=options.overwrite, inputs=_inputs(options.source))
    with (
        Segmenter.open(options.model, load, halo=options.halo) as segmenter,
        Stream(segmenter, source, chosen) as stream,
    ):
        if segmenter.manifest.bands != RGB:
            _log.warning("the model reads %s: frames must hold these", ", ".join(segmenter.manifest.bands))
        printer = _Printer(stream, as_json=options.json)
        with _signals(stream):
            report = run_stream(
                stream,
                sink,
                opacity=options.opacity,
                palette=options.palette,
                on_result=printer.result,
                on_tick=printer.tick,
                limit=options.frames,
            )
            if report.error is None or isinstance(report.error, EmraError):
                printer.end(report, options.overlay)
            if report.hung or (stream.stopped_at is not None and report.error is None):
                _leave(report)
    if report.error is not None:
        raise report.error
    return 0


def _read(options: Namespace) -> StreamOptions:
    """The options of the stream, after checking the other numbers.

    Raises:
        EmraError: ``stream-option``, ``opacity-range``.
    """
    if not 0.0 <= options.opacity <= 1.0:
        raise EmraError("opacity-range", f"opacity {options.opacity}, expected 0 to 1", "Correct --opacity")
    check_palette(options.palette)
    if options.overlay is None and options.palette != "auto":
        raise EmraError(
            "option-unused", "--palette is about the overlay, which is not named", "Give --overlay, or leave it out"
        )
    if options.frames is not None and options.frames < 1:
        raise EmraError("stream-option", f"--frames is {options.frames}, expected 1 or more", "Correct --frames")
    return read_flags(options, StreamOptions)


def _inputs(source: str) -> tuple[str, ...]:
    return () if "://" in source or source.startswith("gst:") else (source,)


@contextlib.contextmanager
def _signals(stream: Stream) -> Iterator[None]:
    """Make SIGTERM, SIGINT and SIGHUP end the stream cleanly, and a second signal the process at once."""

    def handle(number: int, _: object) -> None:
        if stream.stopped_at is not None:
            os._exit(128 + number)
        stream.stop()
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=sys.__stderr__)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup, and shells that start background jobs, ignore a signal on purpose.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(report: StreamReport) -> None:
    """End the process without the clean-up of interpreter and libraries.

    Clean-up would wait for hanging threads, and on a busy machine it takes longer than all the rest.
    """
    status = 0 if report.closed else 1
    if report.error is not None:
        status = 2 if isinstance(report.error, EmraError) else 1
        print(f"emra: {report.error}", file=sys.stderr)
    sys.stderr.flush()
    if not report.hung:
        # The thread may hang writing to a pipe that nobody reads, where this would block as well.
        sys.stdout.flush()
    os._exit(status)


class _Printer:
    """Prints what a stream does: lines of JSON on stdout, or state changes on stderr and a summary on stdout.

    The working thread prints results, the main thread the rest.
    """

    def __init__(self, stream: Stream, *, as_json: bool) -> None:
        self._stream = stream
        self._json = as_json
        self._seen = 0
        self._next_counters = time.monotonic() + COUNTERS_EVERY
        self._lock = threading.Lock()

    def result(self, result: StreamResult) -> None:
        """Print a result."""
        if self._json:
            with self._lock:
                self._line({"event": "frame", **result.to_dict()})

    def tick(self) -> None:
        """Print state changes, and the counters when they are due."""
        with self._may_print() as may:
            if may:
                self._print_changes()

    def _print_changes(self) -> None:
        for change in self._stream.changes(self._seen):
            self._seen = change.number + 1
            if self._json:
                self._line({"event": "state", **change.to_dict()})
            else:
                why = f": {change.reason}" if change.reason else ""
                print(f"emra: {change.state.value}{why}", file=sys.stderr, flush=True)
        if self._json and time.monotonic() >= self._next_counters:
            self._next_counters = time.monotonic() + COUNTERS_EVERY
            self._line({"event": "counters", **self._stream.status().to_dict()})

    def end(self, report: StreamReport, overlay: str | None) -> None:
        """Print the summary."""
        with self._may_print() as may:
            if may:
                self._print_changes()
                self._summary(report, overlay)

    def _summary(self, report: StreamReport, overlay: str | None) -> None:
        from emra_deploy.stream.source import redact

        shown = None if overlay is None or not report.written else redact(overlay)
        status = report.status.to_dict()
        if self._json:
            self._line({"event": "end", **status, "overlay": shown, "written": report.written})
            return
        counts = ", ".join(f"{status[name]} {name}" for name in ("received", "delivered", "skipped", "dropped"))
        troubles = ("expired", "left", "damaged", "bad_packets", "stalls", "resizes", "hung", "restarts", "throttles")
        rest = "".join(f", {status[name]} {name.replace('_', ' ')}" for name in troubles if status[name])
        print(f"frames   {counts}{rest}")
        print(f"source   {status['connections']} connections of {status['attempts']} tries, {status['uptime']:.1f} s")
        if shown is not None:
            print(f"overlay  {shown}  ({report.written} frames)")

    @contextlib.contextmanager
    def _may_print(self) -> Iterator[bool]:
        """Whether the main thread may print: not while the other thread blocks on a pipe that nobody reads."""
        may = self._lock.acquire(timeout=_MOMENT)
        try:
            yield may
        finally:
            if may:
                self._lock.release()

    def _line(self, content: dict[str, Any]) -> None:
        print(json.dumps(content), flush=True)
