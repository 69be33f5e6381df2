"""A backend in a separate process, which is replaced when it crashes, hangs or loses its GPU.

After an illegal memory access, a process cannot use CUDA again, and a crash in a library ends the whole process. In a
separate process neither ends the program: a new process repeats the current batch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.providers import PROVIDERS
from emra_deploy.backends.shared_memory import place
from emra_deploy.backends.tensorrt.gpu_errors import LOST
from emra_deploy.errors import EmraError
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.manifest import Manifest

RUN_PATIENCE = 300.0
"""Seconds without an answer to a batch after which the process counts as hung."""

OPEN_PATIENCE = 3600.0
"""Seconds for loading a model; some providers build an engine in this time."""

MOST_LOSSES = 3
"""Processes that may be lost in a row without completing a batch."""

_CODE = "import sys; sys.path[:] = {path!r}; from emra_deploy.backends.worker import main; main({socket}, {memory})"
_log = logging.getLogger(__name__)


class _LostError(Exception):
    """The process has ended or can no longer be used."""


class IsolatedBackend:
    """Runs a model file in another process. Threads take turns.

    Args:
        path: The model file.
        options: Options with which the other process opens it.
        patience: Time limit of a batch, seconds.

    Raises:
        EmraError: ``isolate`` on a system that cannot; ``worker-lost`` when the process ends while it loads the model;
            and those of the backend.
    """

    def __init__(self, path: str | os.PathLike[str], options: LoadOptions, patience: float = RUN_PATIENCE) -> None:
        if os.name != "posix":
            raise EmraError("isolate", "a model cannot be run in a process of its own on this system", "Leave it out")
        self._path, self._patience = path, patience
        self._options = replace(options, isolate=False)
        self._lock, self._owner = threading.Lock(), Owner()
        self._memory = _make_memory()
        self._size, self._losses, self._restarts = 0, 0, 0
        self._waiting = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        try:
            answer = self._start()
        except _LostError as error:
            self.close()
            raise self._gone(f"while it loaded the model: {error}") from error
        except BaseException:
            self.close()
            raise
        self.manifest = Manifest.from_json(answer["manifest"])
        self.name = str(answer["name"])
        if options.backend == "auto":
            # The next process must use the same backend: a lost GPU is an error, not a reason to continue slowly.
            chosen = "tensorrt" if self.name.startswith("tensorrt") else self.name
            builds = chosen in PROVIDERS and PROVIDERS[chosen].builder
            cache = options.engine_cache if builds else None
            self._options = replace(self._options, backend=chosen, engine_cache=cache)
        batch, height, width = answer["input_shape"]
        self._shape: tuple[int | None, int, int] = (batch, height, width)
        self._facts: dict[str, str] = answer["facts"]

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Batch (None when any will do), height and width of the model's input."""
        return self._shape

    @property
    def restarts(self) -> int:
        """Number of processes replaced so far."""
        return self._restarts

    @property
    def process(self) -> int | None:
        """The process ID, None while none is running."""
        return None if self._process is None else self._process.pid

    def describe(self) -> dict[str, str]:
        """The description given by the backend in the process, marked as isolated."""
        return {**self._facts, "isolated": "yes"}

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch; see `Backend.run`.

        Raises:
            EmraError: ``forked``; ``worker-lost`` when two processes in a row were lost with this batch, or too many in
                all; and those of the backend.
        """
        check_batch(batch, self._shape)
        self._owner.check("the isolated model")
        with self._lock:
            self._owner.check("the isolated model", self._path)
            if self._waiting:
                # The last run was interrupted, perhaps by Ctrl-C; its answer must not be taken for this one's.
                self._kill()
            for _ in range(2):
                if self._losses >= MOST_LOSSES:
                    break
                try:
                    if self._process is None:
                        self._start()
                        self._restarts += 1
                    outputs = self._exchange(batch)
                except _LostError as error:
                    self._losses += 1
                    reason = str(error)
                    _log.warning("the process that runs the model is replaced: %s", reason)
                    self._kill()
                else:
                    self._losses = 0
                    return outputs
            else:
                raise self._gone(f"twice with the same batch: {reason}")
        raise self._gone(f"{self._losses} times in a row; it is not started again")

    def close(self) -> None:
        """End the process. In a fork this does nothing."""
        if not self._owner.release():
            return
        with self._lock:
            self._kill()
            os.close(self._memory)

    def _start(self) -> dict[str, Any]:
        mine, its = socket.socketpair()
        with its:
            code = _CODE.format(path=sys.path, socket=its.fileno(), memory=self._memory)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(), self._memory),
                # Only this process handles Ctrl-C; the other finishes its current batch.
                start_new_session=True,
            )
        self._connection = Connection(mine.detach())
        level = logging.getLogger("emra_deploy").getEffectiveLevel()
        asked = {"path": os.fspath(self._path), "options": asdict(self._options), "log": level}
        return self._ask(asked, OPEN_PATIENCE)

    def _exchange(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        size = self._space(len(batch))
        if size > self._size:
            os.ftruncate(self._memory, size)
            self._size = size
        # Unmapped with the last array that refers to it, which an error's traceback may keep alive for a while.
        space: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(self._memory, size), np.uint8)
        space[: batch.nbytes].reshape(batch.shape)[:] = batch
        answer = self._ask({"count": len(batch), "size": size}, self._patience)
        found: Outputs = {}
        for name, dtype, shape, offset in answer["outputs"]:
            kind = np.dtype(dtype)
            length = int(np.prod(shape)) * kind.itemsize
            found[name] = space[offset : offset + length].view(kind).reshape(shape).copy()
        return found

    def _space(self, count: int) -> int:
        """Bytes of a batch and all possible outputs for it."""
        pixels = count * self._shape[1] * self._shape[2]
        classes = len(self.manifest.classes)
        return place([3 * pixels, pixels, 4 * classes * pixels, 4 * pixels])[-1]

    def _ask(self, what: dict[str, Any], patience: float) -> dict[str, Any]:
        assert self._connection is not None
        self._waiting = True
        try:
            self._connection.send_bytes(json.dumps(what).encode())
            if not self._connection.poll(patience):
                raise _LostError(f"no answer within {patience:g} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise _LostError(self._how_it_ended()) from error
        self._waiting = False
        if "bug" in answer:
            raise RuntimeError(f"in the process that runs the model:\n{answer['bug']}")
        if "error" in answer:
            failure = EmraError(**answer["error"])
            if failure.code == LOST:
                raise _LostError(failure.cause) from failure
            raise failure
        return answer

    def _how_it_ended(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(5.0)
            if status < 0:
                with contextlib.suppress(ValueError):
                    return f"it was ended by {signal.Signals(-status).name}"
            return f"it ended with status {status}"
        return "it does not answer any more"

    def _kill(self) -> None:
        self._waiting = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            # A process that is stuck in a kernel driver cannot be killed: leave it to the system.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)
            self._process = None

    def _gone(self, when: str) -> EmraError:
        return EmraError(
            "worker-lost",
            f"The process that runs the model was lost {when}",
            "See dmesg for what the driver says; leave --isolate out to see where it ends, or use another --backend",
            self._path,
        )


def _make_memory() -> int:
    """Descriptor of anonymous shared memory, freed with the last process that has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("emra-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
