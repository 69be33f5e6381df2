"""``emra stream``: a video, camera or network stream in; masks' areas, states and overlays out, until it ends."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emra_deploy.cli.allocator import share_one_arena
from emra_deploy.cli.model_options import add_model_arguments, load_options
from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from emra_deploy.stream import StreamOptions
    from emra_deploy.stream.run import Stream, StreamResult
    from emra_deploy.stream.service import Outcome, StreamService

HELP = "Segment a video file, a camera or a network stream."

COUNTERS_EVERY = 5.0
"""Seconds from one line of counters to the next."""

_MOMENT = 0.05
"""Seconds to wait for the other thread that prints."""

LAST_RESORT = 1.95
"""Seconds after a signal at which the process is ended, whatever it is doing."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add = parser.add_argument
    add(
        "source",
        type=str,
        help="video file, camera:0, /dev/video0, rtsp://, udp://, http://, ... or 'gst:PIPELINE' without its sink",
    )
    add("--overlay", type=str, default=None, help="OUT.mp4, an rtsp:// server that takes streams, or the word window")
    add("--opacity", type=float, default=0.5, help="weight of the overlay's colours, 0 to 1 (default: 0.5)")
    add("--overwrite", action="store_true", help="replace an existing overlay, which is kept otherwise")
    add("--json", action="store_true", help="print a JSON object a line on stdout: frame, state, counters, end")
    add("--model", "-m", type=str, default=None, help="model file (default: the one that comes with the package)")
    add("--every", type=int, default=1, metavar="N", help="segment one frame in N (default: 1)")
    add("--frames", type=int, default=None, metavar="N", help="stop after N results (default: never)")
    add("--max-age", type=float, default=None, metavar="S", help="drop live results older than S seconds")
    add("--stall-after", type=float, default=1.0, metavar="S", help="degraded without a frame for S s (default: 1)")
    add(
        "--timeout", type=float, default=5.0, metavar="S", help="reconnect when a source is silent so long (default: 5)"
    )
    add("--give-up", type=float, default=None, metavar="S", help="fail without a frame for S seconds (default: never)")
    add("--in-order", action="store_true", help="every frame in order, as of a file; for URLs and gst: that end")
    add("--transport", type=str, default="tcp", help="how RTSP carries its packets: tcp or udp (default: tcp)")
    add(
        "--input-option",
        type=str,
        action="append",
        default=None,
        metavar="NAME=VALUE",
        help="option for FFmpeg's demuxer, such as video_size=1280x720 or framerate=30; may be repeated",
    )
    add_model_arguments(parser)


def run(options: Namespace) -> int:
    """Do it until the source ends or a signal comes; 0 in both cases."""
    share_one_arena()
    chosen, load = _options(options), load_options(options)
    from emra_deploy.segmenting.segmenter import Segmenter
    from emra_deploy.stream import Stream
    from emra_deploy.stream.outputs import open_output
    from emra_deploy.stream.service import StreamService
    from emra_deploy.stream.source import make_opener

    # Mistakes are told before a model is loaded.
    make_opener(options.source, chosen)
    output = None
    if options.overlay is not None:
        output = open_output(options.overlay, overwrite=options.overwrite, inputs=_inputs(options.source))
    with (
        Segmenter.open(options.model, load, halo=options.halo) as segmenter,
        Stream(segmenter, options.source, chosen) as stream,
    ):
        reporter = _Reporter(stream, as_json=options.json)
        service = StreamService(
            stream, output, opacity=options.opacity, on_result=reporter.result, limit=options.frames
        )
        with _signals(service):
            outcome = service.run(reporter.tick)
            if outcome.error is None or isinstance(outcome.error, EmraError):
                reporter.end(outcome, options.overlay)
            if outcome.hung or (service.stopping and outcome.error is None):
                _leave(outcome)
    if outcome.error is not None:
        raise outcome.error
    return 0


def _options(options: Namespace) -> StreamOptions:
    """What the command line says about reading, checked.

    Raises:
        EmraError: ``stream-option``, ``opacity-range``.
    """
    from emra_deploy.stream import StreamOptions

    if not 0.0 <= options.opacity <= 1.0:
        raise EmraError("opacity-range", f"opacity {options.opacity}, expected 0 to 1", "Correct --opacity")
    if options.frames is not None and options.frames < 1:
        raise EmraError("stream-option", f"--frames is {options.frames}, expected 1 or more", "Correct it")
    pairs = []
    for text in options.input_option or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise EmraError("stream-option", f"input option {text!r}, expected NAME=VALUE", "Correct --input-option")
        pairs.append((name, value))
    return StreamOptions(
        live=False if options.in_order else None,
        every=options.every,
        max_age=options.max_age,
        stall_after=options.stall_after,
        open_timeout=options.timeout,
        read_timeout=options.timeout,
        give_up_after=options.give_up,
        rtsp_transport=options.transport,
        input_options=tuple(pairs),
    )


def _inputs(source: str) -> tuple[str, ...]:
    return () if "://" in source or source.startswith("gst:") else (source,)


@contextlib.contextmanager
def _signals(service: StreamService) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP end the stream in order; a second one ends the process at once."""

    def handle(number: int, _: object) -> None:
        if service.stopping:
            os._exit(128 + number)
        service.stop()
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=sys.__stderr__)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup, and shells that start jobs in the background, have their reasons to ignore a signal.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(outcome: Outcome) -> None:
    """End the process without the interpreter's and the libraries' clean-up.

    It would wait for threads that hang; and on a busy machine it takes longer than everything before it.
    """
    status = 0 if outcome.closed else 1
    if outcome.error is not None:
        status = 2 if isinstance(outcome.error, EmraError) else 1
        print(f"emra: {outcome.error}", file=sys.stderr)
    sys.stderr.flush()
    if not outcome.hung:
        # A thread that hangs may do so in a pipe that nobody reads, where this would block as well.
        sys.stdout.flush()
    os._exit(status)


class _Reporter:
    """Says what a stream does: lines of JSON on stdout, or changes of state on stderr and a summary on stdout.

    Results are reported by the working thread, the rest by the main one.
    """

    def __init__(self, stream: Stream, *, as_json: bool) -> None:
        self._stream = stream
        self._json = as_json
        self._seen = 0
        self._next_counters = time.monotonic() + COUNTERS_EVERY
        self._lock = threading.Lock()

    def result(self, result: StreamResult) -> None:
        """Report a frame."""
        if self._json:
            with self._lock:
                self._line({"event": "frame", **result.to_dict()})

    def tick(self) -> None:
        """Report changes of state, and the counters when it is time."""
        with self._may_print() as may:
            if may:
                self._report()

    def _report(self) -> None:
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

    def end(self, outcome: Outcome, overlay: str | None) -> None:
        """Report how it went."""
        with self._may_print() as may:
            if may:
                self._report()
                self._summary(outcome, overlay)

    def _summary(self, outcome: Outcome, overlay: str | None) -> None:
        from emra_deploy.stream.address import redact

        shown = None if overlay is None or not outcome.written else redact(overlay)
        status = outcome.status.to_dict()
        if self._json:
            self._line({"event": "end", **status, "overlay": shown, "written": outcome.written})
            return
        counts = ", ".join(f"{status[name]} {name}" for name in ("received", "delivered", "skipped", "dropped"))
        troubles = ("expired", "left", "damaged", "bad_packets", "stalls", "resizes", "hung", "restarts", "throttles")
        rest = "".join(f", {status[name]} {name.replace('_', ' ')}" for name in troubles if status[name])
        print(f"frames   {counts}{rest}")
        print(f"source   {status['connections']} connections of {status['attempts']} tries, {status['uptime']:.1f} s")
        if shown is not None:
            print(f"overlay  {shown}  ({outcome.written} frames)")

    @contextlib.contextmanager
    def _may_print(self) -> Iterator[bool]:
        """Whether the main thread may print: not while the other one is stuck in a pipe that nobody reads."""
        may = self._lock.acquire(timeout=_MOMENT)
        try:
            yield may
        finally:
            if may:
                self._lock.release()

    def _line(self, content: dict[str, Any]) -> None:
        print(json.dumps(content), flush=True)
