"""The one error family of the toolkit.

Every bad input that a user can give ends here: what was received, what was expected, and what to do about it.
The command line prints one of these on one line and exits with status 2; anything else is a bug, with its traceback.

The code is the finest distinction, and decides the class: ``EmraError("output-exists", ...)`` makes an `OutputError`,
as the catalogue in `emra_deploy.errors.codes` says. There is a class for each different reaction of a caller: correct
the call (`OptionError`), skip the picture (`InputError`), choose another place (`OutputError`), restore or export the
model again (`ModelFileError`), fall back to another backend (`BackendMissingError`), use less memory or another machine
(`DeviceError`), reject the model (`AccuracyError`), try again (`StoppedError`), report it (`BugError`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from emra_deploy.errors.codes import CODES

_Path: TypeAlias = "str | os.PathLike[str] | None"


class EmraError(Exception):
    """A failure whose cause is known: a mistake the user can mend, or a fault to report.

    Made with a code of the catalogue, it is of that code's subclass; with any other code, of this class.

    Attributes:
        code: Stable kebab-case word for programs to match on, such as ``"image-truncated"``.
        cause: What was received and what was expected, one sentence without a full stop.
        remedy: What to do about it, one sentence without a full stop.
        path: The file or folder at fault, or None.
    """

    def __new__(cls, code: str, cause: str, remedy: str, path: _Path = None) -> EmraError:
        known = CODES.get(code) if cls is EmraError else None
        return super().__new__(cls if known is None else KINDS[known.kind])

    def __init__(self, code: str, cause: str, remedy: str, path: _Path = None) -> None:
        self.code = code
        self.cause = cause
        self.remedy = remedy
        self.path = None if path is None else os.fspath(path)
        super().__init__(code, cause, remedy, self.path)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.cause}. {self.remedy}. [{self.code}]"

    def to_dict(self) -> dict[str, str | None]:
        """The four fields, for ``--json`` output."""
        return {"code": self.code, "cause": self.cause, "remedy": self.remedy, "path": self.path}


class OptionError(EmraError):
    """An argument, option or setting, or a combination of them, that is invalid or does not suit the model."""


class InputError(EmraError):
    """A picture, array, video, camera or data set that is missing, damaged or of a kind that cannot be read."""


class OutputError(EmraError):
    """An output that cannot be written, or may not be replaced."""


class ModelFileError(EmraError):
    """A model, engine or checkpoint that is missing or damaged, or does not fit the machine or the data."""


class BackendMissingError(EmraError):
    """A backend, plugin or other library that is not installed, does not load, or has an unsuitable version."""


class DeviceError(EmraError):
    """A GPU, driver or memory that is missing, insufficient or failing."""


class AccuracyError(EmraError):
    """A result that was measured and is not good enough: labels, precision or numbers that are not finite."""


class StoppedError(EmraError):
    """Work that was ended from outside before it was done. Ctrl-C remains `KeyboardInterrupt`."""


class BugError(EmraError):
    """A step of the toolkit that failed although its input was accepted: report it with the message."""


KINDS: dict[str, type[EmraError]] = {
    kind.__name__: kind
    for kind in (
        OptionError,
        InputError,
        OutputError,
        ModelFileError,
        BackendMissingError,
        DeviceError,
        AccuracyError,
        StoppedError,
        BugError,
    )
}
"""The subclasses by name."""


@contextmanager
def about(path: _Path) -> Iterator[None]:
    """Context that names a file in the errors of checks that see only values of it."""
    try:
        yield
    except EmraError as error:
        raise EmraError(error.code, error.cause, error.remedy, path) from error


def one_line(error: object, limit: int = 300) -> str:
    """The text of another library's error on one line, at most ``limit`` characters of it."""
    return " ".join(str(error).split())[:limit]
