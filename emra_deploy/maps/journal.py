"""The finished rows of a long map, kept beside its output, so that a killed job resumes where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.pictures.windows import Window

_log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
"""Longest stretch of work that a kill or a power cut can lose: rows count once they are on the disk."""

_REPLAY_BYTES = 16 * 2**20


class Journal:
    """Rows of labels, from the top, in a hidden folder beside the output.

    A journal belongs to one job: the same picture, model, settings and versions. That of another job is discarded.
    While a journal is open no other process can open it, so two jobs cannot write one output.

    Args:
        output: The job's output.
        job: Everything that decides what the labels are, as JSON values.
        height: Rows of the whole map.
        width: Columns of the whole map.

    Attributes:
        rows: Number of rows in it.

    Raises:
        EmraError: ``output-busy`` when another process writes this output, ``output-unwritable`` when no folder can
            be made there.
    """

    def __init__(self, output: Path, job: Mapping[str, Any], height: int, width: int) -> None:
        place = Path(os.path.realpath(output))
        self.folder = place.with_name(f".{place.name}.journal")
        self._height, self._width = height, width
        key = hashlib.sha256(json.dumps([job, height, width], sort_keys=True).encode()).hexdigest()
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = self._take_lock(output)
            self.rows = self._recover(key)
            self._stream: IO[bytes] = (self.folder / "labels").open("r+b")
            self._stream.truncate(self.rows * width)
            self._stream.seek(0, os.SEEK_END)
        except OSError as error:
            raise EmraError(
                "output-unwritable",
                f"no journal can be kept in {place.parent} ({error.strerror})",
                "Choose a folder that you may write to, or give --journal off",
                output,
            ) from error
        self._key = key
        self._synced = time.monotonic()
        if self.rows:
            _log.info("resuming at row %d of %d of %s", self.rows, height, output)

    def _take_lock(self, output: Path) -> IO[bytes]:
        lock = (self.folder / "lock").open("wb")
        # Some systems and network folders have no locks; everything else works without them.
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                raise EmraError(
                    "output-busy", "another process is writing this output", "Wait for it, or choose another", output
                ) from error
            except OSError:
                _log.debug("%s cannot be locked", self.folder)
        return lock

    def _recover(self, key: str) -> int:
        """Number of rows that can be kept; the file of labels exists afterwards."""
        state: Any = None
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        labels = self.folder / "labels"
        if isinstance(state, dict) and state.get("key") == key and labels.is_file():
            rows = state.get("rows")
            held = labels.stat().st_size // self._width
            if isinstance(rows, int) and 0 <= rows <= min(held, self._height):
                return rows
        elif state is not None:
            _log.info("the journal in %s belongs to another job; starting from the top", self.folder)
        labels.write_bytes(b"")
        (self.folder / "state.json").unlink(missing_ok=True)
        return 0

    def append(self, labels: npt.NDArray[np.uint8]) -> None:
        """Add the next rows: uint8 h×W.

        Raises:
            EmraError: ``output-write`` when the disk is full or fails.
        """
        try:
            self._stream.write(np.ascontiguousarray(labels).data)
            self.rows += labels.shape[0]
            if time.monotonic() - self._synced >= SYNC_SECONDS or self.rows == self._height:
                self.sync()
        except OSError as error:
            raise EmraError(
                "output-write",
                f"the journal cannot be written ({error.strerror})",
                "Make room on the disk, or give --journal off",
                self.folder,
            ) from error

    def sync(self) -> None:
        """Write the appended rows to the disk, then their number."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        fresh = self.folder / "state.json.new"
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump({"key": self._key, "rows": self.rows}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self.folder / "state.json")
        self._synced = time.monotonic()

    def replay(self) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """The rows from an earlier run, in windows of the picture's full width, from the top."""
        step = max(1, _REPLAY_BYTES // self._width)
        held = self.rows
        with (self.folder / "labels").open("rb") as stream:
            for top in range(0, held, step):
                count = min(step, held - top)
                data = stream.read(count * self._width)
                yield Window(top, 0, count, self._width), np.frombuffer(data, np.uint8).reshape(count, self._width)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(done=kind is None)

    def resume(
        self, run: Callable[[int], Iterator[tuple[Window, npt.NDArray[np.uint8]]]]
    ) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """All rows of the map: those of an earlier run, then those of ``run``, called with the first one missing."""
        yield from self.replay()
        for window, labels in run(self.rows):
            self.append(labels)
            yield window, labels

    def close(self, done: bool) -> None:
        """Close it, and remove it when the job is done or has no rows; an unfinished one keeps its last rows."""
        with contextlib.suppress(OSError):
            if not done and self.rows:
                self.sync()
        self._stream.close()
        if done or not self.rows:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
