"""Signals that end the process within two seconds, even while a library call blocks the main thread."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from emra_deploy.host import slow_steps
from emra_deploy.host.unfinished import remove_unfinished

PATIENCE = 1.5
"""Seconds for the main thread to end the process itself, which it does unless a library call lasts longer."""

INTERRUPTED = "emra: interrupted; no output was changed"


def answer_signals() -> None:
    """Make SIGTERM and SIGHUP end the process cleanly, as Ctrl-C does; nohup stays in force."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
    slow_steps.unanswered = _at_once
    if os.name != "posix":
        return
    # Python runs handlers in the main thread, between bytecode instructions; the wake-up descriptor is written at once.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), name="emra-signals", daemon=True).start()


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    """End the process if the main thread does not. Holding ``writer`` keeps it open."""
    while numbers := reader.recv(1):
        number = numbers[0]
        # `emra stream` has its own handlers and time limits.
        if signal.getsignal(number) not in _OURS:
            continue
        time.sleep(PATIENCE)
        remove_unfinished()
        if number == signal.SIGINT and sys.__stderr__ is not None:
            print(INTERRUPTED, file=sys.__stderr__, flush=True)
        os._exit(128 + number)


@contextmanager
def _at_once() -> Iterator[None]:
    """Restore the system's handling: neither the main thread nor `_watch` runs during such a call."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names if hasattr(signal, name)}
    ours = {number: handler for number, handler in before.items() if handler in _OURS}
    for number in ours:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


_OURS = (_terminate, signal.default_int_handler)
"""Signals whose handlers may be replaced; custom handlers are kept."""
