"""Readers that fail on purpose, one in each way: proof that the scoreboard can show failures."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from tests.reliability.cases import CRASH, ERROR, HANG, MEMORY, SAME, WRONG, Case, Subject


class PlantedSubject(Subject):
    """Fails in one way.

    Args:
        outcome: The outcome that it must be counted as.
    """

    share = 0.0

    def __init__(self, outcome: str) -> None:
        self.name = outcome

    def prepare(self, folder: Path) -> None:
        """Write a file."""
        (folder / "a.txt").write_text("a")

    def load(self, folder: Path) -> None:
        """Nothing to compare with."""

    def make(self, originals: Path, folder: Path, chance: random.Random) -> Case:
        """Copy the file."""
        path = folder / "a.txt"
        path.write_bytes((originals / "a.txt").read_bytes())
        return Case(path, path, originals / "a.txt", "none", hostile=False)

    def read(self, case: Case) -> tuple[str, str]:
        """Fail."""
        if self.name == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.name == HANG:
            time.sleep(3600)
        elif self.name == ERROR:
            raise ValueError("planted")
        elif self.name == MEMORY:
            np.ones(300 * 2**20, np.uint8)
        return (WRONG, "planted") if self.name == WRONG else (SAME, "planted")


def subjects() -> list[Subject]:
    """One for each way to fail, and one that does not."""
    return [PlantedSubject(outcome) for outcome in (CRASH, HANG, ERROR, MEMORY, WRONG, SAME)]
