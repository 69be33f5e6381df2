"""Temporary files of outputs that are being written, and the removal of those that killed processes left.

All files of one unfinished output begin with the same hidden name. Locks tell whether their process lives: the system
releases them however a process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from pathlib import Path

_held: dict[Path, list[int]] = {}
"""Temporary files of this process, and the open files that hold their locks."""


def begin(place: Path) -> Path:
    """Make the temporary file of an output, in its folder; other files whose names begin as its own belong to it.

    What killed processes left of the same output is removed. Where the system has no locks nothing is.

    Args:
        place: The output, with links resolved; the temporary file has its suffix.

    Raises:
        OSError: No file can be made in the folder.
    """
    stem = f".{place.stem[:40]}."
    _remove_abandoned(place.parent, stem)
    while True:
        part = place.with_name(f"{stem}{secrets.token_hex(6)}.part{place.suffix}")
        # Not mkstemp: its mode 0600 would ignore the umask.
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        # Another process that looks for abandoned files may have met this one before it was locked.
        if _lock(handle) is not False and part.exists():
            _held[part] = [handle]
            return part
        os.close(handle)


def hold(part: Path) -> None:
    """Lock a name beside a temporary file that its writer will delete and make again, with the lock of the first."""
    if part in _held:
        handle = os.open(part.with_name(f"{part.stem}.lock"), os.O_CREAT | os.O_RDWR, 0o666)
        _lock(handle)
        _held[part].append(handle)


def end(part: Path) -> None:
    """Delete a temporary file, unless it has got its name, and those that belong to it."""
    try:
        _remove(_files(part.parent, part.stem))
    finally:
        for handle in _held.pop(part, ()):
            os.close(handle)


def remove_unfinished() -> None:
    """Delete the temporary files of unfinished outputs, before a process ends at once."""
    for part in tuple(_held):
        with contextlib.suppress(OSError):
            end(part)


def _lock(handle: int) -> bool | None:
    """Whether nobody else has the lock; None where the system or the folder knows no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(folder: Path, stem: str) -> None:
    pattern = re.compile(re.escape(stem) + r"[0-9a-f]{12}\.part")
    with contextlib.suppress(OSError):
        for start in {found[0] for entry in os.scandir(folder) if (found := pattern.match(entry.name))}:
            files, handles = _files(folder, start), []
            try:
                for path in files:
                    handles.append(os.open(path, os.O_RDWR))
                if all(_lock(handle) for handle in handles):
                    _remove(files)
            finally:
                for handle in handles:
                    os.close(handle)


def _files(folder: Path, start: str) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [Path(entry) for entry in os.scandir(folder) if entry.name.startswith(start)]
    return []


def _remove(files: list[Path]) -> None:
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
