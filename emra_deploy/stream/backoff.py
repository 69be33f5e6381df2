"""How long to wait before the next try to reconnect."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

FIRST = 0.1
"""Seconds before the first new try."""

SHORT_OUTAGE_CAP = 0.2
"""Longest wait in seconds while the outage is young. Connecting and the first key frame take a third of a second and
more, and the picture shall be back within one after its sender."""

OUTAGE_SHARE = 40
"""Later, waits may grow to this part of the outage: who was away for an hour can wait some seconds more."""

CAP = 10.0
"""Longest wait in seconds of all."""


@dataclass
class Backoff:
    """Waits that double from try to try, with jitter, bounded by the length of the outage.

    The jitter takes up to half of the wait away ("equal jitter"), so that a hundred receivers of one server
    that came back do not all return in the same moment.

    Attributes:
        random: Where the jitter comes from.
    """

    random: random.Random = field(default_factory=random.Random)
    _tries: int = 0

    def reset(self) -> None:
        """The connection is good: the next outage starts from the shortest wait."""
        self._tries = 0

    def next_wait(self, outage: float) -> float:
        """Seconds to wait now.

        Args:
            outage: Seconds since the last frame, or since the start.
        """
        cap = min(CAP, max(SHORT_OUTAGE_CAP, outage / OUTAGE_SHARE))
        # The exponent is bounded, because 2.0**1024 is an error after a night of tries.
        wait = min(cap, FIRST * 2.0 ** min(self._tries, 16))
        self._tries += 1
        return wait * self.random.uniform(0.5, 1.0)
