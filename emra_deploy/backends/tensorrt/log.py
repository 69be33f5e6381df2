"""TensorRT's messages, collected instead of printed, for errors and for facts that only they contain."""

from __future__ import annotations

import logging
import re
from typing import Any

_log = logging.getLogger("emra_deploy.backends.tensorrt.tensorrt")

_LAYERS = re.compile(r"^(?:Engine Layer Information|Layers):\s*$", re.MULTILINE)
_SIZES = {
    "activations": re.compile(r"^Total Activation Memory: (\d+) bytes"),
    "weights": re.compile(r"^Total Weights Memory: (\d+) bytes"),
}


class Messages:
    """The messages of the library.

    Attributes:
        errors: Its errors, one line each.
        warnings: Its warnings, one line each.
        layers: The builder's list of the engine's layers, one per line; empty without one.
        sizes: Bytes of ``"activations"`` and ``"weights"``, if the builder reported them.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers: list[str] = []
        self.sizes: dict[str, int] = {}

    def take(self, level: int, text: str) -> None:
        """Take one message.

        Args:
            level: A level of `logging`.
            text: The message, one or more lines.
        """
        lines = text.splitlines()
        if not lines:
            return
        if level >= logging.ERROR:
            self.errors.append(lines[0])
        elif level >= logging.WARNING:
            self.warnings.append(lines[0])
        heading = _LAYERS.search(text)
        if heading is not None:
            self.layers += [line for line in text[heading.end() :].splitlines() if line.strip()]
        for name, pattern in _SIZES.items():
            found = pattern.match(text)
            if found is not None:
                self.sizes[name] = int(found.group(1))
        _log.log(min(level, logging.INFO), "%s", text)

    def forget(self) -> None:
        """Discard errors and warnings."""
        self.errors.clear()
        self.warnings.clear()

    def reason(self) -> str:
        """The last errors in one line, for an `EmraError`."""
        # Without a GPU the library repeats this error, which is not the cause.
        causes = [error for error in self.errors if "cudaError 35" not in error] or self.errors
        return "; ".join(causes[-3:])[:600] or "it gave no reason"


def make_logger(trt: Any, messages: Messages) -> Any:
    """An instance of the library's logger class that passes every message to ``messages``."""
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        """The logger; its base class exists only once the library is loaded."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.take(levels.get(severity, logging.DEBUG), msg)

    return Logger()
