"""Checks of inputs and outputs, and atomic outputs: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from emra_deploy.errors import EmraError
from emra_deploy.host.unfinished import begin, end

_notes: list[list[str]] = []
"""Outputs that were completed inside `noted_outputs`, one list for each block."""


def check_input(path: str | os.PathLike[str]) -> Path:
    """The path of an existing regular file.

    Only local files are read: a name such as ``/vsicurl/https://...`` or ``zip://a.zip!b.tif`` is looked up as a file
    of that name, and is not found.

    Raises:
        EmraError: ``input-missing``, ``input-is-folder``, ``input-unreadable``.
    """
    found = Path(path)
    mode = _mode(path, "input-unreadable")
    if mode is None:
        raise EmraError(
            "input-missing", "no such file on this machine", "Check the spelling; remote names are not read", path
        )
    if stat.S_ISDIR(mode):
        raise EmraError("input-is-folder", "a folder was given, expected one image file", "Name a file in it", path)
    if not stat.S_ISREG(mode):
        raise EmraError("input-unreadable", "neither a file nor a folder", "Give a regular file", path)
    if not os.access(found, os.R_OK):
        raise EmraError("input-unreadable", "you may not read this file", "Change its permissions", path)
    return found


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str]] = ()
) -> Path:
    """The path that an output will be written to, with symbolic links resolved.

    Args:
        path: Output file.
        overwrite: Whether an existing file may be replaced.
        inputs: Files that the output must not replace, whatever ``overwrite`` says.

    Raises:
        EmraError: ``output-is-folder``, ``output-is-input``, ``output-exists``, ``output-folder-missing``,
            ``output-unwritable``.
    """
    place = Path(os.path.realpath(path))
    mode = _mode(place, "output-unwritable")
    if mode is not None and stat.S_ISDIR(mode):
        raise EmraError("output-is-folder", "the output is a folder, expected a file name", "Add a file name", path)
    for source in inputs:
        if os.path.realpath(source) == str(place) or (mode is not None and _same_file(place, source)):
            raise EmraError("output-is-input", "the output is the same file as an input", "Choose another name", path)
    if not place.parent.is_dir():
        raise EmraError("output-folder-missing", f"there is no folder {place.parent}", "Make the folder first", path)
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise EmraError(
            "output-unwritable",
            f"no file can be made in {place.parent}",
            "Choose a folder that you may write to",
            path,
        )
    if mode is not None:
        if not stat.S_ISREG(mode):
            raise EmraError("output-unwritable", "the output is not a regular file", "Choose a file name", path)
        if not overwrite:
            raise EmraError(
                "output-exists", "the output exists already", "Choose another name or give --overwrite", path
            )
    return place


def instead_of_file(path: Path) -> str:
    """The reason why a path is not a readable file, in the words of an error: ``"does not exist"``."""
    if path.is_dir():
        return "is a folder"
    return "is not a regular file" if os.path.lexists(path) and not path.is_symlink() else "does not exist"


def check_all_outputs(
    paths: Iterable[str | os.PathLike[str] | None],
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Check that all outputs of a command can be written and are different files.

    Args:
        paths: Output files; None and empty names are skipped.
        overwrite: Whether existing files may be replaced.
        inputs: Files that no output may replace.

    Raises:
        EmraError: As `check_output`.
    """
    kept, places = list(inputs), set()
    for path in paths:
        if not path:
            continue
        place = check_output(path, overwrite=overwrite, inputs=kept)
        if place in places:
            raise EmraError("output-is-input", "two outputs are the same file", "Give each a name of its own", path)
        places.add(place)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        EmraError: ``output-unwritable``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        reason = "it is not writable"
    except OSError as error:
        writable, reason = False, str(error.strerror)
    if not writable:
        raise EmraError(
            "output-unwritable",
            f"the output folder cannot be used: {reason}",
            "Give another output folder, or correct its permissions",
            folder,
        )


@contextlib.contextmanager
def noted_outputs() -> Iterator[list[str]]:
    """Context that gives a list of the outputs that `atomic_output` completes in it, as their users named them.

    Of contexts in each other the inner one notes.
    """
    noted: list[str] = []
    _notes.append(noted)
    try:
        yield noted
    finally:
        _notes[:] = [one for one in _notes if one is not noted]


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Context that writes a temporary file in the output's folder and renames it to the output when the block succeeds.

    The data reach the disk before the name does, so a crash at any point leaves the old output, none, or a complete
    one. A block that raises leaves no file; what a killed process leaves goes when the same output is written again.

    Args:
        path: Output file.
        overwrite: Whether an existing file may be replaced.

    Yields:
        An empty file with the suffix of ``path``.

    Raises:
        EmraError: Those of `check_output`; ``output-unwritable`` when no file can be created in the folder;
            ``output-write`` when the disk is full or fails.
    """
    place = check_output(path, overwrite=overwrite)
    try:
        part = begin(place)
    except OSError as error:
        raise EmraError(
            "output-unwritable",
            f"no file can be made in {place.parent} ({error.strerror})",
            "Choose a folder that you may write to",
            path,
        ) from error
    try:
        with writing(path):
            yield part
        try:
            with part.open("rb+") as stream:
                os.fsync(stream.fileno())
            _publish(part, place, path, overwrite)
        except OSError as error:
            raise _write_error(error, path) from error
        _sync_folder(place.parent)
        if _notes:
            _notes[-1].append(os.fspath(path))
    finally:
        end(part)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Context that turns errors of a full or failing disk into one that names the output.

    Args:
        path: The output, not its temporary file.

    Raises:
        EmraError: ``output-write``.
    """
    try:
        yield
    except OSError as error:
        # Other errors come from inputs, or are bugs.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            raise
        raise _write_error(error, path) from error


def _write_error(error: OSError, path: str | os.PathLike[str]) -> EmraError:
    return EmraError(
        "output-write", f"writing failed ({error.strerror})", "Make room on the disk or choose another", path
    )


def _mode(path: str | os.PathLike[str], code: str) -> int | None:
    """The file mode at a path, or None if there is none."""
    try:
        return Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EmraError(
            code, f"the name cannot be used ({error.strerror})", "Check it, and the permissions of its folders", path
        ) from error


def _publish(part: Path, place: Path, path: str | os.PathLike[str], overwrite: bool) -> None:
    if overwrite:
        part.replace(place)
        return
    try:
        # Linking fails if the name exists, so a file that appeared since the check is kept; renaming would replace it.
        os.link(part, place)
    except FileExistsError as error:
        raise EmraError(
            "output-exists", "the output appeared meanwhile", "Choose another name or give --overwrite", path
        ) from error
    except OSError:
        # FAT and some network file systems have no hard links.
        check_output(path, overwrite=False)
        part.replace(place)


def _same_file(first: Path, second: str | os.PathLike[str]) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot open or sync a folder; renaming is still atomic there.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
