"""The one error family of the toolkit.

Every bad input that a user can give ends here: what was received, what was expected, and what to do about it.
The command line prints one of these on one line and exits with status 2; anything else is a bug, with its traceback.
"""

from __future__ import annotations

import os


class EmraError(Exception):
    """A mistake the user can mend.

    Attributes:
        code: Stable kebab-case word for programs to match on, such as ``"image-truncated"``.
        cause: What was received and what was expected, one sentence without a full stop.
        remedy: What to do about it, one sentence without a full stop.
        path: The file or folder at fault, or None.
    """

    def __init__(self, code: str, cause: str, remedy: str, path: str | os.PathLike[str] | None = None) -> None:
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
