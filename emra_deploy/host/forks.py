"""Ownership by one process: a fork inherits no threads, and cannot share a GPU or socket."""

from __future__ import annotations

import os

from emra_deploy.errors import EmraError


class Owner:
    """The process that created it."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        """Whether the current process is the owner."""
        return os.getpid() == self._process

    def check(self, what: str) -> None:
        """Check that the current process is the owner: in a fork, waiting for the owner's threads would never end.

        Args:
            what: The object about to be used, with an article.

        Raises:
            EmraError: ``forked``.
        """
        if not self.here:
            raise EmraError(
                "forked",
                f"{what} was made in process {self._process} and is used in {os.getpid()}, a fork of it",
                "Make one in each process, after the fork, or start processes by spawn",
            )
