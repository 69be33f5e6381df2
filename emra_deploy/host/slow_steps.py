"""Reports of slow steps, so that a program does not seem hung, and a hook by which the command line can end them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

PATIENCE = 10.0
"""Seconds after which a running step is reported."""

unanswered: Callable[[], AbstractContextManager[None]] = nullcontext
"""Context for calls that block Python, including its signal handlers; `emra_deploy.cli` sets it."""

_log = logging.getLogger(__name__)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Log a step at INFO, and at WARNING while it is still running: after `PATIENCE`, then at doubling intervals.

    Args:
        what: The step, such as ``"loading model.onnx"``.
    """
    _log.info("%s", what)
    begun, done = time.monotonic(), threading.Event()

    def watch() -> None:
        pause = PATIENCE
        while not done.wait(pause):
            _log.warning("still %s, for %.0f s so far", what, time.monotonic() - begun)
            pause *= 2

    threading.Thread(target=watch, name="emra-step", daemon=True).start()
    try:
        yield
    finally:
        done.set()
