"""What belongs to the process that made it: a fork has no threads, and a GPU or socket only once."""

from __future__ import annotations

import os

from emra_deploy.errors import EmraError


class Owner:
    """Remembers the process that it is made in."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def check(self, what: str) -> None:
        """See that this is that process, as waiting for a thread that was left behind there never ends.

        Args:
            what: What is about to be used, with an article.

        Raises:
            EmraError: ``forked``.
        """
        if not self.here:
            raise EmraError(
                "forked",
                f"{what} was made in process {self._process} and is used in {os.getpid()}, a fork of it",
                "Make one in each process, after the fork, or start processes by spawn",
            )
