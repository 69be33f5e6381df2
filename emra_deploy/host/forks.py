"""Ownership by one process, until it is closed: a fork inherits no threads, and cannot share a GPU or socket."""

from __future__ import annotations

import os

from emra_deploy.errors import EmraError


class Owner:
    """The process that created an object, and whether it closed the object."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._closed = False

    @property
    def here(self) -> bool:
        """Whether the current process is the owner."""
        return os.getpid() == self._process

    def release(self) -> bool:
        """Note that the object is closed.

        Returns:
            Whether its resources are to be freed now: not in a fork, and not the second time.
        """
        first = self.here and not self._closed
        self._closed = self._closed or first
        return first

    def check(self, what: str, path: str | os.PathLike[str] | None = None) -> None:
        """Check that the object is open, and that of this process: waiting for threads of another would never end.

        Args:
            what: The object about to be used, with an article.
            path: Its file.

        Raises:
            EmraError: ``forked``, ``closed``.
        """
        if not self.here:
            raise EmraError(
                "forked",
                f"{what} was made in process {self._process} and is used in {os.getpid()}, a fork of it",
                "Make one in each process, after the fork, or start processes by spawn",
                path,
            )
        if self._closed:
            raise EmraError(
                "closed",
                f"{what} is closed",
                "Use it inside its with block, or open another",
                path,
            )
