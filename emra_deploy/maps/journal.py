"""What a long job has done so far, kept beside its output, so that a job that was killed goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy._version import __version__
from emra_deploy.errors import EmraError
from emra_deploy.host.digest import file_sha256
from emra_deploy.pictures.windows import Window

if TYPE_CHECKING:
    from emra_deploy.pictures.scaling import Scale
    from emra_deploy.segmenting.segmenter import Segmenter

_log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
"""Longest stretch of work that a kill or a power cut undoes: rows count once they are on the disk."""

_REPLAY_BYTES = 16 * 2**20


def describe_job(
    input: str | os.PathLike[str],
    model: str | os.PathLike[str],
    segmenter: Segmenter,
    bands: Sequence[int] | None,
    scale: Scale | None,
    factor: float,
) -> dict[str, Any]:
    """Everything that decides what the labels of a map are, as JSON values."""
    file = Path(input).stat()
    return {
        "input": [os.path.realpath(input), file.st_size, file.st_mtime_ns],
        "model": file_sha256(model),
        "backend": segmenter.backend.describe(),
        "batch": segmenter.batch_size,
        "halo": segmenter.halo,
        "blend": segmenter.blend,
        "bands": None if bands is None else list(bands),
        "scale": None if scale is None else [scale.low, scale.high],
        "factor": factor,
        "emra-deploy": __version__,
    }


class Journal:
    """Rows of labels, from the top, in a hidden folder beside the output.

    A journal belongs to one job: the same picture, model, settings and versions. One of another job is thrown away.
    While it is open no other process can open it, so two jobs cannot write one output.

    Args:
        output: The job's output.
        job: Everything that decides what the labels are, as JSON values.
        height: Rows of the whole map.
        width: Columns of the whole map.

    Attributes:
        rows: Rows that it holds.

    Raises:
        EmraError: ``output-busy`` when another process works on this output, ``output-unwritable`` when no folder can
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
            _log.info("going on at row %d of %d of %s", self.rows, height, output)

    def _take_lock(self, output: Path) -> IO[bytes]:
        lock = (self.folder / "lock").open("wb")
        # Not on every system, and not on every network folder; without it all else still works.
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
        """Rows that can be kept; there is a file of labels afterwards."""
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
            _log.info("the journal in %s is of another job; starting again", self.folder)
        labels.write_bytes(b"")
        (self.folder / "state.json").unlink(missing_ok=True)
        return 0

    def append(self, labels: npt.NDArray[np.uint8]) -> None:
        """Take the next rows: uint8 h×W.

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
        """Put on the disk what was appended, then the number of its rows."""
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
        """The rows it held when it was opened, in windows of the picture's full width, from the top."""
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

    def go_on(
        self, run: Callable[[int], Iterator[tuple[Window, npt.NDArray[np.uint8]]]]
    ) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """All rows of the map: those that it holds, then what ``run`` gives from there on, which it keeps."""
        yield from self.replay()
        for window, labels in run(self.rows):
            self.append(labels)
            yield window, labels

    def close(self, done: bool) -> None:
        """Let go of it, and remove it when the job is done; an unfinished one keeps its last rows."""
        with contextlib.suppress(OSError):
            if not done and self.rows:
                self.sync()
        self._stream.close()
        if done:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
