"""Steps that take long: they are reported, so that no program passes for hung, and the command line can end them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

PATIENCE = 10.0
"""Seconds that a step may take in silence."""

unanswered: Callable[[], AbstractContextManager[None]] = nullcontext
"""Entered around calls that keep all of Python waiting, also its handlers of signals; `emra_deploy.cli` sets it."""

_log = logging.getLogger(__name__)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Log what is done, at INFO; and at WARNING that it is still going on, after `PATIENCE` and then ever more rarely.

    Args:
        what: Such as ``"loading model.onnx"``.
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
