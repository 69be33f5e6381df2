"""Damaged files of any kind, and the outcome of reading one."""

from __future__ import annotations

import random
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from emra_deploy.errors import EmraError

REFUSED, SAME, ACCEPTED = "refused", "same", "accepted"
WRONG, ERROR, MEMORY, CRASH, HANG = "wrong", "error", "memory", "crash", "hang"
FAILURES = (WRONG, ERROR, MEMORY, CRASH, HANG)
"""Outcomes that count as failures."""


@dataclass(frozen=True)
class Case:
    """A damaged file, ready to be read.

    Attributes:
        path: The file given to the reader.
        damaged: The damaged file: this one or one beside it.
        original: The undamaged counterpart of ``path``.
        damage: Name of the damage.
        hostile: Whether an attacker could have made this: it carries no seal, or a correct one. Such a file may be
            accepted with other content, but it must do no harm.
    """

    path: Path
    damaged: Path
    original: Path
    damage: str
    hostile: bool


class Subject(ABC):
    """A kind of file: how its originals are made, damaged and read.

    Attributes:
        name: Shown in the scoreboard.
        share: Relative frequency among the cases of its group.
    """

    name: str
    share: float

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Write the originals into an empty folder. Called in one process, once."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read the originals, to compare with. Called in every worker.

        Raises:
            EmraError: An original cannot be read.
        """

    @abstractmethod
    def make(self, originals: Path, folder: Path, chance: random.Random) -> Case:
        """Damage an original into an empty folder."""

    @abstractmethod
    def read(self, case: Case) -> tuple[str, str]:
        """Read a damaged file; returns an outcome and a description.

        Raises:
            EmraError: It was refused.
        """


def outcome_of(subject: Subject, case: Case) -> tuple[str, str]:
    """The outcome of a case, and the error's code or a description of the failure."""
    try:
        return subject.read(case)
    except EmraError as error:
        return REFUSED, error.code
    except Exception:
        return ERROR, traceback.format_exc(limit=-6)


def pick(subjects: list[Subject], number: int, chance: random.Random) -> Subject:
    """A subject drawn by its share; subjects without shares take turns."""
    if not any(subject.share for subject in subjects):
        return subjects[number % len(subjects)]
    return chance.choices(subjects, [subject.share for subject in subjects])[0]
